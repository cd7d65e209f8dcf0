//! `[admin]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{OffOr, Placed, is_host_name};
use crate::machine::network::is_private;

const ADDRESS: ConfigKey = restart(
    "address",
    "Metrics and health, over plain HTTP, without a password.\n\n\
     Use another address only behind a firewall.",
);

const HOSTS: ConfigKey = restart(
    "hosts",
    "Host names that requests may name (`Host`), in addition to `localhost`, loopback addresses and the \
     address on which they arrive.\n\n\
     Others receive 421, so that no web page can reach this listener under a name of its own; `/healthz` \
     and `/readyz` answer them without numbers. For a scraper that uses a name, or a mapped address: \
     `[\"relay.internal\"]`.",
)
.kind("list of names and addresses");

const API: ConfigKey = restart(
    "api",
    "Serve the API on this listener too, for an application on the same machine.",
);

/// Where the operator's listener is unless told otherwise: in no registry, and in no list of metrics exporters.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 13_478);

pub(in crate::config) struct RawAdmin {
    pub(in crate::config) address: Located<OffOr<SocketAddr>>,
    pub(in crate::config) hosts: Located<Vec<Placed<String>>>,
    pub(in crate::config) api: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawAdmin {
    RawAdmin {
        address: s.value(ADDRESS, OffOr(Some(DEFAULT_ADMIN))),
        hosts: s.value(HOSTS, Vec::new()),
        api: s.value(API, true),
    }
}

/// Reports a listener that strangers reach, and hosts that are none.
pub(in crate::config) fn check(admin: &RawAdmin, d: &mut Diagnostics) {
    if let Some(address) = admin.address.value.0
        && (address.ip().is_unspecified() || !is_private(address.ip()))
    {
        let message =
            format!("`admin.address`: {address} can be reached from outside; metrics and health ask for no password");
        d.push(
            Diagnostic::warning(message)
                .at(admin.address.place)
                .help("bind it to 127.0.0.1, or fence it with a firewall"),
        );
    }
    for host in &admin.hosts.value {
        if host.value.parse::<IpAddr>().is_err() && !is_host_name(&host.value) {
            let message = format!("`admin.hosts`: {:?} is neither a host name nor an address", host.value);
            let help = "without scheme, port and path: \"metrics.example.org\"";
            d.push(Diagnostic::error(message).at(host.place).help(help));
        }
    }
}
