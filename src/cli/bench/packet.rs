//! A packet of media: its TURN framing and its stamp.

use std::net::SocketAddr;

use super::flow::TrafficShape;
use crate::base::time::Instant;
use crate::wire::attribute::AttributeType;
use crate::wire::demux::{self, Kind};
use crate::wire::message::{Class, Message, Method, TransactionId, message_type};
use crate::wire::{channel_data, writer};

/// The channel every client binds.
pub(super) const CHANNEL: u16 = 0x4000;
/// Sending time, sequence number, flow.
const STAMP: usize = 16;

/// Writes the header of the application data. Returns its length, and the padding behind the data.
pub(super) fn wrap(flow: &TrafficShape, peer: SocketAddr, header: &mut [u8; 48]) -> (usize, usize) {
    if !flow.indications {
        channel_data::emit_header(CHANNEL, flow.size, header);
        return (channel_data::HEADER_LEN, 0);
    }
    // A Send indication has the same layout as a Data indication (RFC 8656 §11.1, §11.3).
    let length = writer::emit_data_indication_header(TransactionId([7; 12]), peer, flow.size, header);
    let [first, second] = message_type(Class::Indication, Method::Send).to_be_bytes();
    (header[0], header[1]) = (first, second);
    (length, flow.size.next_multiple_of(4) - flow.size)
}

/// The application data in a message from the server.
pub(super) fn unwrap(message: &[u8]) -> Option<&[u8]> {
    match demux::classify(*message.first()?) {
        Kind::ChannelData => {
            let (_, data) = channel_data::parse(message).ok()?;
            message.get(data)
        }
        Kind::Stun => {
            let message = Message::parse(message).ok()?;
            (message.method() == Some(Method::Data)).then(|| message.attribute(AttributeType::DATA))?
        }
        _ => None,
    }
}

/// The stamp at the beginning of a packet's data.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub(super) sent_at: Instant,
    pub(super) number: u32,
    pub(super) lane: u32,
}

impl Stamp {
    pub(super) fn of(data: &[u8]) -> Option<Self> {
        let (nanos, rest) = data.get(..STAMP)?.split_first_chunk()?;
        let (number, lane) = rest.split_first_chunk()?;
        Some(Self {
            sent_at: Instant::from_nanos(u64::from_be_bytes(*nanos)),
            number: u32::from_be_bytes(*number),
            lane: u32::from_be_bytes(*lane.first_chunk()?),
        })
    }
}
