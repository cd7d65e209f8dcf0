//! Queues that release memory after a burst.

use std::collections::VecDeque;

/// Takes the first element. Once the queue is empty, releases what a burst made it grow by.
pub fn take_first<T>(queue: &mut VecDeque<T>) -> Option<T> {
    const KEPT: usize = 256;
    let first = queue.pop_front();
    if queue.is_empty() && queue.capacity() > KEPT {
        queue.shrink_to(KEPT);
    }
    first
}
