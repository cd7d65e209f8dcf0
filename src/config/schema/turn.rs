//! `[turn]` and the sections below it, but for `[turn.tcp_allocations]`.

use core::time::Duration;
use std::net::SocketAddr;

use super::super::reader::section::{Located, Section};
use super::super::reader::value::{OffOr, OneOf};
use super::{DAY, HOUR, MINUTE, RawTcp, SECOND, SecretOrFile, optional_secret_or_file, tcp};
use crate::base::address::Transport;
use crate::turn::config::{Challenge, IcmpReports};

/// The protocol.
pub(in super::super) struct RawTurn {
    pub(in super::super) software: Located<String>,
    pub(in super::super) binding: Located<bool>,
    pub(in super::super) challenge: Located<OneOf<Challenge>>,
    pub(in super::super) icmp: Located<OneOf<IcmpReports>>,
    pub(in super::super) nonce_lifetime: Located<Duration>,
    pub(in super::super) nonce_secret: Option<SecretOrFile>,
    pub(in super::super) default_lifetime: Located<Duration>,
    pub(in super::super) max_lifetime: Located<Duration>,
    pub(in super::super) max_session: Located<OffOr<Duration>>,
    pub(in super::super) redirect: RawRedirect,
    pub(in super::super) compat: RawCompat,
    pub(in super::super) mobility: RawMobility,
    pub(in super::super) tcp: RawTcp,
}

/// The server that takes new clients in place of this one.
pub(in super::super) struct RawRedirect {
    pub(in super::super) ipv4: Located<OffOr<SocketAddr>>,
    pub(in super::super) ipv6: Located<OffOr<SocketAddr>>,
    pub(in super::super) domain: Located<String>,
    pub(in super::super) transports: Located<Vec<OneOf<Transport>>>,
    pub(in super::super) serve_others: Located<OffOr<Duration>>,
}

/// For clients of older RFCs.
pub(in super::super) struct RawCompat {
    pub(in super::super) rfc3489_binding: Located<bool>,
    pub(in super::super) rfc5766_channels: Located<bool>,
}

/// RFC 8016.
pub(in super::super) struct RawMobility {
    pub(in super::super) enabled: Located<bool>,
    pub(in super::super) grace: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTurn {
    RawTurn {
        software: s.value("software", "relay".to_owned()),
        binding: s.value("binding", true),
        challenge: s.value("challenge", OneOf(Challenge::Full)),
        icmp: s.value("icmp", OneOf(IcmpReports::Auto)),
        nonce_lifetime: s.within("nonce_lifetime", 10 * MINUTE, MINUTE..=HOUR),
        nonce_secret: optional_secret_or_file(s, "nonce_secret", "nonce_secret_file"),
        default_lifetime: s.within("default_lifetime", 10 * MINUTE, 10 * MINUTE..=DAY),
        max_lifetime: s.within("max_lifetime", HOUR, 10 * MINUTE..=DAY),
        max_session: s.value("max_session", OffOr(None)),
        redirect: s.section("redirect", |s| RawRedirect {
            ipv4: s.value("ipv4", OffOr(None)),
            ipv6: s.value("ipv6", OffOr(None)),
            domain: s.value("domain", String::new()),
            transports: s.value("transports", vec![OneOf(Transport::Udp)]),
            serve_others: s.value("serve_others", OffOr(Some(HOUR))),
        }),
        compat: s.section("compat", |s| RawCompat {
            rfc3489_binding: s.value("rfc3489_binding", false),
            rfc5766_channels: s.value("rfc5766_channels", false),
        }),
        mobility: s.section("mobility", |s| RawMobility {
            enabled: s.value("enabled", false),
            grace: s.within("grace", 5 * MINUTE, SECOND..=DAY),
        }),
        tcp: s.section("tcp_allocations", tcp::read),
    }
}
