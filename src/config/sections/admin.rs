//! `[admin]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{OffOr, Placed};

/// Where the operator's listener is unless told otherwise: in no registry, and in no list of metrics exporters.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 13_478);

pub(in crate::config) struct RawAdmin {
    pub(in crate::config) address: Located<OffOr<SocketAddr>>,
    pub(in crate::config) hosts: Located<Vec<Placed<String>>>,
    pub(in crate::config) api: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawAdmin {
    RawAdmin {
        address: s.value("address", OffOr(Some(DEFAULT_ADMIN))),
        hosts: s.value("hosts", Vec::new()),
        api: s.value("api", true),
    }
}
