//! Plaintext received and not yet taken as messages.

use super::buffers;

/// Most bytes of capacity an inbox keeps for the rest of a message while its stream is idle.
const KEPT: usize = 4096;

/// Bytes in arrival order. While a read is being worked through they stand in a lent buffer; what is left of it, at
/// most one message begun, moves into `rest`.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    lent: Option<Vec<u8>>,
    start: usize,
    end: usize,
    rest: Vec<u8>,
}

impl Inbox {
    pub(super) fn new(early: Vec<u8>) -> Self {
        Self {
            lent: None,
            start: 0,
            end: 0,
            rest: early,
        }
    }

    /// What has arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.lent {
            Some(buffer) => &buffer[self.start..self.end],
            None => &self.rest,
        }
    }

    /// Room for at least `len` more bytes; tell with [`Self::filled`] how many were written.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let buffer = self.lent.get_or_insert_with(|| {
            let mut buffer = buffers::take_read_buffer();
            if buffer.len() < self.rest.len() {
                buffer.resize(self.rest.len(), 0);
            }
            buffer[..self.rest.len()].copy_from_slice(&self.rest);
            (self.start, self.end) = (0, self.rest.len());
            self.rest.clear();
            buffer
        });
        if buffer.len() - self.end < len {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if buffer.len() - self.end < len {
                buffer.resize(self.end + len, 0);
            }
        }
        &mut buffer[self.end..]
    }

    /// `len` bytes were written into [`Self::room`].
    pub(super) fn filled(&mut self, len: usize) {
        self.end += len;
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Takes `len` bytes off the front. They stay readable until the next call that takes `&mut self`.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        if self.lent.is_none() {
            // Early bytes: rare, and only once per stream.
            self.room(0);
        }
        let from = self.start;
        self.start = (from + len).min(self.end);
        let to = self.start;
        self.lent.as_deref().map_or(&[], |buffer| &buffer[from..to])
    }

    /// No whole message is left: gives the lent buffer back.
    pub(super) fn settle(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.rest.clear();
            let left = &buffer[self.start..self.end];
            if self.rest.capacity() > KEPT && left.len() <= KEPT {
                self.rest.shrink_to(left.len());
            }
            self.rest.extend_from_slice(left);
            buffers::give_read_buffer(buffer);
        }
    }

    /// Heap memory held.
    pub(super) fn memory(&self) -> usize {
        self.rest.capacity() + self.lent.as_ref().map_or(0, Vec::capacity)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(buffer) = self.lent.take() {
            buffers::give_read_buffer(buffer);
        }
    }
}
