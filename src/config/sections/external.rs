//! `[external]`.

use core::time::Duration;

use super::{MINUTE, SECOND};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, External, OffOr, Ports};

pub(in crate::config) struct RawExternal {
    pub(in crate::config) ipv4: Located<External>,
    pub(in crate::config) ipv6: Located<External>,
    pub(in crate::config) ports: Located<Auto<Ports>>,
    pub(in crate::config) recheck: Located<OffOr<Duration>>,
    pub(in crate::config) stun_timeout: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawExternal {
    RawExternal {
        ipv4: s.value("ipv4", External::Auto),
        ipv6: s.value("ipv6", External::Auto),
        ports: s.value("ports", Auto::Auto),
        recheck: s.value("recheck", OffOr(Some(MINUTE))),
        stun_timeout: s.within("stun_timeout", 3 * SECOND, SECOND..=MINUTE),
    }
}
