//! Receiving datagrams: a slab of slots, filled from any number of sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;

use super::UdpSocket;
use crate::sys::message::ReceiveCall;

/// Bytes of a slot: the largest datagram, or the most that the kernel coalesces into one.
const SLOT: usize = 65_536;
/// Distance between two slots. A little more than a slot, because addresses 64 KiB apart share a
/// few sets of the first-level cache, and single packets use only the beginnings of slots. Stored
/// messages may fill all of it: the longest message of a stream is a little longer than any
/// datagram.
const STRIDE: usize = SLOT + 192;

/// One filled slot: datagrams of one sender and one size (the last may be shorter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The sender, in canonical form.
    pub source: SocketAddr,
    /// The local address that they were sent to; only on a wildcard socket.
    pub local: Option<IpAddr>,
    /// DSCP and ECN, if the socket reports them.
    pub tos: u8,
    start: usize,
    len: usize,
    stride: usize,
    usable: bool,
}

impl Slot {
    /// The datagrams in the slot, as ranges of [`RecvBatch::slab`].
    pub fn datagrams(&self) -> Datagrams {
        Datagrams {
            next: self.start,
            end: self.start + self.len,
            stride: self.stride,
            left: self.usable,
        }
    }
}

/// Iterates over the ranges of the datagrams of one slot. Borrows nothing.
#[derive(Clone, Debug)]
pub struct Datagrams {
    next: usize,
    end: usize,
    stride: usize,
    left: bool,
}

impl Iterator for Datagrams {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if !self.left {
            return None;
        }
        let start = self.next;
        self.next = (start + self.stride).min(self.end);
        // An empty datagram counts too: the end is reached after it, not before.
        self.left = self.next < self.end;
        Some(start..self.next)
    }
}

/// A slab of receive slots. Several [`RecvBatch::receive`] calls, on different sockets, fill slots
/// until [`RecvBatch::clear`]. Until then every returned range stays valid.
pub struct RecvBatch {
    slab: Box<[u8]>,
    slots: Vec<Slot>,
    /// Free part of the slot that [`RecvBatch::store`] fills.
    store: Range<usize>,
    call: ReceiveCall,
    truncated: u64,
}

impl RecvBatch {
    /// A slab of `slots` slots of 64 KiB. The system provides memory only for pages that are
    /// written.
    pub fn new(slots: usize) -> Self {
        Self {
            slab: vec![0; slots.max(1) * STRIDE].into_boxed_slice(),
            slots: Vec::with_capacity(slots.max(1)),
            store: 0..0,
            call: ReceiveCall::new(slots.max(1)),
            truncated: 0,
        }
    }

    /// Slots not yet used.
    pub fn free(&self) -> usize {
        self.slots.capacity() - self.slots.len()
    }

    /// Forgets everything received.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.store = 0..0;
    }

    /// Receives at most `max` messages from `socket`, limited by the free slots; never waits.
    /// Returns the filled slots; none if there is nothing to read.
    ///
    /// # Errors
    /// The socket's pending error (an ICMP error on a socket that queues them). The call has
    /// cleared it.
    pub fn receive(&mut self, socket: &UdpSocket, max: usize) -> io::Result<Range<usize>> {
        let first = self.slots.len();
        let count = max.min(self.free());
        if count == 0 {
            return Ok(first..first);
        }
        let slots = self
            .slab
            .chunks_exact_mut(STRIDE)
            .skip(first)
            .take(count)
            .map(|slot| &mut slot[..SLOT]);
        let received = match self.call.receive(socket.as_fd(), slots) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(e) => return Err(e),
        };
        for i in 0..received {
            let message = self.call.message(i);
            let source = message.source.filter(|_| !message.truncated);
            self.truncated += u64::from(source.is_none());
            self.slots.push(Slot {
                source: source.unwrap_or_else(|| socket.local_addr()),
                local: message.ancillary.local,
                tos: message.ancillary.tos,
                start: (first + i) * STRIDE,
                len: message.len,
                stride: message.ancillary.segment.unwrap_or(message.len).max(1),
                usable: source.is_some(),
            });
        }
        Ok(first..first + received)
    }

    /// A slot filled since the last [`Self::clear`]; `None` for any other index.
    pub fn slot(&self, index: usize) -> Option<Slot> {
        self.slots.get(index).copied()
    }

    /// All bytes; ranges of [`Datagrams`] and [`Self::store`] index it.
    pub fn slab(&self) -> &[u8] {
        &self.slab
    }

    /// Stores a copy of `head` followed by `tail` until [`Self::clear`], for packets that did not
    /// arrive over UDP and leave with this batch. `None`: no room; flush, clear and try again.
    pub fn store(&mut self, head: &[u8], tail: &[u8]) -> Option<Range<usize>> {
        let len = head.len() + tail.len();
        if self.store.len() < len || self.store.is_empty() {
            if self.free() == 0 || len > STRIDE {
                return None;
            }
            let start = self.slots.len() * STRIDE;
            self.slots.push(Slot {
                source: SocketAddr::from(([0, 0, 0, 0], 0)),
                local: None,
                tos: 0,
                start,
                len: 0,
                stride: 1,
                usable: false,
            });
            self.store = start..start + STRIDE;
        }
        let range = self.store.start..self.store.start + len;
        let (a, b) = self.slab[range.clone()].split_at_mut(head.len());
        a.copy_from_slice(head);
        b.copy_from_slice(tail);
        self.store.start = range.end;
        Some(range)
    }

    /// Replaces what was received at the start of `room` with `bytes`, and shrinks `room` to the
    /// rest. `None`: it does not fit.
    pub fn overwrite(&mut self, room: &mut Range<usize>, bytes: &[u8]) -> Option<Range<usize>> {
        let range = room.start..room.start + bytes.len();
        if range.end > room.end {
            return None;
        }
        self.slab.get_mut(range.clone())?.copy_from_slice(bytes);
        room.start = range.end;
        Some(range)
    }

    /// Messages discarded so far because they were truncated or had no IP sender.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }
}

#[cfg(test)]
mod tests;
