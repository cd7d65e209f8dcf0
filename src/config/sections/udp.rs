//! `[udp]`.

use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::Bytes;

const RECEIVE_BUFFER: ConfigKey = restart(
    "receive_buffer",
    "Kernel buffer of each listener socket.\n\n\
     The kernel allows at most `net.core.rmem_max`.",
);

const SEND_BUFFER: ConfigKey = restart("send_buffer", "The same for sending (`net.core.wmem_max`).");

const RELAY_BUFFER: ConfigKey = restart(
    "relay_buffer",
    "Both buffers of each relayed address, and of each HTTP/3 client's socket to the backend.\n\n\
     Memory is used only while packets wait.",
);

const OFFLOAD: ConfigKey = restart(
    "offload",
    "GSO and GRO if the kernel supports them.\n\n\
     Disable it to find the fault of a network card.",
);

const SLOTS: ConfigKey = restart(
    "slots",
    "Receive slots of each worker, 64 KiB each: what it receives before it sends.",
);

const MAILBOX: ConfigKey = restart(
    "mailbox",
    "Buffer between each two workers for packets from one client of this server to another.\n\n\
     Raise it if `relay_dropped_packets_total{reason=\"mailbox_full\"}` rises.",
);

const PAUSE_MICROS: ConfigKey = restart(
    "pause_micros",
    "Longest pause of a worker, in microseconds, which lets packets accumulate at moderate load so that \
     it does not wake up for each. `0`: lowest latency, more CPU.",
);

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
        receive_buffer: s.within(RECEIVE_BUFFER, Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
        send_buffer: s.within(SEND_BUFFER, Bytes(4 << 20), Bytes(64 << 10)..=Bytes(1 << 30)),
        relay_buffer: s.within(RELAY_BUFFER, Bytes(1 << 20), Bytes(16 << 10)..=Bytes(64 << 20)),
        offload: s.value(OFFLOAD, true),
        slots: s.number(SLOTS, 64, 8..=1024),
        mailbox: s.within(MAILBOX, Bytes(256 << 10), Bytes(128 << 10)..=Bytes(64 << 20)),
        pause_micros: s.number(PAUSE_MICROS, 100, 0..=1000),
    }
}
