//! The send queue of one client: whole frames, and what to drop when the client reads too slowly.

use core::time::Duration;
use std::io::IoSlice;

use super::buffers::{self, FrameMark, Ring};
use relay_proto::base::time::Instant;

/// Most bytes of capacity kept for a partial frame while its stream is idle.
const KEPT: usize = 4096;
/// Source of padding.
const ZEROS: [u8; 3] = [0; 3];

/// Frames of one kind, oldest first.
#[derive(Debug, Default)]
struct Frames {
    ring: Ring,
}

impl Frames {
    fn is_empty(&self) -> bool {
        self.ring.frames.is_empty()
    }

    fn bytes(&self) -> usize {
        self.ring.bytes.len()
    }

    fn push(&mut self, now: Instant, parts: [&[u8]; 3]) {
        if self.ring.bytes.capacity() == 0 {
            self.ring = buffers::take_ring();
        }
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        self.ring.bytes.reserve(len);
        for part in parts {
            self.ring.bytes.extend(part);
        }
        self.ring.frames.push_back(FrameMark {
            len: u32::try_from(len).unwrap_or(u32::MAX),
            queued_at: now,
        });
    }

    fn oldest(&self) -> Option<Instant> {
        self.ring.frames.front().map(|frame| frame.queued_at)
    }

    fn front_len(&self) -> Option<usize> {
        self.ring.frames.front().map(|frame| frame.len as usize)
    }

    fn drop_oldest(&mut self) {
        if let Some(frame) = self.ring.frames.pop_front() {
            self.ring.bytes.drain(..frame.len as usize);
        }
    }

    /// Length of the whole frames that fit into `limit`; of at least one frame if `at_least_one`.
    fn whole_within(&self, limit: usize, at_least_one: bool) -> usize {
        let mut total = 0;
        for frame in &self.ring.frames {
            let next = total + frame.len as usize;
            if next > limit && !(at_least_one && total == 0) {
                break;
            }
            total = next;
        }
        total
    }

    /// Removes `written` bytes from the front. If that cuts a frame, its remainder goes to `rest`.
    fn advance(&mut self, mut written: usize, rest: &mut Vec<u8>) {
        while let Some(len) = self.front_len() {
            if written == 0 {
                break;
            }
            if written < len {
                rest.extend(self.ring.bytes.range(written..len));
                self.drop_oldest();
                break;
            }
            written -= len;
            self.drop_oldest();
        }
    }

    fn slices(&self, limit: usize) -> [&[u8]; 2] {
        let (front, back) = self.ring.bytes.as_slices();
        let in_front = limit.min(front.len());
        [&front[..in_front], &back[..(limit - in_front).min(back.len())]]
    }

    fn release(&mut self) {
        buffers::give_ring(core::mem::take(&mut self.ring));
    }
}

/// What was dropped because a client reads too slowly; only application data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Frames that waited too long.
    pub aged: u64,
    /// Frames that found no room.
    pub overflowed: u64,
}

impl Dropped {
    /// The sum of both.
    pub const fn total(self) -> u64 {
        self.aged + self.overflowed
    }
}

/// The queue of one stream. Control precedes data: responses may be reordered because they carry
/// transaction ids, and a response delayed by media would be retransmitted or given up.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    control: Frames,
    data: Frames,
    /// The remainder of a partially written frame, which must be sent first.
    rest: Vec<u8>,
    rest_start: usize,
    dropped: Dropped,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty() && self.rest_len() == 0
    }

    fn rest_len(&self) -> usize {
        self.rest.len() - self.rest_start
    }

    /// Bytes in the queue.
    pub(super) fn bytes(&self) -> usize {
        self.control.bytes() + self.data.bytes() + self.rest_len()
    }

    /// When the oldest application data was queued.
    pub(super) fn oldest_data(&self) -> Option<Instant> {
        self.data.oldest()
    }

    /// Queues control; `false` if that would exceed `limit` bytes.
    pub(super) fn push_control(&mut self, now: Instant, frame: [&[u8]; 2], padding: usize, limit: usize) -> bool {
        if self.control.bytes() + frame[0].len() + frame[1].len() + padding > limit {
            return false;
        }
        self.control.push(now, [frame[0], frame[1], &ZEROS[..padding.min(3)]]);
        true
    }

    /// Queues application data, and drops the oldest if there is no room.
    pub(super) fn push_data(&mut self, now: Instant, frame: [&[u8]; 2], padding: usize, limit: usize) {
        let len = frame[0].len() + frame[1].len() + padding;
        if len > limit {
            self.dropped.overflowed += 1;
            return;
        }
        while self.data.bytes() + len > limit {
            self.data.drop_oldest();
            self.dropped.overflowed += 1;
        }
        self.data.push(now, [frame[0], frame[1], &ZEROS[..padding.min(3)]]);
    }

    /// Drops application data that has waited longer than `age`.
    pub(super) fn expire(&mut self, now: Instant, age: Duration) {
        while self.data.oldest().is_some_and(|queued_at| now - queued_at > age) {
            self.data.drop_oldest();
            self.dropped.aged += 1;
        }
    }

    pub(super) fn take_dropped(&mut self) -> Dropped {
        core::mem::take(&mut self.dropped)
    }

    /// The next bytes to write, in order: whole frames of at most `limit` bytes together, or a
    /// single longer one.
    pub(super) fn next_chunk(&self, limit: usize) -> Chunk<'_> {
        let rest = &self.rest[self.rest_start..];
        let left = limit.saturating_sub(rest.len());
        let control = self.control.whole_within(left, rest.is_empty());
        let data = if control == self.control.bytes() {
            self.data
                .whole_within(left - control.min(left), rest.is_empty() && control == 0)
        } else {
            0
        };
        let ([control_0, control_1], [data_0, data_1]) = (self.control.slices(control), self.data.slices(data));
        Chunk {
            slices: [rest, control_0, control_1, data_0, data_1],
            len: rest.len() + control + data,
        }
    }

    /// Removes the first `written` bytes of a chunk.
    pub(super) fn advance(&mut self, written: usize) {
        let from_rest = written.min(self.rest_len());
        self.rest_start += from_rest;
        if self.rest_start == self.rest.len() {
            self.rest.clear();
            self.rest_start = 0;
        }
        let mut left = written - from_rest;
        let from_control = left.min(self.control.bytes());
        self.control.advance(from_control, &mut self.rest);
        left -= from_control;
        self.data.advance(left, &mut self.rest);
    }

    /// Everything queued, in the order of writing.
    pub(super) fn unsent(&self) -> Vec<u8> {
        self.next_chunk(usize::MAX).slices.concat()
    }

    /// Releases memory when the queue is empty.
    pub(super) fn release(&mut self) {
        self.control.release();
        self.data.release();
        if self.rest.capacity() > KEPT {
            self.rest = Vec::new();
        }
    }

    /// Heap memory in use.
    pub(super) fn memory(&self) -> usize {
        let frames =
            |frames: &Frames| frames.ring.bytes.capacity() + frames.ring.frames.capacity() * size_of::<FrameMark>();
        frames(&self.control) + frames(&self.data) + self.rest.capacity()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.control.release();
        self.data.release();
    }
}

/// Bytes to write together.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    slices: [&'a [u8]; 5],
    len: usize,
}

impl<'a> Chunk<'a> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// For gather I/O, without empty slices: the first `.1` entries.
    pub(super) fn io_slices(&self) -> ([IoSlice<'a>; 5], usize) {
        let mut out = [IoSlice::new(&[]); 5];
        let mut used = 0;
        for slice in self.slices.iter().filter(|slice| !slice.is_empty()) {
            out[used] = IoSlice::new(slice);
            used += 1;
        }
        (out, used)
    }
}
