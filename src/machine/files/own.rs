//! The server's own files below `state_dir`: its generated secret, self-signed certificate and ACME
//! account.
//!
//! A user who can write there, or create a link there, would choose what the server trusts or what
//! it overwrites. So the server reads and writes a file there only if every component below
//! `state_dir` and that directory itself is no symbolic link (`state_dir` may be one, as systemd
//! makes it), belongs to the process's user or to root, and is writable by its owner alone. It
//! checks what it has opened, not what a path names later. Writes are atomic.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, open, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::{Contents, read_open, within};

/// Mode of secret files: only the owner may read and write.
pub const PRIVATE: u32 = 0o600;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Reads `file`, which stands below `state_dir`.
///
/// # Errors
/// As [`super::read`], and when the file or a directory above it is not trusted.
pub fn read(state_dir: &Path, file: &Path, most: usize) -> io::Result<Contents> {
    let (dir, name) = (state_dir.to_owned(), file.to_owned());
    within(file, move || {
        StateDir::open(&dir, FileOwner::Ourselves)?.read(&name, most)
    })
}

/// Writes `contents` to `file`, which stands below `state_dir`. Makes missing directories.
///
/// # Errors
/// As [`read`], and when it cannot be written.
pub fn write(state_dir: &Path, file: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = (state_dir.to_owned(), file.to_owned());
    let contents = Zeroizing::new(contents.to_vec());
    within(file, move || StateDir::make(&dir)?.write(&name, &contents, mode))
}

/// The user whose files are trusted, besides root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOwner {
    /// The process's user.
    Ourselves,
    /// The owner of the directory as well: root reads the directory of a server that runs as
    /// another user.
    OfTheDirectory,
}

/// An open state directory. Its methods block on the file system: call them inside `within`.
#[derive(Debug)]
pub struct StateDir {
    dir: OwnedFd,
    path: PathBuf,
    /// The user whose files are trusted, besides root's.
    user: u32,
}

impl StateDir {
    /// Opens it.
    ///
    /// # Errors
    /// When it does not exist, or is not trusted.
    pub fn open(path: &Path, owner: FileOwner) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty())?;
        let state = fstat(&dir)?;
        let us = geteuid();
        let user = match owner {
            FileOwner::OfTheDirectory if us.is_root() => state.st_uid,
            FileOwner::OfTheDirectory | FileOwner::Ourselves => us.as_raw(),
        };
        let path = path.to_owned();
        must_be_trusted(&state, &path, user)?;
        Ok(Self { dir, path, user })
    }

    /// Opens it, and makes it if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is not trusted.
    pub fn make(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::open(path, FileOwner::Ourselves)
    }

    /// Reads `file`, whose path begins with that of the directory.
    ///
    /// # Errors
    /// When it does not exist, is not trusted, or is longer than `most` bytes.
    pub fn read(&self, file: &Path, most: usize) -> io::Result<Contents> {
        let (dir, name) = self.enter(file, false)?;
        self.must_be_no_link(&dir, name, file)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = openat(&dir, name, flags, Mode::empty())?;
        must_be_trusted(&fstat(&opened)?, file, self.user)?;
        read_open(opened.into(), most)
    }

    /// Writes a new file and renames it: a crash leaves the old file or the new one. Concurrent
    /// writers of the same file use different temporary names.
    ///
    /// # Errors
    /// When a directory of the path is not trusted, or the system refuses.
    pub fn write(&self, file: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
        let (dir, name) = self.enter(file, true)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut beside = OsString::from(name);
        beside.push(format!(".new-{:016x}", u64::from_ne_bytes(random)));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut handle = File::from(openat(&dir, &beside, flags, Mode::from_raw_mode(mode))?);
        let written = handle
            .write_all(contents)
            .and_then(|()| handle.sync_all())
            .and_then(|()| Ok(renameat(&dir, &beside, &dir, name)?));
        if written.is_err() {
            let _ = unlinkat(&dir, &beside, AtFlags::empty());
        }
        written?;
        // Sync the directory too: the name as well as the contents must survive a power failure.
        Ok(fsync(&dir)?)
    }

    /// Waits for the lock on `file`. The lock is released when the result is dropped, and by a
    /// crash.
    ///
    /// # Errors
    /// When it cannot be made or opened, or is not trusted.
    pub fn lock(&self, file: &Path) -> io::Result<File> {
        let (dir, name) = self.enter(file, false)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&dir, name, flags, Mode::from_raw_mode(PRIVATE))?;
        must_be_trusted(&fstat(&handle)?, file, self.user)?;
        let handle = File::from(handle);
        handle.lock()?;
        Ok(handle)
    }

    /// Opens the directory of `file`. Returns it with the name of the file in it.
    fn enter<'a>(&self, file: &'a Path, make: bool) -> io::Result<(OwnedFd, &'a OsStr)> {
        let outside = || io::Error::other(format!("it is not below {}", self.path.display()));
        let below = file.strip_prefix(&self.path).map_err(|_| outside())?;
        let mut steps = Vec::new();
        for step in below.components() {
            match step {
                Component::Normal(step) => steps.push(step),
                _ => return Err(outside()),
            }
        }
        let name = steps.pop().ok_or_else(outside)?;
        let mut dir = self.dir.try_clone()?;
        let mut path = self.path.clone();
        for step in steps {
            path.push(step);
            self.must_be_no_link(&dir, step, &path)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound if make => Ok(mkdirat(&dir, step, Mode::RWXU).or_else(unless_there)?),
                    _ => Err(error),
                })?;
            let next = openat(&dir, step, DIRECTORY, Mode::empty())?;
            must_be_trusted(&fstat(&next)?, &path, self.user)?;
            dir = next;
        }
        Ok((dir, name))
    }

    /// Gives a clear error. The open that follows does not follow links either.
    fn must_be_no_link(&self, dir: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let state = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(state.st_mode) != FileType::Symlink {
            return Ok(());
        }
        let (path, state_dir) = (path.display(), self.path.display());
        Err(io::Error::other(format!(
            "{path} is a symbolic link, and none is followed below {state_dir}. Put the file itself there"
        )))
    }
}

fn unless_there(error: Errno) -> Result<(), Errno> {
    if error == Errno::EXIST { Ok(()) } else { Err(error) }
}

fn must_be_trusted(state: &Stat, path: &Path, user: u32) -> io::Result<()> {
    let path = path.display();
    if state.st_uid != 0 && state.st_uid != user {
        let owner = state.st_uid;
        return Err(io::Error::other(format!(
            "{path} belongs to user {owner}, neither to root nor to the server's user, so it is not trusted. If that is \
             right: chown {user} {path}"
        )));
    }
    if state.st_mode & 0o022 != 0 {
        let mode = state.st_mode & 0o7777;
        return Err(io::Error::other(format!(
            "others than its owner may write to {path} (mode {mode:04o}), so it is not trusted. Run chmod go-w {path}, \
             or let `state_dir` name a directory below it: one that is missing is made"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_somebody_else_has_just_made_is_there() {
        assert_eq!(unless_there(Errno::EXIST), Ok(()));
        assert_eq!(unless_there(Errno::ACCESS), Err(Errno::ACCESS));
    }
}
