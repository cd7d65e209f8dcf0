//! Datagrams waiting to be sent: grouped by socket, and joined into messages that the kernel splits
//! again.
//!
//! ```text
//! group (socket) -> message (destination, source, class) -> message -> ...
//!                      | header, data, padding | header, data, padding | ...    one GSO message
//! ```
//! Messages and pieces are linked by index, because packets of different sockets arrive
//! interleaved.

use std::net::{IpAddr, SocketAddr};

use super::datagram::{Datagram, Full};

/// Limits of one batch. Reaching one gives [`Full`].
const MAX_MESSAGES: usize = 1024;
const MAX_PIECES: usize = 4096;
const MAX_ARENA: usize = 64 * 1024;
/// Limits of one GSO message: the kernel accepts 64 segments, and an IPv4 datagram of less than 64
/// KiB.
pub(super) const GSO_SEGMENTS: u16 = 64;
const GSO_BYTES: usize = 65_000;
/// Most pieces of one datagram: header, data, padding.
pub(super) const PIECES_PER_DATAGRAM: usize = 3;
/// Zero bytes at the start of the arena, for padding.
const PADDING: usize = 4;

/// No message, no piece.
pub(super) const NONE: u32 = u32::MAX;

/// The outgoing messages of one socket.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub(super) egress: u32,
    pub(super) first: u32,
    last: u32,
}

/// The open group of a socket, valid for one epoch.
#[derive(Clone, Copy)]
struct Mark {
    epoch: u64,
    group: u32,
}

/// Datagrams that the kernel may receive as one.
#[derive(Clone, Copy)]
pub(super) struct Segments {
    pub(super) destination: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) tos: u8,
    pub(super) dont_fragment: bool,
    /// No more datagrams may join, because the last one was shorter.
    closed: bool,
    pub(super) datagrams: u16,
    /// Size of each datagram except the last.
    pub(super) size: usize,
    bytes: usize,
    pub(super) first_piece: u32,
    last_piece: u32,
    pub(super) next: u32,
}

/// Consecutive bytes.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    start: u32,
    len: u32,
    pub(super) next: u32,
    /// In the arena, not in the slab.
    arena: bool,
    /// The last piece of its datagram.
    pub(super) last: bool,
}

/// A position in a group: a message, and the first piece of one of its datagrams.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    pub(super) message: u32,
    pub(super) piece: u32,
}

/// The datagrams of one batch. Bounded; allocates only for sockets that are new to it
/// ([`Self::reserve_egress`]).
pub(super) struct Queue {
    groups: Vec<Group>,
    marks: Vec<Mark>,
    epoch: u64,
    messages: Vec<Segments>,
    pieces: Vec<Piece>,
    arena: Vec<u8>,
}

impl Queue {
    pub(super) fn new() -> Self {
        let mut arena = Vec::with_capacity(MAX_ARENA);
        arena.resize(PADDING, 0);
        Self {
            groups: Vec::with_capacity(MAX_MESSAGES),
            marks: Vec::new(),
            epoch: 1,
            messages: Vec::with_capacity(MAX_MESSAGES),
            pieces: Vec::with_capacity(MAX_PIECES),
            arena,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn reserve_egress(&mut self, count: usize) {
        if self.marks.len() < count {
            self.marks.resize(count, Mark { epoch: 0, group: 0 });
        }
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.messages.clear();
        self.pieces.clear();
        self.arena.truncate(PADDING);
        self.epoch += 1;
    }

    pub(super) fn group(&self, index: usize) -> Option<Group> {
        self.groups.get(index).copied()
    }

    pub(super) fn message(&self, index: u32) -> &Segments {
        &self.messages[index as usize]
    }

    pub(super) fn piece(&self, index: u32) -> Piece {
        self.pieces[index as usize]
    }

    /// The bytes of a piece. `slab` is what [`Datagram::data`] refers to.
    pub(super) fn bytes<'a>(&'a self, piece: Piece, slab: &'a [u8]) -> &'a [u8] {
        let from = if piece.arena { &self.arena[..] } else { slab };
        from.get(piece.start as usize..(piece.start + piece.len) as usize)
            .unwrap_or_default()
    }

    /// The start of a message; `None` after the last.
    pub(super) fn cursor(&self, message: u32) -> Option<Cursor> {
        (message != NONE).then(|| Cursor {
            message,
            piece: self.message(message).first_piece,
        })
    }

    /// How many datagrams of a message are left from `at` on.
    pub(super) fn datagrams_from(&self, at: Cursor) -> u64 {
        let mut left = 0;
        let mut index = at.piece;
        while index != NONE {
            left += u64::from(self.piece(index).last);
            index = self.piece(index).next;
        }
        left
    }

    /// Adds a datagram after all others of its socket.
    ///
    /// # Errors
    /// [`Full`]: flush first. A header that is too long for an empty batch never fits.
    pub(super) fn push(&mut self, datagram: &Datagram<'_>) -> Result<(), Full> {
        if self.messages.len() == MAX_MESSAGES
            || self.pieces.len() + PIECES_PER_DATAGRAM > MAX_PIECES
            || self.arena.len() + datagram.header.len() > MAX_ARENA
        {
            return Err(Full);
        }
        let group = self.group_of(datagram.egress);
        let last = self.groups[group].last;
        if last != NONE && joins(&self.messages[last as usize], datagram) {
            self.append_pieces(last, datagram);
            let message = &mut self.messages[last as usize];
            message.datagrams += 1;
            message.bytes += datagram.len();
            message.closed = datagram.len() < message.size;
            return Ok(());
        }
        let index = self.messages.len() as u32;
        self.messages.push(Segments {
            destination: datagram.destination,
            source: datagram.source,
            tos: datagram.tos,
            dont_fragment: datagram.dont_fragment,
            closed: datagram.len() == 0,
            datagrams: 1,
            size: datagram.len(),
            bytes: datagram.len(),
            first_piece: NONE,
            last_piece: NONE,
            next: NONE,
        });
        self.append_pieces(index, datagram);
        if last == NONE {
            self.groups[group].first = index;
        } else {
            self.messages[last as usize].next = index;
        }
        self.groups[group].last = index;
        Ok(())
    }

    fn group_of(&mut self, egress: u32) -> usize {
        self.reserve_egress(egress as usize + 1);
        let mark = &mut self.marks[egress as usize];
        if mark.epoch != self.epoch {
            *mark = Mark {
                epoch: self.epoch,
                group: self.groups.len() as u32,
            };
            self.groups.push(Group {
                egress,
                first: NONE,
                last: NONE,
            });
        }
        mark.group as usize
    }

    fn append_pieces(&mut self, message: u32, datagram: &Datagram<'_>) {
        if !datagram.header.is_empty() {
            let start = self.arena.len();
            self.arena.extend_from_slice(datagram.header);
            self.append_piece(message, start, datagram.header.len(), true);
        }
        // An empty datagram still has one piece, so that it has a last one.
        if !datagram.data.is_empty() || datagram.header.is_empty() {
            self.append_piece(message, datagram.data.start, datagram.data.len(), false);
        }
        if datagram.padding > 0 {
            self.append_piece(message, 0, datagram.padding.min(PADDING), true);
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.last = true;
        }
    }

    fn append_piece(&mut self, message: u32, start: usize, len: usize, arena: bool) {
        let index = self.pieces.len() as u32;
        self.pieces.push(Piece {
            start: start as u32,
            len: len as u32,
            next: NONE,
            arena,
            last: false,
        });
        let message = &mut self.messages[message as usize];
        if message.first_piece == NONE {
            message.first_piece = index;
        } else {
            self.pieces[message.last_piece as usize].next = index;
        }
        message.last_piece = index;
    }
}

/// Whether `datagram` can be the next segment of `message`.
fn joins(message: &Segments, datagram: &Datagram<'_>) -> bool {
    let len = datagram.len();
    !message.closed
        && len <= message.size
        && len > 0
        && message.datagrams < GSO_SEGMENTS
        && message.bytes + len <= GSO_BYTES
        && message.destination == datagram.destination
        && message.source == datagram.source
        && message.tos == datagram.tos
        && message.dont_fragment == datagram.dont_fragment
}

#[cfg(test)]
mod tests;
