//! `[external]`.

use core::time::Duration;

use super::{MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
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

/// Name servers and STUN servers are others'.
const SHORTEST: Duration = Duration::from_secs(5);

/// Reports an address that would be looked for too often.
pub(in crate::config) fn check(external: &RawExternal, d: &mut Diagnostics) {
    if let OffOr(Some(recheck)) = external.recheck.value
        && recheck < SHORTEST
    {
        let diagnostic = Diagnostic::error("`external.recheck` is shorter than 5s").at(external.recheck.place);
        d.push(diagnostic.help("the default is \"1m\"; \"off\" looks again at a reload only"));
    }
}
