//! Traffic patterns, and what each measures.

use serde_json::Value;

use super::servers::Server;

/// The machines between which traffic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One machine, over its loopback device.
    Loopback,
    /// Two machines, as network namespaces joined by a veth pair. The server pays for segmenting
    /// what it sends in one piece.
    Veth,
}

/// The figure that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// The server's CPU time per packet.
    Packet,
    /// The server's CPU time per handshake.
    Handshake,
    /// The median latency of packets.
    Median,
    /// Memory of an idle allocation.
    Memory,
}

impl Figure {
    /// Its name in the output of `relay bench`.
    const fn key(self) -> &'static str {
        match self {
            Self::Packet => "server_cpu_ns_per_packet",
            Self::Handshake => "server_cpu_us_per_handshake",
            Self::Median => "latency_p50_us",
            Self::Memory => "rss_bytes_per_allocation",
        }
    }

    /// Its unit.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Packet => "CPU-µs a packet",
            Self::Handshake => "CPU-µs each",
            Self::Median => "µs",
            Self::Memory => "KiB each",
        }
    }

    const fn scale(self) -> f64 {
        match self {
            Self::Packet => 1000.0,
            Self::Handshake | Self::Median => 1.0,
            Self::Memory => 1024.0,
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) place: Place,
    pub(super) carrier: &'static str,
    pub(super) figure: Figure,
    /// Arguments of `relay bench`.
    pub(super) arguments: &'static str,
    /// Servers besides relay and coturn that support it.
    others: &'static [Server],
}

impl Case {
    pub(super) fn fits(&self, server: Server) -> bool {
        matches!(server, Server::Relay | Server::Coturn) || self.others.contains(&server)
    }

    /// The figure, in its unit.
    pub(super) fn figure_of(&self, figures: &Value) -> Option<f64> {
        Some(figures.get(self.figure.key())?.as_f64()? / self.figure.scale())
    }

    /// One line of progress.
    pub(super) fn brief(&self, figures: &Value) -> String {
        let number = |name: &str| figures.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        format!(
            "{:8.2} {:<16} loss {:.4} p50 {:.0} µs",
            self.figure_of(figures).unwrap_or(f64::NAN),
            self.figure.unit(),
            number("loss"),
            number("latency_p50_us"),
        )
    }
}

const fn media(name: &'static str, title: &'static str, arguments: &'static str) -> Case {
    Case {
        name,
        title,
        place: Place::Loopback,
        carrier: "udp",
        figure: Figure::Packet,
        arguments,
        others: &[Server::Bare, Server::Paused],
    }
}

const fn stream(name: &'static str, title: &'static str, carrier: &'static str, arguments: &'static str) -> Case {
    Case {
        carrier,
        ..media(name, title, arguments)
    }
}

const fn veth(name: &'static str, title: &'static str, arguments: &'static str) -> Case {
    Case {
        place: Place::Veth,
        ..media(name, title, arguments)
    }
}

const FRAMES_UP: &str = "media --shape flood --size 1200 --burst 12 --window 120 -n 50 --direction up";
const FRAMES_DOWN: &str = "media --shape flood --size 1200 --burst 12 --window 120 -n 50 --direction down";
const LARGE_UP: &str = "media --shape flood --size 1200 -n 20 --direction up";
const LARGE_DOWN: &str = "media --shape flood --size 1200 -n 20 --direction down";

/// Every row, in the order of the table.
pub(super) const CASES: &[Case] = &[
    media("frames-up", "video frames of 12 × 1200 B, up", FRAMES_UP),
    media("frames-down", "video frames of 12 × 1200 B, down", FRAMES_DOWN),
    veth(
        "veth-up",
        "video frames through veth, segmented in software, up",
        FRAMES_UP,
    ),
    veth(
        "veth-down",
        "video frames through veth, segmented in software, down",
        FRAMES_DOWN,
    ),
    media(
        "lone-up",
        "lone packets of 160 B flat out, up",
        "media --shape flood -n 50 --direction up",
    ),
    media(
        "lone-down",
        "lone packets of 160 B flat out, down",
        "media --shape flood -n 50 --direction down",
    ),
    media(
        "rate-up",
        "160 B at 70 k packets/s, up",
        "media --shape flood --rate 70000 --spin -n 50 --direction up",
    ),
    media(
        "rate-down",
        "160 B at 70 k packets/s, down",
        "media --shape flood --rate 70000 --spin -n 50 --direction down",
    ),
    Case {
        figure: Figure::Median,
        ..media(
            "idle",
            "idle server, a packet each 20 ms: latency p50",
            "media --shape audio --spin -n 1",
        )
    },
    Case {
        others: &[Server::TurnRs],
        ..media("pair", "client to client, 160 B", "media --shape flood --pair -n 50")
    },
    stream("tcp-up", "TCP, 1200 B, up", "tcp", LARGE_UP),
    stream("tcp-down", "TCP, 1200 B, down", "tcp", LARGE_DOWN),
    stream("tls-up", "TLS, 1200 B, up", "tls", LARGE_UP),
    stream("tls-down", "TLS, 1200 B, down", "tls", LARGE_DOWN),
    Case {
        figure: Figure::Handshake,
        others: &[Server::TurnRs],
        ..media(
            "allocations",
            "handshake: 401, Allocate, CreatePermission, ChannelBind, Refresh 0",
            "allocations --at-once 16 --pair",
        )
    },
    Case {
        figure: Figure::Memory,
        others: &[],
        ..media(
            "memory",
            "idle allocation with a channel: resident memory",
            "hold -n 2000",
        )
    },
];
