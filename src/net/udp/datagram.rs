//! One datagram, as it is handed to a batch.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// One datagram to send.
#[derive(Clone, Debug)]
pub struct Datagram<'a> {
    /// The socket, by the caller's number.
    pub egress: u32,
    /// Destination.
    pub destination: SocketAddr,
    /// Local address to send from; only on a wildcard socket.
    pub source: Option<IpAddr>,
    /// DSCP and ECN to send with; 0: best effort, Not-ECT.
    pub tos: u8,
    /// Set DF and do not fragment.
    pub dont_fragment: bool,
    /// Bytes before the data; copied.
    pub header: &'a [u8],
    /// Range of the slab given to `SendBatch::flush`.
    pub data: Range<usize>,
    /// Zero bytes after the data, at most 3.
    pub padding: usize,
}

impl Datagram<'_> {
    pub(super) fn len(&self) -> usize {
        self.header.len() + self.data.len() + self.padding
    }
}

/// The batch must be flushed before it takes this datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;
