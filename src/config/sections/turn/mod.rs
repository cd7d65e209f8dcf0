//! `[turn]` and the small sections below it.

pub(in crate::config) mod redirect;
pub(in crate::config) mod tcp_allocations;

use core::time::Duration;

use self::redirect::RawRedirect;
use self::tcp_allocations::RawTcp;
use super::secret::{SecretOrFile, optional_secret_or_file, secret};
use super::{DAY, HOUR, MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
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
        redirect: s.section("redirect", redirect::read),
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

/// Reports lifetimes and texts that cannot be.
pub(in crate::config) fn check(turn: &RawTurn, d: &mut Diagnostics) {
    if turn.max_lifetime.value < turn.default_lifetime.value {
        let place = turn.max_lifetime.place.or(turn.default_lifetime.place);
        let diagnostic = Diagnostic::error("`turn.max_lifetime` is shorter than `turn.default_lifetime`").at(place);
        d.push(diagnostic.help("make it at least as long; the default is \"1h\""));
    }
    if let OffOr(Some(cap)) = turn.max_session.value
        && cap < turn.default_lifetime.value
    {
        let diagnostic = Diagnostic::error("`turn.max_session` is shorter than one `turn.default_lifetime`");
        d.push(
            diagnostic
                .at(turn.max_session.place)
                .help("make it several hours, or \"off\""),
        );
    }
    if let Some(SecretOrFile::Text(text)) = &turn.nonce_secret {
        secret(text.value.0.as_bytes(), "`turn.nonce_secret`", text.place, d);
    }
    if turn.compat.rfc3489_binding.value && !turn.binding.value {
        let message = "`turn.compat.rfc3489_binding` has no effect while `turn.binding` is off";
        let diagnostic = Diagnostic::warning(message).at(turn.compat.rfc3489_binding.place);
        d.push(diagnostic.also(turn.binding.place, "here").help("keep one of the two"));
    }
    if turn.software.value.chars().count() > 127 {
        let diagnostic = Diagnostic::error("`turn.software` has more than 127 characters (RFC 8489 §14.14)");
        d.push(
            diagnostic
                .at(turn.software.place)
                .help("shorten it, or write \"\" to send none"),
        );
    }
    redirect::check(&turn.redirect, d);
    tcp_allocations::check(&turn.tcp, d);
}
