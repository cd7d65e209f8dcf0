//! The first run: the state directory, and the secret that the server generates when none is
//! configured.
//!
//! The secret is 32 random bytes in base64url, which needs no escaping anywhere, in a file that
//! only the server's user may read. The server generates it once; two servers that start at the
//! same moment end up with the same one.

use core::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::files::own::{FileOwner, PRIVATE, StateDir};
use super::{Machine, files};

/// Its name in the state directory.
const SECRET_FILE: &str = "secret";
/// Locked while the secret is generated.
const LOCK_FILE: &str = "secret.lock";
/// Random bytes in a secret.
const SECRET_BYTES: usize = 32;

/// The secret of the first run.
pub struct FirstSecret {
    /// The bytes as services that mint credentials must have them.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The file that holds it.
    pub file: PathBuf,
    /// Whether it was generated just now.
    pub is_new: bool,
}

impl fmt::Debug for FirstSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("file", &self.file)
            .field("is_new", &self.is_new)
            .finish_non_exhaustive()
    }
}

/// A failed operation on a file.
#[derive(Debug)]
pub struct FirstRunError {
    /// The file or directory.
    pub file: PathBuf,
    /// The operation that failed.
    pub doing: &'static str,
    /// Why it failed.
    pub error: io::Error,
}

impl fmt::Display for FirstRunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.doing, self.file.display(), self.error)
    }
}

impl core::error::Error for FirstRunError {}

/// The state directory when `state_dir` is not set: the one from the service manager; else
/// `/var/lib/relay` for root and for its owner; else the user's own state directory. `None`: there
/// is none of these.
pub fn default_state_dir(machine: &dyn Machine) -> Option<PathBuf> {
    if let Some(dirs) = machine.variable("STATE_DIRECTORY") {
        return dirs.split(':').find(|dir| !dir.is_empty()).map(PathBuf::from);
    }
    let shared = Path::new("/var/lib/relay");
    let user = machine.user_id();
    if user == 0 || is_directory_of(shared, user) {
        return Some(shared.to_owned());
    }
    // A relative path in XDG_STATE_HOME is to be ignored (XDG Base Directory Specification).
    let own = machine
        .variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || {
        machine
            .variable("HOME")
            .map(|home| Path::new(&home).join(".local/state"))
    };
    own.or_else(home).map(|base| base.join("relay"))
}

fn is_directory_of(path: &Path, user: u32) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user)
}

/// The secret in `state_dir`, if one was generated.
///
/// # Errors
/// When it exists but cannot be read, is not trusted, or is no secret.
pub fn find_secret(state_dir: &Path, owner: FileOwner) -> Result<Option<FirstSecret>, FirstRunError> {
    let file = state_dir.join(SECRET_FILE);
    let dir = state_dir.to_owned();
    let name = file.clone();
    files::within(&file, move || {
        StateDir::open(&dir, owner)
            .and_then(|dir| find_in(&dir, &name))
            .or_else(unless_missing)
    })
    .map_err(at(&file, "cannot use"))
}

/// The secret in `state_dir`. Generates it, and makes the directory, if it is missing.
///
/// # Errors
/// When it can neither be read nor written.
pub fn obtain_secret(state_dir: &Path) -> Result<FirstSecret, FirstRunError> {
    if let Some(secret) = find_secret(state_dir, FileOwner::Ourselves)? {
        return Ok(secret);
    }
    let file = state_dir.join(SECRET_FILE);
    let (dir, lock) = (state_dir.to_owned(), state_dir.join(LOCK_FILE));
    let name = file.clone();
    files::within(&file, move || {
        let dir = StateDir::make(&dir)?;
        // Another server that starts now waits here, then finds the file.
        let _held = dir.lock(&lock)?;
        if let Some(secret) = find_in(&dir, &name).or_else(unless_missing)? {
            return Ok(secret);
        }
        let mut random = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut random[..]).map_err(io::Error::other)?;
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(&random[..]).into_bytes());
        let line = Zeroizing::new([&bytes[..], b"\n"].concat());
        dir.write(&name, &line, PRIVATE)?;
        let is_new = true;
        Ok(FirstSecret {
            bytes,
            file: name,
            is_new,
        })
    })
    .map_err(at(&file, "cannot make"))
}

fn find_in(dir: &StateDir, file: &Path) -> io::Result<Option<FirstSecret>> {
    let mut bytes = dir.read(file, files::MAX_SECRET)?.bytes;
    let len = bytes.trim_ascii_end().len();
    bytes.truncate(len);
    if bytes.len() < SECRET_BYTES {
        let message = "it is damaged; remove it, and a new one is made";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let (file, is_new) = (file.to_owned(), false);
    Ok(Some(FirstSecret { bytes, file, is_new }))
}

fn unless_missing(error: io::Error) -> io::Result<Option<FirstSecret>> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(None)
    } else {
        Err(error)
    }
}

fn at(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> FirstRunError {
    let file = file.to_owned();
    move |error| FirstRunError { file, doing, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_owners_and_a_file_is_none() {
        let us = rustix::process::geteuid().as_raw();
        let program = std::env::current_exe().expect("this program");
        let dir = std::env::temp_dir().join(format!("relay-first-run-{}", std::process::id()));
        fs::create_dir(&dir).expect("a directory");
        assert!(is_directory_of(&dir, us) && !is_directory_of(&dir, us + 1));
        fs::remove_dir(&dir).expect("was made");
        assert!(!is_directory_of(&dir, us) && !is_directory_of(&program, us));
    }
}
