//! Why a file cannot be read, and what its owner has to do.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::reader::value::nearest;
use crate::machine::Machine;

/// Links that lead to links, as many as the kernel follows.
const MAX_LINKS: usize = 40;
/// Names that are compared, of one directory.
const MAX_ENTRIES: usize = 10_000;

/// How to let `user` read `path`, which may not now.
pub(super) fn help(path: &Path, user: &str) -> String {
    match closed_directory(path) {
        Some(dir) => {
            let dir = dir.display();
            format!(
                "let the user the server runs as (now {user}) enter {dir}: chmod o+x {dir}, or setfacl -m u:{user}:x {dir}"
            )
        }
        None => {
            let path = path.display();
            format!("let the user the server runs as (now {user}) read it: chown {user} {path}")
        }
    }
}

/// How to keep everybody but `env`'s user, and the file's group, from `path`.
pub(super) fn closing(path: &Path, env: &dyn Machine) -> String {
    let shown = path.display();
    let owner = fs::metadata(path).map(|metadata| metadata.uid());
    let user = env.user_id();
    // Who is neither owner nor root may have read it as one of the others.
    if user == 0 || owner.is_ok_and(|owner| owner == user) {
        format!("chmod o-rwx {shown}")
    } else {
        format!("chown {} {shown} && chmod o-rwx {shown}", env.user())
    }
}

/// The file that was probably meant by `path`, which is not there: the nearest name in its directory, and where the
/// directory is not there either, in that of the nearest name.
pub(super) fn similar(path: &Path) -> Option<PathBuf> {
    similar_entry(path, Path::is_file)
}

fn similar_entry(path: &Path, fits: fn(&Path) -> bool) -> Option<PathBuf> {
    let (dir, name) = (path.parent()?, path.file_name()?.to_str()?);
    let here = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let found = if here.is_dir() {
        dir.to_owned()
    } else {
        similar_entry(dir, Path::is_dir)?
    };
    let same = found.join(name);
    if fits(&same) {
        return Some(same);
    }
    let entries = fs::read_dir(if found.as_os_str().is_empty() { here } else { &found });
    let mut names: Vec<String> = entries
        .ok()?
        .take(MAX_ENTRIES)
        .flatten()
        .filter(|entry| fits(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    // The order of a directory is nobody's choice.
    names.sort_unstable();
    nearest(name, names.iter().map(String::as_str)).map(|near| found.join(near))
}

/// The first directory on the way to `path` that this process may not enter, links followed.
fn closed_directory(path: &Path) -> Option<PathBuf> {
    let mut at = if path.is_absolute() {
        PathBuf::from("/")
    } else {
        PathBuf::from(".")
    };
    let mut steps: VecDeque<PathBuf> = steps(path).collect();
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        let next = at.join(&step);
        match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(at),
            Err(_) => return None,
            Ok(metadata) if metadata.is_symlink() && links < MAX_LINKS => {
                links += 1;
                let target = fs::read_link(&next).ok()?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for step in self::steps(&target).collect::<Vec<_>>().into_iter().rev() {
                    steps.push_front(step);
                }
            }
            Ok(_) => at = next,
        }
    }
    None
}

fn steps(path: &Path) -> impl Iterator<Item = PathBuf> {
    let named = |component: &Component<'_>| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components()
        .filter(named)
        .map(|component| PathBuf::from(component.as_os_str()))
}
