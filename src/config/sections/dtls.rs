//! `[dtls]`.

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Auto;

pub(in crate::config) struct RawDtls {
    pub(in crate::config) mtu: Located<usize>,
    pub(in crate::config) associations: Located<u32>,
    pub(in crate::config) associations_per_ip: Located<u32>,
    pub(in crate::config) associations_per_network: Located<Auto<u32>>,
    pub(in crate::config) associations_per_cookie: Located<u32>,
    pub(in crate::config) handshakes: Located<usize>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawDtls {
    RawDtls {
        mtu: s.number("mtu", 1500, 576..=9000),
        associations: s.number("associations", 16_384, 1..=16_777_216),
        associations_per_ip: s.number("associations_per_ip", 256, 1..=16_777_216),
        associations_per_network: s.auto_number("associations_per_network", 1..=16_777_216),
        associations_per_cookie: s.number("associations_per_cookie", 4, 1..=1000),
        handshakes: s.number("handshakes", 512, 1..=65_536),
    }
}
