//! Exit statuses, and messages without a log.

use std::io::{self, Write as _};

/// An address could not be bound, or the system refused something at start.
pub(super) const EXIT_FAILED: u8 = 1;
/// A worker died (EX_SOFTWARE).
pub(super) const EXIT_BUG: u8 = 70;
/// The configuration is invalid (EX_CONFIG).
pub(super) const EXIT_CONFIG: u8 = 78;

/// Prints a text on standard error, for the time without a log.
pub(super) fn say(text: &str) {
    // Without standard error there is no place for it.
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}
