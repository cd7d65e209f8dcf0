//! `[udp]`.

use core::time::Duration;

use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::Section;
use crate::config::reader::value::Bytes;
use crate::config::settings::UdpSettings;
use crate::net::udp::UdpOptions;
use crate::shard::ShardConfig;

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

pub(super) fn read(s: &mut Section<'_, '_>) -> UdpSettings {
    let d = ShardConfig::default();
    let buffer = Bytes(4 << 20);
    let receive_buffer = s.within(RECEIVE_BUFFER, buffer, Bytes(64 << 10)..=Bytes(1 << 30));
    let send_buffer = s.within(SEND_BUFFER, buffer, Bytes(64 << 10)..=Bytes(1 << 30));
    let relay_buffer = Bytes(d.relay.receive_buffer);
    let relay_buffer = s.within(RELAY_BUFFER, relay_buffer, Bytes(16 << 10)..=Bytes(64 << 20));
    let offload = s.value(OFFLOAD, d.relay.offload).value;
    let slots = s.number(SLOTS, d.slots, 8..=1024).value;
    let mailbox = s.within(MAILBOX, Bytes(d.mailbox), Bytes(128 << 10)..=Bytes(64 << 20));
    let pause = u32::try_from(d.pause.as_micros()).unwrap_or(0);
    let pause = s.number(PAUSE_MICROS, pause, 0..=1000).value;
    UdpSettings {
        listener: UdpOptions {
            receive_buffer: receive_buffer.value.0,
            send_buffer: send_buffer.value.0,
            offload,
            errors: false,
            traffic_class: true,
        },
        relay: UdpOptions {
            receive_buffer: relay_buffer.value.0,
            send_buffer: relay_buffer.value.0,
            offload,
            ..d.relay
        },
        slots,
        mailbox: mailbox.value.0,
        pause: Duration::from_micros(pause.into()),
    }
}
