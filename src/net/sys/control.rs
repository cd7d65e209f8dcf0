//! Control messages (`cmsg(3)`) as bytes: a header of length, level and type, then the data, each
//! aligned to a word.
//!
//! ```text
//! length: usize (header + data) | level: i32 | type: i32 | data … | padding to size_of::<usize>()
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Size of the datagrams into which a large one is split, set or reported (`UDP_SEGMENT`, `UDP_GRO`
/// of `linux/udp.h`).
pub(crate) const UDP_SEGMENT: i32 = 103;
/// See [`UDP_SEGMENT`].
pub(crate) const UDP_GRO: i32 = 104;

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

/// Space for the control messages of one message: more than the kernel sends with the options of
/// `options`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct ControlBuffer {
    bytes: [u8; Self::CAPACITY],
}

impl ControlBuffer {
    /// Bytes the kernel may write.
    pub(crate) const CAPACITY: usize = 160;
    /// Nothing in it.
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
    };

    /// Appends one control message after the first `len` bytes, and returns the new length. Omits
    /// what does not fit; no caller's set of messages is that long.
    fn append(&mut self, len: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let end = len + HEADER + data.len().next_multiple_of(WORD);
        let Some(room) = self.bytes.get_mut(len..end) else {
            return len;
        };
        room.fill(0);
        room[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        room[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        room[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..HEADER + data.len()].copy_from_slice(data);
        end
    }

    /// Makes the kernel split the message into datagrams of `size` bytes.
    pub(crate) fn segment(&mut self, len: usize, size: u16) -> usize {
        self.append(len, libc::SOL_UDP, UDP_SEGMENT, &size.to_ne_bytes())
    }

    /// Sends from local address `ip` (a wildcard socket of the same family).
    pub(crate) fn source(&mut self, len: usize, ip: IpAddr) -> usize {
        match ip {
            // struct in_pktinfo { ifindex 0: by route, spec_dst: the source, addr: ignored on
            // sending }
            IpAddr::V4(v4) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.octets());
                self.append(len, libc::SOL_IP, libc::IP_PKTINFO, &info)
            }
            // struct in6_pktinfo { addr, ifindex 0: by route }
            IpAddr::V6(v6) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.octets());
                self.append(len, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info)
            }
        }
    }

    /// Sends with this DSCP and ECN.
    pub(crate) fn traffic_class(&mut self, len: usize, tos: u8, ipv6: bool) -> usize {
        let value = i32::from(tos).to_ne_bytes();
        if ipv6 {
            self.append(len, libc::SOL_IPV6, libc::IPV6_TCLASS, &value)
        } else {
            self.append(len, libc::SOL_IP, libc::IP_TOS, &value)
        }
    }

    /// The messages in the first `len` bytes.
    pub(crate) fn messages(&self, len: usize) -> Messages<'_> {
        Messages {
            rest: &self.bytes[..len.min(Self::CAPACITY)],
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

/// Iterates over `(level, type, data)`.
#[derive(Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, tail) = self.rest.split_first_chunk::<WORD>()?;
        let (level, tail) = tail.split_first_chunk::<4>()?;
        let (kind, _) = tail.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
    }
}

/// The control data of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ancillary {
    /// Size of the datagrams coalesced into this one.
    pub(crate) segment: Option<usize>,
    /// Local address that it was sent to.
    pub(crate) local: Option<IpAddr>,
    /// DSCP and ECN.
    pub(crate) tos: u8,
}

impl Ancillary {
    /// Reads the messages this module knows and ignores the rest.
    pub(crate) fn read(messages: Messages<'_>) -> Self {
        let mut out = Self::default();
        for (level, kind, data) in messages {
            match (level, kind) {
                (libc::SOL_UDP, UDP_GRO) => {
                    // Always an int. A zero is not a segment size.
                    out.segment = word(data, 0).map(|v| v as usize).filter(|&v| v > 0);
                }
                // spec_dst: our own address even if the datagram was sent to a broadcast address.
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    out.local = bytes::<4>(data, 4).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    out.local = bytes::<16>(data, 0).map(|b| Ipv6Addr::from(b).to_canonical());
                }
                (libc::SOL_IP, libc::IP_TOS) => out.tos = data.first().copied().unwrap_or(0),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => out.tos = word(data, 0).map_or(0, |v| v as u8),
                _ => {}
            }
        }
        out
    }
}

/// An error report from the error queue (`struct sock_extended_err`, `ip(7)` under IP_RECVERR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    /// errno of the error.
    pub(crate) errno: i32,
    /// `SO_EE_ORIGIN_*`.
    pub(crate) origin: u8,
    /// ICMP type.
    pub(crate) kind: u8,
    /// ICMP code.
    pub(crate) code: u8,
    /// The next hop's MTU for "packet too big", else 0 or a parameter.
    pub(crate) info: u32,
}

impl ExtendedError {
    /// The report among these messages, if any.
    pub(crate) fn read(messages: Messages<'_>) -> Option<Self> {
        for (level, kind, data) in messages {
            if matches!(
                (level, kind),
                (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
            ) {
                let [origin, icmp_type, code, _pad] = bytes::<4>(data, 4)?;
                return Some(Self {
                    errno: word(data, 0)? as i32,
                    origin,
                    kind: icmp_type,
                    code,
                    info: word(data, 8)?,
                });
            }
        }
        None
    }
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk::<N>().copied()
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    bytes::<4>(data, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_messages_read_back_in_order() {
        let mut buffer = ControlBuffer::EMPTY;
        let mut len = buffer.segment(0, 1200);
        len = buffer.source(len, "192.0.2.1".parse().unwrap());
        len = buffer.traffic_class(len, 0xb8, false);
        let all: Vec<_> = buffer.messages(len).map(|(l, k, d)| (l, k, d.len())).collect();
        assert_eq!(
            all,
            [
                (libc::SOL_UDP, UDP_SEGMENT, 2),
                (libc::SOL_IP, libc::IP_PKTINFO, 12),
                (libc::SOL_IP, libc::IP_TOS, 4)
            ]
        );
        let read = Ancillary::read(buffer.messages(len));
        assert_eq!(read.local, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(read.tos, 0xb8);
    }

    #[test]
    fn everything_we_ever_send_with_one_message_fits() {
        let mut buffer = ControlBuffer::EMPTY;
        let mut len = buffer.segment(0, 1200);
        len = buffer.source(len, "2001:db8::1".parse().unwrap());
        let before = len;
        len = buffer.traffic_class(len, 3, true);
        assert!(len > before, "nothing was left out");
        assert_eq!(buffer.messages(len).count(), 3);
        assert_eq!(Ancillary::read(buffer.messages(len)).tos, 3);
    }

    #[test]
    fn a_full_buffer_leaves_out_whole_messages_only() {
        let mut buffer = ControlBuffer::EMPTY;
        let mut len = 0;
        for _ in 0..20 {
            len = buffer.source(len, "2001:db8::1".parse().unwrap());
        }
        assert!(len <= ControlBuffer::CAPACITY);
        assert!(buffer.messages(len).all(|(_, _, data)| data.len() == 20));
    }

    #[test]
    fn broken_lengths_end_the_iteration() {
        let mut buffer = ControlBuffer::EMPTY;
        let len = buffer.segment(0, 9);
        for bad in [0usize, 1, HEADER - 1, usize::MAX, len + 1] {
            let mut broken = buffer;
            broken.bytes[..WORD].copy_from_slice(&bad.to_ne_bytes());
            assert_eq!(broken.messages(len).count(), 0, "length {bad}");
        }
        for cut in 0..HEADER {
            assert_eq!(buffer.messages(cut).count(), 0, "cut at {cut}");
        }
    }

    #[test]
    fn an_error_report_is_read_by_field() {
        let mut data = [0u8; 16];
        data[..4].copy_from_slice(&111i32.to_ne_bytes());
        data[4..8].copy_from_slice(&[2, 3, 4, 0]);
        data[8..12].copy_from_slice(&1280u32.to_ne_bytes());
        let mut buffer = ControlBuffer::EMPTY;
        let len = buffer.append(0, libc::SOL_IP, libc::IP_RECVERR, &data);
        assert_eq!(
            ExtendedError::read(buffer.messages(len)),
            Some(ExtendedError {
                errno: 111,
                origin: 2,
                kind: 3,
                code: 4,
                info: 1280
            })
        );
        let short = buffer.append(0, libc::SOL_IP, libc::IP_RECVERR, &data[..11]);
        assert_eq!(ExtendedError::read(buffer.messages(short)), None);
    }
}
