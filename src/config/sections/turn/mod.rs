//! `[turn]` and the small sections below it.

pub(in crate::config) mod redirect;
pub(in crate::config) mod tcp_allocations;

use core::time::Duration;

use self::redirect::RawRedirect;
use self::tcp_allocations::RawTcp;
use super::secret::{SecretOrFile, optional_secret_or_file, secret};
use super::{DAY, HOUR, MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Choice, OffOr, OneOf};
use crate::turn::config::{Challenge, IcmpReports};

const SOFTWARE: ConfigKey = live(
    "software",
    "SOFTWARE in responses over TCP and TLS. `\"\"` sends none. It is never sent over UDP.",
)
.kind("string, at most 127 characters");

const BINDING: ConfigKey = live(
    "binding",
    "Answer STUN Binding requests, which need no credential.\n\n\
     Off: clients learn their own address only from an allocation.",
);

const CHALLENGE: ConfigKey = live(
    "challenge",
    "What a challenge offers. Full: RFC 8489 with SHA-256. Compact over UDP: responses to unauthenticated \
     clients are as small as possible; for a server under reflection attacks. Compact: RFC 5389 on every \
     transport, for clients that fail on the newer attributes.",
);

const ICMP: ConfigKey = live(
    "icmp",
    "Which clients receive ICMP errors about their relayed datagrams (RFC 8656 §11.5: a Data indication \
     without DATA). Auto: clients whose login used PASSWORD-ALGORITHM or USERHASH, so none with \
     `challenge = \"compact\"`.\n\n\
     Older clients do not expect it. pion's client ends its connection when it receives one, which \
     affects LiveKit's, rtcd's and every other Go client. `relay_icmp_errors_total` counts the errors in \
     any case.",
);

const NONCE_LIFETIME: ConfigKey = live(
    "nonce_lifetime",
    "How long a nonce is valid.\n\n\
     A shorter lifetime costs clients one more round trip per lifetime.",
);

const NONCE_SECRET: ConfigKey = live(
    "nonce_secret",
    "Secret from which nonces are made, in place of the newest secret of `[credentials]`.\n\n\
     A nonce is valid on every server that has the secret it was made with; without any secret, on this \
     server until it stops. Set the same value on servers that redirect clients to each other and have \
     [static users](credentials.md), and that share no secret or have different ones. Must be as random \
     as those: [the secret](credentials.md#the-secret).",
)
.example("\"replace this: head -c 33 /dev/urandom | base64 | tr +/ -_\"");

const NONCE_SECRET_FILE: ConfigKey =
    live("nonce_secret_file", "The same, in a file.").example("\"/etc/relay/nonce-secret\"");

const DEFAULT_LIFETIME: ConfigKey = live(
    "default_lifetime",
    "Lifetime of an allocation if the client requests none, or a shorter one.",
);

const MAX_LIFETIME: ConfigKey = live(
    "max_lifetime",
    "Longest lifetime granted.\n\n\
     A client that vanished over UDP holds its port this long.",
);

const MAX_SESSION: ConfigKey = live(
    "max_session",
    "An allocation is not refreshed beyond this age. Off: no limit.\n\n\
     For services whose sessions must end with the credential.",
);

const COMPAT_RFC3489_BINDING: ConfigKey = live(
    "rfc3489_binding",
    "Answer Binding requests of RFC 3489 clients (no magic cookie), over UDP, with MAPPED-ADDRESS.\n\n\
     They count against `limits.bindings_per_second`. For old telephones. The server then answers one \
     more kind of unauthenticated client.",
);

const COMPAT_RFC5766_CHANNELS: ConfigKey = live(
    "rfc5766_channels",
    "Accept channel numbers up to 0x7FFF, which RFC 5766 clients may choose; this uses the range that RFC \
     7983 assigns to other protocols.",
);

const MOBILITY_ENABLED: ConfigKey = live(
    "enabled",
    "A client that requests it gets a mobility ticket (RFC 8016), with which it keeps its allocation when \
     it changes networks.\n\n\
     No browser requests one. Off: such a request is answered with 405. So is a request for a ticket with \
     a TCP allocation, because its connections cannot move.",
);

const MOBILITY_GRACE: ConfigKey = live(
    "grace",
    "How long an allocation with a ticket waits for a client whose TCP or TLS connection closed, never \
     beyond its lifetime.\n\n\
     Meanwhile it keeps its port and counts against the limits.",
);

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
        software: s.value(SOFTWARE, "relay".to_owned()),
        binding: s.value(BINDING, true),
        challenge: s.value(CHALLENGE, OneOf(Challenge::Full)),
        icmp: s.value(ICMP, OneOf(IcmpReports::Auto)),
        nonce_lifetime: s.within(NONCE_LIFETIME, 10 * MINUTE, MINUTE..=HOUR),
        nonce_secret: optional_secret_or_file(s, NONCE_SECRET, NONCE_SECRET_FILE),
        default_lifetime: s.within(DEFAULT_LIFETIME, 10 * MINUTE, 10 * MINUTE..=DAY),
        max_lifetime: s.within(MAX_LIFETIME, HOUR, 10 * MINUTE..=DAY),
        max_session: s.value(MAX_SESSION, OffOr(None)),
        redirect: s.section("redirect", redirect::read),
        compat: s.section("compat", |s| RawCompat {
            rfc3489_binding: s.value(COMPAT_RFC3489_BINDING, false),
            rfc5766_channels: s.value(COMPAT_RFC5766_CHANNELS, false),
        }),
        mobility: s.section("mobility", |s| RawMobility {
            enabled: s.value(MOBILITY_ENABLED, false),
            grace: s.within(MOBILITY_GRACE, 5 * MINUTE, SECOND..=DAY),
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
