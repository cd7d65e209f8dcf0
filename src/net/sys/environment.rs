//! The memory of the process environment. `/proc/PID/environ` shows it to every process of the same
//! user for as long as the process lives.

#![expect(
    unsafe_code,
    reason = "environ(7) is an array of C strings, and nothing safe writes to it"
)]

use core::ffi::{CStr, c_char};
use std::io;

// SAFETY: the C library defines it, with this type.
unsafe extern "C" {
    /// `environ(7)`.
    static environ: *const *mut c_char;
}

/// Overwrites with zero bytes the values of the variables that `is_meant` selects. They are empty
/// from then on.
///
/// # Errors
/// If there is, or may be, a second thread, which could read them. Then nothing is overwritten.
pub fn wipe(is_meant: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there is a second thread"));
    }
    // SAFETY: this is the only thread, so no other code changes the array or the texts, or holds a
    // pointer into them: the standard library copies what it returns. The array ends with a null
    // pointer and each text with a zero byte. The kernel or the C library put them into writable
    // memory of this process.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            let text = *next;
            let bytes = CStr::from_ptr(text).to_bytes();
            let (len, name) = (bytes.len(), bytes.split(|&byte| byte == b'=').next().unwrap_or(bytes));
            let begin = name.len() + 1;
            if is_meant(name) {
                for at in begin..len {
                    text.add(at).write_volatile(0);
                }
            }
            next = next.add(1);
        }
    }
    Ok(())
}
