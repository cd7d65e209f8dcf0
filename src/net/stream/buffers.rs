//! Buffers that a thread lends to its busy streams.
//!
//! Thousands of streams are idle while one is served, so no stream owns a large buffer: it borrows
//! one, and returns it once it is empty. Contents never outlive the loan, so the lending thread
//! affects only memory use.

use std::cell::RefCell;
use std::collections::VecDeque;

use relay_proto::base::time::Instant;

/// Size of a read buffer: the longest partial frame, and room for another read.
pub(super) const READ_BUFFER: usize = 128 * 1024;
/// Read buffers that a thread keeps. At most one for ciphertext and one for plaintext are in use at
/// a time.
const SPARE_READ_BUFFERS: usize = 4;
/// Send queues that a thread keeps: about as many as the streams it sends to in one turn.
const SPARE_RINGS: usize = 256;
/// Most bytes that a thread keeps in send queues.
const SPARE_RING_BYTES: usize = 4 * 1024 * 1024;

/// Storage of a send queue: the bytes of whole frames, one after another, and the end of each.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) bytes: VecDeque<u8>,
    pub(super) frames: VecDeque<FrameMark>,
}

/// One queued frame. Its bytes follow those of the previous frame in the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameMark {
    pub(super) len: u32,
    pub(super) queued_at: Instant,
}

#[derive(Default)]
struct Spare {
    read_buffers: Vec<Vec<u8>>,
    rings: Vec<Ring>,
    ring_bytes: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::new(Spare::default());
}

/// A buffer of [`READ_BUFFER`] bytes with unspecified contents.
pub(crate) fn take_read_buffer() -> Vec<u8> {
    SPARE
        .try_with(|spare| spare.borrow_mut().read_buffers.pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| vec![0; READ_BUFFER])
}

/// Returns a read buffer.
pub(crate) fn give_read_buffer(buffer: Vec<u8>) {
    if buffer.len() != READ_BUFFER {
        return;
    }
    // Fails only while the thread exits; then the buffer is freed.
    let _ = SPARE.try_with(|spare| {
        let buffers = &mut spare.borrow_mut().read_buffers;
        if buffers.len() < SPARE_READ_BUFFERS {
            buffers.push(buffer);
        }
    });
}

/// An empty send queue.
pub(super) fn take_ring() -> Ring {
    let take = |spare: &RefCell<Spare>| {
        let mut spare = spare.borrow_mut();
        let ring = spare.rings.pop()?;
        spare.ring_bytes -= ring.bytes.capacity();
        Some(ring)
    };
    SPARE.try_with(take).ok().flatten().unwrap_or_default()
}

/// Clears a send queue and returns it.
pub(super) fn give_ring(mut ring: Ring) {
    let size = ring.bytes.capacity();
    if size == 0 {
        return;
    }
    ring.bytes.clear();
    ring.frames.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.rings.len() < SPARE_RINGS && spare.ring_bytes + size <= SPARE_RING_BYTES {
            spare.ring_bytes += size;
            spare.rings.push(ring);
        }
    });
}
