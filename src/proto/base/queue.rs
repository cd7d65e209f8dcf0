//! Queues that give back what a rush has made grow.

use std::collections::VecDeque;

/// Takes the first element. What a rush has made grow is given back once it is over.
pub fn take_first<T>(queue: &mut VecDeque<T>) -> Option<T> {
    const KEPT: usize = 256;
    let first = queue.pop_front();
    if queue.is_empty() && queue.capacity() > KEPT {
        queue.shrink_to(KEPT);
    }
    first
}
