//! `[udp]`.

use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Bytes;

pub(in crate::config) struct RawUdp {
    pub(in crate::config) receive_buffer: Located<Bytes>,
    pub(in crate::config) send_buffer: Located<Bytes>,
    pub(in crate::config) relay_buffer: Located<Bytes>,
    pub(in crate::config) offload: Located<bool>,
    pub(in crate::config) slots: Located<usize>,
    pub(in crate::config) mailbox: Located<Bytes>,
    pub(in crate::config) pause_micros: Located<u32>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawUdp {
    RawUdp {
        receive_buffer: s.within("receive_buffer", Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
        send_buffer: s.within("send_buffer", Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
        relay_buffer: s.within("relay_buffer", Bytes(1 << 20), Bytes(16 << 10)..=Bytes(64 << 20)),
        offload: s.value("offload", true),
        slots: s.number("slots", 64, 8..=1024),
        mailbox: s.within("mailbox", Bytes(256 << 10), Bytes(128 << 10)..=Bytes(64 << 20)),
        pause_micros: s.number("pause_micros", 100, 0..=1000),
    }
}
