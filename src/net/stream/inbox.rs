//! Received plaintext that is not yet taken as messages.

use super::buffers;

/// Most bytes of capacity that an inbox keeps for a partial message while its stream is idle.
const KEPT: usize = 4096;

/// Bytes in arrival order. While a read is processed they are in a lent buffer. The remainder, at
/// most one partial message, moves to `rest`.
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

    /// The received bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.lent {
            Some(buffer) => &buffer[self.start..self.end],
            None => &self.rest,
        }
    }

    /// Room for at least `len` more bytes; report with [`Self::filled`] how many were written.
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

    /// Takes `len` bytes off the front. They stay readable until the next call that takes `&mut
    /// self`.
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

    /// Returns the lent buffer when no whole message is left.
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

    /// Heap memory in use.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + seed) as u8).collect()
    }

    #[test]
    fn what_was_taken_makes_room_and_what_is_left_stays_as_it_was() {
        let len = buffers::READ_BUFFER;
        let mut inbox = Inbox::default();
        let all = pattern(len - 100, 0);
        inbox.extend(&all);
        assert_eq!(inbox.take(len - 200), &all[..len - 200]);
        // First exactly the rest of the buffer, then more.
        assert_eq!(inbox.room(100).len(), 100);
        assert_eq!(inbox.start, len - 200, "nothing has to be moved");
        let more = pattern(101, 9);
        inbox.extend(&more);
        let left = [&all[len - 200..], &more[..]].concat();
        assert_eq!(inbox.bytes(), left);
        assert_eq!(inbox.lent.as_ref().map(Vec::len), Some(len), "there was room in front");
        let most = pattern(len, 3);
        inbox.extend(&most);
        assert_eq!(inbox.bytes(), [left, most].concat());
        assert_eq!(
            inbox.lent.as_ref().map(Vec::len),
            Some(len + 201),
            "longer by what was wanting"
        );
    }

    #[test]
    fn memory_is_that_of_the_buffers() {
        let mut inbox = Inbox::new(pattern(100, 0));
        assert_eq!(inbox.memory(), 100);
        inbox.room(1);
        let lent = inbox.lent.as_ref().map_or(0, Vec::capacity);
        assert_eq!(inbox.memory(), lent + inbox.rest.capacity());
        assert!(lent >= buffers::READ_BUFFER && inbox.rest.capacity() >= 100);
    }

    #[test]
    fn early_bytes_longer_than_a_buffer_are_all_there() {
        let early = pattern(buffers::READ_BUFFER + 10, 1);
        let mut inbox = Inbox::new(early.clone());
        assert_eq!(inbox.bytes(), early);
        assert_eq!(inbox.take(5), &early[..5]);
        assert_eq!(inbox.bytes(), &early[5..]);
    }
}
