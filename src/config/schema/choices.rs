//! The words of each setting that is one of a closed set.

use super::super::reader::value::Choice;
use super::super::settings::{ClientIp, ProxyProtocol};
use super::{Format, Protocol};
use crate::turn::config::{Challenge, IcmpReports};

impl Choice for Format {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for Protocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("udp", Self::Udp),
        ("dtls", Self::Dtls),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("https", Self::Https),
    ];
}

impl Choice for ClientIp {
    const ALL: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("truncated", Self::Truncated), ("off", Self::Off)];
}

impl Choice for ProxyProtocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("optional", Self::Optional),
        ("required", Self::Required),
    ];
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
