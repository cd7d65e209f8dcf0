//! What streams do not allocate, and what strangers do not leave behind. Counted, not believed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, of which some tell what they measured"
)]

#[cfg(feature = "dtls")]
mod dtls_flood;
mod stream;

use relay_testkit::heap::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn the_counter_counts() {
    let allocations = relay_testkit::heap::allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(allocations, 1);
}
