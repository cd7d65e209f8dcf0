//! `[forced_relay]`.

use super::super::reader::section::{Located, Section};
use super::super::reader::value::{Choice, OneOf, Port};
use crate::base::address::Transport;
use crate::turn::config::forced::ForcedRelay;

pub(in super::super) struct RawForcedRelay {
    pub(in super::super) everyone: Located<bool>,
    pub(in super::super) ports: Located<Vec<Port>>,
    pub(in super::super) transports: Located<Vec<OneOf<Transport>>>,
    pub(in super::super) binding: Located<bool>,
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
        everyone: s.value("everyone", d.everyone),
        ports: s.value("ports", ports.collect()),
        transports: s.value("transports", Transport::ALL.map(OneOf).to_vec()),
        binding: s.value("binding", d.binding),
    }
}
