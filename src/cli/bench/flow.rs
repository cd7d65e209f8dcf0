//! Shapes and directions of traffic.

use super::Common;

/// The shape of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
    /// 160 bytes every 20 ms for each allocation
    Audio,
    /// 12 packets of 1200 bytes in a row, 30 times per second, for each allocation
    Video,
    /// Single packets of 160 bytes as fast as they arrive
    Flood,
}

impl Shape {
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Audio | Self::Flood => 160,
            Self::Video => 1200,
        }
    }

    /// Packets of a flow in a row.
    pub(super) const fn burst(self) -> u32 {
        match self {
            Self::Audio | Self::Flood => 1,
            Self::Video => 12,
        }
    }

    /// Packets per second of one flow.
    pub(super) const fn rate(self) -> Option<f64> {
        match self {
            Self::Audio => Some(50.0),
            Self::Video => Some(360.0),
            Self::Flood => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Flood => "flood",
        }
    }
}

/// The direction of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TrafficDirection {
    /// From clients to the peer
    Up,
    /// From the peer to clients
    Down,
    /// From client to client, through one allocation of each
    #[value(skip)]
    Pair,
}

impl TrafficDirection {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Pair => "pair",
        }
    }
}

/// Stream clients that read too slowly.
pub(super) struct Slow {
    /// Bytes per second of each client.
    pub(super) read: f64,
    pub(super) receive_buffer: usize,
}

/// One kind of traffic.
pub(super) struct TrafficShape {
    pub(super) shape: Shape,
    pub(super) direction: TrafficDirection,
    pub(super) indications: bool,
    /// Bytes of application data in a packet.
    pub(super) size: usize,
    /// Packets per second in total; `None`: the shape's.
    pub(super) rate: Option<f64>,
    /// Packets in flight if there is no rate.
    pub(super) window: u64,
    /// Packets of a flow in a row.
    pub(super) burst: u32,
    /// Never sleep.
    pub(super) spin: bool,
    pub(super) slow: Option<Slow>,
}

/// Video of `offered` bits per second for clients that read `read` bits per second.
pub(super) fn slow_reader(wish: &Common, offered: u32, read: u32, receive_buffer: u32) -> TrafficShape {
    let size = Shape::Video.size();
    TrafficShape {
        shape: Shape::Flood,
        direction: TrafficDirection::Down,
        indications: false,
        size,
        rate: Some(f64::from(offered) / 8.0 / size as f64 * f64::from(wish.allocations)),
        window: 0,
        burst: 1,
        spin: false,
        slow: Some(Slow {
            read: f64::from(read) / 8.0,
            receive_buffer: receive_buffer as usize,
        }),
    }
}
