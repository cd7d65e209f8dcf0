//! Why a file cannot be read, and what its owner has to do.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Links that lead to links, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// How to let `user` read `path`, which may not now.
pub(super) fn help(path: &Path, user: u32) -> String {
    match closed_directory(path) {
        Some(dir) => {
            let dir = dir.display();
            format!(
                "let the user the server runs as (now number {user}) enter {dir}: chmod o+x {dir}, or setfacl -m u:{user}:x {dir}"
            )
        }
        None => {
            let path = path.display();
            format!("let the user the server runs as (now number {user}) read it: chown {user} {path}")
        }
    }
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
