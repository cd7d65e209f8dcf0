//! `[forced_relay]`.

use crate::base::address::Transport;
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, with_listeners};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Choice, OneOf, Port};
use crate::turn::config::forced::ForcedRelay;

const EVERYONE: ConfigKey = with_listeners(
    "everyone",
    "Every login is forced, whichever service minted it.\n\n\
     Then also remove every listener outside the forced path from `[[listener]]`.",
);

const PORTS: ConfigKey = with_listeners(
    "ports",
    "The forced path: ports as listeners bind them, and as they appear in `api.uris`.\n\n\
     Name both if a port is forwarded: `[443, 8443]`. If a proxy reports in a PROXY header which port the \
     client connected to, that port counts.",
);

const TRANSPORTS: ConfigKey = with_listeners(
    "transports",
    "The transports of the forced path.\n\n\
     `[\"tls\"]`: only TLS.",
);

const BINDING: ConfigKey = with_listeners(
    "binding",
    "Answer STUN Binding requests on the forced path.\n\n\
     `false`: a page that does not set `iceTransportPolicy` learns no address of its own there. \
     `turn.binding` disables it on every listener.",
);

pub(in crate::config) struct RawForcedRelay {
    pub(in crate::config) everyone: Located<bool>,
    pub(in crate::config) ports: Located<Vec<Port>>,
    pub(in crate::config) transports: Located<Vec<OneOf<Transport>>>,
    pub(in crate::config) binding: Located<bool>,
}

impl Choice for Transport {
    const ALL: &'static [(&'static str, Self)] = &[
        (Self::Udp.as_str(), Self::Udp),
        (Self::Tcp.as_str(), Self::Tcp),
        (Self::Tls.as_str(), Self::Tls),
        (Self::Dtls.as_str(), Self::Dtls),
    ];
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawForcedRelay {
    let d = ForcedRelay::default();
    let ports = d.ports.into_iter().map(Port);
    RawForcedRelay {
        everyone: s.value(EVERYONE, d.everyone),
        ports: s.value(PORTS, ports.collect()),
        transports: s.value(TRANSPORTS, Transport::ALL.map(OneOf).to_vec()),
        binding: s.value(BINDING, d.binding),
    }
}

/// Reports a path on which nobody could relay.
pub(in crate::config) fn check(section: &RawForcedRelay, d: &mut Diagnostics) {
    if section.ports.value.is_empty() {
        let diagnostic = Diagnostic::error("`forced_relay.ports` is empty: forced clients could use no listener");
        d.push(
            diagnostic
                .at(section.ports.place)
                .help("write the port they may use: [443]"),
        );
    }
    if section.transports.value.is_empty() {
        let message = "`forced_relay.transports` is empty: forced clients could use no transport";
        let diagnostic = Diagnostic::error(message).at(section.transports.place);
        d.push(diagnostic.help("remove the key to allow them all"));
    }
}
