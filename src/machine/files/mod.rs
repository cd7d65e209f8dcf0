//! All access to files: `read` for the configuration, certificates, keys, secrets and API keys;
//! `own` for the server's own files.
//!
//! A path in the configuration may name anything: a FIFO without a writer, a device, a mount whose
//! server is gone. So only regular files are read, each kind has a maximum size, and a thread of
//! its own makes every call to the file system. The caller waits for that thread for a bounded
//! time. A call that never returns delays no signal, no reload and no start.
//!
//! Not used for `/proc`, which always answers.

pub mod own;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, stat};
use zeroize::Zeroizing;

use crate::base::lock::lock;

/// Longest configuration, in bytes.
pub const MAX_CONFIGURATION: usize = 1024 * 1024;
/// Longest PEM file, in bytes. A chain has a few kilobytes, a system's bundle of roots a few
/// hundred.
pub const MAX_PEM: usize = 1024 * 1024;
/// Longest secret, password or API key, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// How long to wait for one answer of a file system. A busy disk takes milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The contents of a file.
#[derive(Debug)]
pub struct Contents {
    /// All bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The lowest twelve bits of its mode.
    pub mode: u32,
}

/// Reads a file that the operator names. Symbolic links are followed: certificates are renewed and
/// secrets mounted into containers that way.
///
/// # Errors
/// Errors of the system. Not a regular file. Longer than `most` bytes. No answer of the file system
/// in time.
pub fn read(path: &Path, most: usize) -> io::Result<Contents> {
    let file = path.to_owned();
    within(path, move || {
        // Checked before opening, because opening a device may have effects.
        must_be_regular(&stat(&file)?)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        read_open(open(&file, flags, Mode::empty())?.into(), most)
    })
}

/// Reads the open file, whatever its path names by now.
fn read_open(file: File, most: usize) -> io::Result<Contents> {
    let state = fstat(&file)?;
    must_be_regular(&state)?;
    let expected = usize::try_from(state.st_size).unwrap_or(usize::MAX);
    if expected > most {
        return Err(too_large(most));
    }
    // Reserve all memory at once: growing would leave copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(too_large(most));
    }
    let mode = state.st_mode & 0o7777;
    Ok(Contents { bytes, mode })
}

fn too_large(most: usize) -> io::Error {
    let message = format!("it has more than {} KiB, which is the most that is read", most / 1024);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn must_be_regular(state: &Stat) -> io::Result<()> {
    let what = match FileType::from_raw_mode(state.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")),
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no file",
    };
    let message = format!("it is {what}, and only regular files are read");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Paths with a call that has not returned. Such a path is not asked again until it returns,
/// because threads would pile up.
static HANGING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn hanging() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    lock(&HANGING)
}

/// Runs `work` on `path` in a thread of its own and waits for the result, [`DEADLINE`] at most. It
/// blocks: do not call it on a thread that serves clients.
///
/// # Errors
/// Those of `work`, and that no result came in time.
pub fn within<T: Send + 'static>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    within_time(path, DEADLINE, work)
}

fn within_time<T: Send + 'static>(
    path: &Path,
    deadline: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if hanging().contains(path) {
        return Err(no_answer(deadline));
    }
    let (sender, receiver) = channel();
    let name = path.to_owned();
    thread::Builder::new().name("relay-file".to_owned()).spawn(move || {
        let outcome = work();
        let mut hanging = hanging();
        // The caller may have given up.
        let _ = sender.send(outcome);
        hanging.remove(&name);
    })?;
    match receiver.recv_timeout(deadline) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that was reading ended")),
        Err(RecvTimeoutError::Timeout) => {
            let mut hanging = hanging();
            // The result may have come in between.
            receiver.try_recv().unwrap_or_else(|_| {
                hanging.insert(path.to_owned());
                Err(no_answer(deadline))
            })
        }
    }
}

fn no_answer(deadline: Duration) -> io::Error {
    let seconds = deadline.as_secs();
    let message = format!("the file system has not answered for {seconds} s. Is it a mount whose server is gone?");
    io::Error::new(io::ErrorKind::TimedOut, message)
}

#[cfg(test)]
mod tests;
