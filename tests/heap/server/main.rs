//! What workers do not allocate for a packet, and do not keep for who has not shown its login. Counted, not believed.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

#[cfg(feature = "dtls")]
mod dtls_waiting;
mod relaying;

use relay_testkit::heap::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;
