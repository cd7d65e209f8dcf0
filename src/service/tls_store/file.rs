//! Writes files of ours: whole or not at all, and never readable by more than they should be.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{TlsError, TlsProblem};

/// Puts `contents` at `file` with `mode`; makes the directory where there is none.
pub(super) fn write(file: &Path, contents: &[u8], mode: u32) -> Result<(), TlsError> {
    write_whole(file, contents, mode).map_err(|error| TlsError {
        file: file.to_owned(),
        problem: TlsProblem::Unwritable(error.to_string()),
    })
}

/// The same, for its owner only.
pub(in crate::service) fn write_private(file: &Path, contents: &[u8]) -> Result<(), TlsError> {
    write(file, contents, 0o600)
}

fn write_whole(file: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // A leftover of an interrupted run; it may have another mode.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    handle.write_all(contents)?;
    handle.sync_all()?;
    fs::rename(new, file)
}
