//! What the codec and the core do not allocate, and do not keep. Counted, not believed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod codec;
mod core;
mod flood;

use relay_testkit::heap::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn the_counter_counts() {
    let allocations = relay_testkit::heap::allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(allocations, 1);
}
