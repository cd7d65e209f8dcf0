//! The memory the environment was handed over in. `/proc/PID/environ` shows it for as long as the process lives, to every
//! process of the same user.

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

/// Overwrites the values of the variables that `is_meant` names with zero bytes. From then on they are empty.
///
/// # Errors
/// When there is a second thread, which may be reading them, or that cannot be told. Then nothing is overwritten.
pub fn wipe(is_meant: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("there is a second thread"));
    }
    // SAFETY: this is the only thread, so nobody changes the array, or the texts, or holds a pointer into them: the
    // standard library copies what it gives out. The array ends with a null pointer, each text with a zero byte, and the
    // kernel, or the C library, has put them into memory of this process that may be written.
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
