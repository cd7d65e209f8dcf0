//! Where the server keeps what it makes for itself, and whether it can.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::super::Purpose;
use super::super::access::help;
use super::super::harmless::shown;
use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::value::Auto;
use super::super::sections::Raw;
use super::Context;
use crate::machine::files::own::{FileOwner, StateDir};
use crate::machine::{files, first_run};

/// The directory, if there is a place for one.
pub(super) fn find(raw: &Raw, cx: &mut Context<'_>) -> Option<PathBuf> {
    match &raw.top.state_dir.value {
        Auto::Given(path) => {
            let dir = cx.path(path, raw.top.state_dir.place);
            if cx.purpose == Purpose::Check && !is_made_by_systemd(&dir, cx) {
                check(raw, &dir, cx);
            }
            Some(dir)
        }
        Auto::Auto => {
            let dir = first_run::default_state_dir(cx.env);
            if let Some(dir) = &dir {
                cx.effective.note("state_dir", shown(dir));
            }
            dir
        }
    }
}

/// systemd makes the unit's StateDirectory= and gives it to the unit's user at every start.
fn is_made_by_systemd(dir: &Path, cx: &Context<'_>) -> bool {
    let dirs = cx.env.variable("STATE_DIRECTORY").unwrap_or_default();
    dirs.split(':').any(|made| Path::new(made) == dir)
}

/// Serving tells by trying; a check tries nothing.
fn check(raw: &Raw, dir: &Path, cx: &mut Context<'_>) {
    let user = cx.env.user();
    let place = raw.top.state_dir.place;
    let asked = dir.to_owned();
    match files::within(dir, move || StateDir::open(&asked, FileOwner::Ourselves).map(drop)) {
        Ok(()) => {
            if let Err(error) = access(dir, Access::WRITE_OK | Access::EXEC_OK) {
                let message = format!("cannot write to the state directory {}: {error}", dir.display());
                let help = format!(
                    "give it to the user the server runs as (now {user}): chown -R {user} {}",
                    dir.display()
                );
                cx.d.push(Diagnostic::error(message).at(place).help(help));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let diagnostic = Diagnostic::error(format!("{} is no directory", dir.display()));
            cx.d.push(diagnostic.at(place).help("name a directory of the server's user"));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("cannot use the state directory {}: {error}", dir.display());
            cx.d.push(Diagnostic::error(message).at(place).help(help(dir, &user)));
        }
        // Nothing is wrong where the server can make it; the configuration may also be for another machine.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = dir.ancestors().skip(1).find(|above| above.exists());
            if above.is_some_and(|above| access(above, Access::WRITE_OK | Access::EXEC_OK).is_err()) {
                let message = format!("the state directory {} is not there, and cannot be made", dir.display());
                let help = format!("make it: install -d -m 700 -o {user} {}", dir.display());
                let diagnostic = cx.here(message).at(place).help(help);
                cx.d.push(diagnostic);
            }
        }
        Err(error) => {
            let message = format!("cannot use the state directory {}: {error}", dir.display());
            cx.d.push(Diagnostic::error(message).at(place));
        }
    }
}
