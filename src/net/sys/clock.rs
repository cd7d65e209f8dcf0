//! `clock_gettime(2)`.

#![expect(unsafe_code, reason = "clock_gettime takes a pointer")]

use core::time::Duration;

/// `CLOCK_MONOTONIC`: time since an origin that all processes share until the machine boots again. It stands still
/// while the machine sleeps.
pub(crate) fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid `timespec` to write to. The call cannot fail: Linux has had this clock since 2.6.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    // Neither is negative: the clock starts at boot, and nanoseconds are less than a second.
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}
