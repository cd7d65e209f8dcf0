//! Packets between shards: one ring of bytes per ordered pair, one writer and one reader, no lock.
//!
//! Used when a client's peer is a relayed address of this server that another shard owns. Bytes are
//! copied in and out, which is far cheaper than the path through the kernel. A full ring drops the
//! packet, as UDP does. To operators it is the *mailbox* between two workers (`udp.mailbox`,
//! `relay_mailbox_packets_total`).
//!
//! ```text
//! length u32 | class u8 | family of to, from | ports | addresses | application data
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::net::epoll::Waker;
use crate::net::udp::RecvBatch;
use crate::turn::types::{PeerAddr, RelayedAddr};

const HEADER: usize = 42;

/// What precedes a packet's data in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HairpinHeader {
    /// The receiving allocation's relayed transport address.
    pub(super) to: RelayedAddr,
    /// The sending allocation's.
    pub(super) from: PeerAddr,
    /// DSCP and ECN.
    pub(super) tos: u8,
}

impl HairpinHeader {
    fn encode(self, len: usize) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        out[4] = self.tos;
        out[5] = u8::from(self.to.0.is_ipv6()) | u8::from(self.from.0.is_ipv6()) << 1;
        out[6..8].copy_from_slice(&self.to.0.port().to_ne_bytes());
        out[8..10].copy_from_slice(&self.from.0.port().to_ne_bytes());
        out[10..26].copy_from_slice(&octets(self.to.0.ip()));
        out[26..].copy_from_slice(&octets(self.from.0.ip()));
        out
    }

    fn decode(b: &[u8; HEADER]) -> (Self, usize) {
        let addr = |at: usize, port: usize, v6: bool| {
            let mut ip = [0; 16];
            ip.copy_from_slice(&b[at..at + 16]);
            let ip = Ipv6Addr::from(ip);
            let ip = if v6 { IpAddr::V6(ip) } else { ip.to_canonical() };
            SocketAddr::new(ip, u16::from_ne_bytes([b[port], b[port + 1]]))
        };
        let to = RelayedAddr(addr(10, 6, b[5] & 1 != 0));
        let from = PeerAddr(addr(26, 8, b[5] & 2 != 0));
        (
            Self { to, from, tos: b[4] },
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as usize,
        )
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The writing end, which leads to another shard.
pub(super) struct Sender {
    ring: Producer<u8>,
    waker: Waker,
    wake_due: bool,
}

impl Sender {
    /// Writes a packet. `false`: the ring is full, and nothing is written.
    pub(super) fn send(&mut self, header: HairpinHeader, data: &[u8]) -> bool {
        let Ok(mut chunk) = self.ring.write_chunk(HEADER + data.len()) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        copy_in(first, second, [&header.encode(data.len()), data]);
        chunk.commit_all();
        self.wake_due = true;
        true
    }

    /// Wakes the reader once for everything written since the last call.
    pub(super) fn wake_reader(&mut self) {
        if std::mem::take(&mut self.wake_due) {
            self.waker.wake();
        }
    }
}

/// Copies `parts`, one after the other, into `first` and then `second`, which have exactly their
/// length together.
fn copy_in(first: &mut [u8], second: &mut [u8], parts: [&[u8]; 2]) {
    let mut rest = [first, second].into_iter();
    let mut into = rest.next().unwrap_or_default();
    for mut part in parts {
        while !part.is_empty() {
            if into.is_empty() {
                let Some(next) = rest.next() else { return };
                into = next;
            }
            let (head, tail) = into.split_at_mut(part.len().min(into.len()));
            head.copy_from_slice(&part[..head.len()]);
            part = &part[head.len()..];
            into = tail;
        }
    }
}

/// The reading end of what one other shard sends here.
pub(super) struct Receiver {
    ring: Consumer<u8>,
}

impl Receiver {
    /// Takes the next packet and copies its data into `slab`. `Ok(None)`: the ring is empty.
    ///
    /// # Errors
    /// The slab has no room; nothing is taken.
    pub(super) fn receive(&mut self, slab: &mut RecvBatch) -> Result<Option<(HairpinHeader, Range<usize>)>, NoRoom> {
        // Header and data of a packet are committed together.
        let Ok(chunk) = self.ring.read_chunk(HEADER) else {
            return Ok(None);
        };
        let (first, second) = chunk.as_slices();
        let mut bytes = [0; HEADER];
        bytes[..first.len()].copy_from_slice(first);
        bytes[first.len()..].copy_from_slice(second);
        let (header, len) = HairpinHeader::decode(&bytes);
        let Ok(chunk) = self.ring.read_chunk(HEADER + len) else {
            return Ok(None);
        };
        let (first, second) = chunk.as_slices();
        let (head, tail) = if first.len() >= HEADER {
            (&first[HEADER..], second)
        } else {
            (&[][..], &second[HEADER - first.len()..])
        };
        let range = slab.store(head, tail).ok_or(NoRoom)?;
        chunk.commit_all();
        Ok(Some((header, range)))
    }
}

/// The slab is full: send and clear it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// A ring of `bytes` bytes. `waker` is the reader's.
pub(super) fn ring(bytes: usize, waker: Waker) -> (Sender, Receiver) {
    let (producer, consumer) = RingBuffer::new(bytes.max(HEADER));
    (
        Sender {
            ring: producer,
            waker,
            wake_due: false,
        },
        Receiver { ring: consumer },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(i: u16) -> HairpinHeader {
        let text = if i.is_multiple_of(2) {
            "192.0.2.1"
        } else {
            "2001:db8::1"
        };
        HairpinHeader {
            to: RelayedAddr(SocketAddr::new(text.parse().unwrap(), 50_000 + i)),
            from: PeerAddr("198.51.100.7:49152".parse().unwrap()),
            tos: i as u8,
        }
    }

    #[test]
    fn packets_come_out_as_they_went_in_wherever_the_ring_wraps() {
        let (mut sender, mut receiver) = ring(1000, Waker::new().unwrap());
        let mut slab = RecvBatch::new(1);
        for i in 0..500u16 {
            let data: Vec<u8> = (0..i % 301).map(|x| (x ^ i) as u8).collect();
            assert!(sender.send(header(i), &data));
            slab.clear();
            let (got, range) = receiver.receive(&mut slab).unwrap().unwrap();
            assert_eq!((got, &slab.slab()[range]), (header(i), &data[..]), "packet {i}");
            assert_eq!(receiver.receive(&mut slab).unwrap(), None);
        }
    }

    #[test]
    fn addresses_of_each_family_and_mapped_ones_come_out_as_they_went_in() {
        let all = ["192.0.2.1:1", "[2001:db8::2]:2", "[::ffff:192.0.2.3]:3", "[::]:65535"];
        for (to, from) in all.iter().flat_map(|to| all.map(|from| (to, from))) {
            let header = HairpinHeader {
                to: RelayedAddr(to.parse().unwrap()),
                from: PeerAddr(from.parse().unwrap()),
                tos: 0xb8,
            };
            assert_eq!(HairpinHeader::decode(&header.encode(70_000)), (header, 70_000));
        }
    }

    #[test]
    fn a_full_mailbox_refuses_whole_packets_and_recovers() {
        let (mut sender, mut receiver) = ring(HEADER * 2 + 10, Waker::new().unwrap());
        let mut slab = RecvBatch::new(1);
        assert!(sender.send(header(0), &[1; 10]));
        assert!(!sender.send(header(1), &[2; 1]));
        assert!(sender.send(header(2), &[]));
        assert!(!sender.send(header(3), &[]));
        let (got, range) = receiver.receive(&mut slab).unwrap().unwrap();
        assert_eq!((got, range.len()), (header(0), 10));
        assert!(sender.send(header(4), &[]));
        assert_eq!(receiver.receive(&mut slab).unwrap().unwrap().0, header(2));
        assert_eq!(receiver.receive(&mut slab).unwrap().unwrap().0, header(4));
    }

    #[test]
    fn a_full_slab_leaves_the_packet_where_it_is() {
        let (mut sender, mut receiver) = ring(4096, Waker::new().unwrap());
        let mut slab = RecvBatch::new(1);
        slab.store(&[0; 65_000], &[]).unwrap();
        assert!(sender.send(header(0), &[7; 1000]));
        assert_eq!(receiver.receive(&mut slab), Err(NoRoom));
        slab.clear();
        assert!(receiver.receive(&mut slab).unwrap().is_some());
    }

    #[test]
    fn the_reader_is_woken_once_for_many_packets() {
        use crate::net::epoll::{Epoll, Interest};
        use std::os::fd::AsFd;
        let waker = Waker::new().unwrap();
        let mut epoll = Epoll::new(1).unwrap();
        epoll.add(waker.as_fd(), 1, Interest::Read).unwrap();
        let (mut sender, _receiver) = ring(4096, waker);
        sender.wake_reader();
        assert_eq!(epoll.wait(Some(core::time::Duration::ZERO)).unwrap(), 0);
        sender.send(header(0), b"a");
        sender.send(header(0), b"b");
        sender.wake_reader();
        assert_eq!(epoll.wait(Some(core::time::Duration::ZERO)).unwrap(), 1);
    }
}
