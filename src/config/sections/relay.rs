//! `[relay]`.

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Host, Ports};

pub(in crate::config) struct RawRelay {
    pub(in crate::config) ipv4: Located<Auto<Host>>,
    pub(in crate::config) ipv6: Located<Auto<Host>>,
    pub(in crate::config) ports: Located<Ports>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawRelay {
    RawRelay {
        ipv4: s.value("ipv4", Auto::Auto),
        ipv6: s.value("ipv6", Auto::Auto),
        ports: s.value("ports", Ports(49_152..=65_535)),
    }
}
