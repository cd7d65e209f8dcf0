//! `[turn]` and the sections below it, but for `[turn.tcp_allocations]`.

pub(in crate::config) mod tcp_allocations;

use core::time::Duration;
use std::net::SocketAddr;

use self::tcp_allocations::RawTcp;
use super::secret::{SecretOrFile, optional_secret_or_file};
use super::{DAY, HOUR, MINUTE, SECOND};
use crate::base::address::Transport;
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Choice, OffOr, OneOf};
use crate::turn::config::{Challenge, IcmpReports};

/// The protocol.
pub(in crate::config) struct RawTurn {
    pub(in crate::config) software: Located<String>,
    pub(in crate::config) binding: Located<bool>,
    pub(in crate::config) challenge: Located<OneOf<Challenge>>,
    pub(in crate::config) icmp: Located<OneOf<IcmpReports>>,
    pub(in crate::config) nonce_lifetime: Located<Duration>,
    pub(in crate::config) nonce_secret: Option<SecretOrFile>,
    pub(in crate::config) default_lifetime: Located<Duration>,
    pub(in crate::config) max_lifetime: Located<Duration>,
    pub(in crate::config) max_session: Located<OffOr<Duration>>,
    pub(in crate::config) redirect: RawRedirect,
    pub(in crate::config) compat: RawCompat,
    pub(in crate::config) mobility: RawMobility,
    pub(in crate::config) tcp: RawTcp,
}

/// The server that takes new clients in place of this one.
pub(in crate::config) struct RawRedirect {
    pub(in crate::config) ipv4: Located<OffOr<SocketAddr>>,
    pub(in crate::config) ipv6: Located<OffOr<SocketAddr>>,
    pub(in crate::config) domain: Located<String>,
    pub(in crate::config) transports: Located<Vec<OneOf<Transport>>>,
    pub(in crate::config) serve_others: Located<OffOr<Duration>>,
}

/// For clients of older RFCs.
pub(in crate::config) struct RawCompat {
    pub(in crate::config) rfc3489_binding: Located<bool>,
    pub(in crate::config) rfc5766_channels: Located<bool>,
}

/// RFC 8016.
pub(in crate::config) struct RawMobility {
    pub(in crate::config) enabled: Located<bool>,
    pub(in crate::config) grace: Located<Duration>,
}

impl Choice for Challenge {
    const ALL: &'static [(&'static str, Self)] = &[
        ("full", Self::Full),
        ("compact_udp", Self::CompactUdp),
        ("compact", Self::Compact),
    ];
}

impl Choice for IcmpReports {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
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
        tcp: s.section("tcp_allocations", tcp_allocations::read),
    }
}
