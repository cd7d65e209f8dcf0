//! How the process ends: its exit statuses, and what it says where there is no log.

use std::io::{self, Write as _};

/// Something could not be bound, or the system refused something at start.
pub(super) const EXIT_FAILED: u8 = 1;
/// A worker died (EX_SOFTWARE).
pub(super) const EXIT_BUG: u8 = 70;
/// The configuration cannot work (EX_CONFIG).
pub(super) const EXIT_CONFIG: u8 = 78;

/// One text on standard error, for when there is no log yet.
pub(super) fn say(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}
