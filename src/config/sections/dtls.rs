//! `[dtls]`.

use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Auto;
use crate::shard::DtlsLimits;

const MTU: ConfigKey = restart(
    "mtu",
    "Longest IP packet in bytes that carries a record to a client.\n\n\
     The server drops what does not fit (`relay_dropped_packets_total{reason=\"too_long\"}`): it does not \
     split records, and fragments get lost. Lower it if clients are behind tunnels.",
);

const ASSOCIATIONS: ConfigKey = restart("associations", "Associations at a time; each takes about 45 KiB.");

const ASSOCIATIONS_PER_IP: ConfigKey = restart(
    "associations_per_ip",
    "The same from one IPv4 address or IPv6 /64.\n\n\
     Raise it if many clients share a NAT.",
);

const ASSOCIATIONS_PER_NETWORK: ConfigKey = restart("associations_per_network", "The same from one network.");

const ASSOCIATIONS_PER_COOKIE: ConfigKey = restart(
    "associations_per_cookie",
    "Associations that a client may begin from one port while a cookie is valid, which is one to two \
     minutes.\n\n\
     More are dropped.",
);

const HANDSHAKES: ConfigKey = restart(
    "handshakes",
    "Handshakes in progress at one worker.\n\n\
     Beyond it, the source with the most of them loses its oldest.",
);

pub(in crate::config) struct RawDtls {
    /// All but `associations_per_network`.
    pub(in crate::config) limits: DtlsLimits,
    pub(in crate::config) associations_per_network: Located<Auto<u32>>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawDtls {
    let d = DtlsLimits::default();
    let mtu = s.number(MTU, d.mtu, 576..=9000).value;
    let associations = s.number(ASSOCIATIONS, d.associations, 1..=16_777_216).value;
    let associations_per_ip = s.number(ASSOCIATIONS_PER_IP, d.associations_per_ip, 1..=16_777_216);
    RawDtls {
        associations_per_network: s.auto_number(ASSOCIATIONS_PER_NETWORK, 1..=16_777_216),
        limits: DtlsLimits {
            mtu,
            associations,
            associations_per_ip: associations_per_ip.value,
            associations_per_network: d.associations_per_network,
            associations_per_cookie: s
                .number(ASSOCIATIONS_PER_COOKIE, d.associations_per_cookie, 1..=1000)
                .value,
            handshakes: s.number(HANDSHAKES, d.handshakes, 1..=65_536).value,
        },
    }
}
