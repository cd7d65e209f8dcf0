//! The one way by which the program reads and writes files: the configuration, certificates and keys, secrets, API keys
//! (`read`), and what it keeps for itself (`own`).
//!
//! A path in the configuration is whatever the machine makes of it at that moment: a FIFO nobody writes to, a device, a
//! mount whose server is gone. So only regular files are read, none larger than its kind can be, and every question to a
//! file system is asked on a thread of its own, which is waited for so long and no longer: a look that never returns
//! holds up neither a signal, nor a reload, nor the start.
//!
//! Not here: `/proc`, which always answers.

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
/// Longest PEM file, in bytes: a chain has a few kilobytes, a system's bundle of roots some hundred.
pub const MAX_PEM: usize = 1024 * 1024;
/// Longest secret, password or key of an API, in bytes: a line, not a book.
pub const MAX_SECRET: usize = 64 * 1024;

/// How long a file system has to answer one question. A busy disk takes milliseconds.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A file that was read.
#[derive(Debug)]
pub struct Contents {
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Who may read and write it: the lowest twelve bits of its mode.
    pub mode: u32,
}

/// Reads a file the operator names, symbolic links followed: that is how certificates are renewed and how secrets get
/// into containers.
///
/// # Errors
/// Those of the system; when it is no regular file; when it is longer than `most` bytes; when the file system does not
/// answer in time.
pub fn read(path: &Path, most: usize) -> io::Result<Contents> {
    let file = path.to_owned();
    within(path, move || {
        // Before it is opened: opening a device can already do something.
        must_be_regular(&stat(&file)?)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        read_open(open(&file, flags, Mode::empty())?.into(), most)
    })
}

/// What is open, whatever its name stands for by now.
fn read_open(file: File, most: usize) -> io::Result<Contents> {
    let state = fstat(&file)?;
    must_be_regular(&state)?;
    let expected = usize::try_from(state.st_size).unwrap_or(usize::MAX);
    if expected > most {
        return Err(too_large(most));
    }
    // Room for all of it at once: growing would leave copies of a secret behind.
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

/// Paths whose look has not come back. One that hangs is not asked again before it does: threads would pile up.
static HANGING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn hanging() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    lock(&HANGING)
}

/// Asks a file system about `path` on a thread of its own and waits for the answer, [`DEADLINE`] at most. Blocks: not for
/// a thread that has other things to do.
///
/// # Errors
/// Those of `work`, and when the time is over.
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
        // Nobody may be waiting any more.
        let _ = sender.send(outcome);
        hanging.remove(&name);
    })?;
    match receiver.recv_timeout(deadline) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that was reading ended")),
        Err(RecvTimeoutError::Timeout) => {
            let mut hanging = hanging();
            // It may have come in between.
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
