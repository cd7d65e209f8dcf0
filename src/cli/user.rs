//! The user that a configuration is checked for: the one the server will run as, whose rights
//! decide what it can read.
//!
//! The process becomes that user, with supplementary groups, and then opens files as the server
//! would. So modes, groups, parent directories and access lists all count.

use std::ffi::{CString, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Uid, User, initgroups, setgid, setuid};

use ipnet::IpNet;

use crate::base::address::Family;
use crate::base::time::UnixTime;
use crate::machine::network::Interface;
use crate::machine::{Machine, ThisMachine};

/// The user in systemd/relay.service.
const UNIT_USER: &str = "relay";
/// The StateDirectory= of the unit.
const UNIT_STATE_DIRECTORY: &str = "/var/lib/relay";

/// The machine as that user sees it.
pub(super) struct Judged {
    /// The user, if it is not the current one.
    user: Option<User>,
}

/// Becomes the user `name`. By default, root becomes the unit's user if there is one. Call it
/// before there is a second thread.
///
/// # Errors
/// A sentence with the reason.
pub(super) fn judge_as(name: Option<&str>) -> Result<Judged, String> {
    let own = Uid::effective();
    let user = match name {
        Some(name) => Some(find(name)?),
        None if own.is_root() => find(UNIT_USER).ok(),
        None => None,
    };
    let user = user.filter(|user| user.uid != own);
    if let Some(user) = &user {
        if !own.is_root() {
            return Err(format!(
                "only root can check for another user: sudo relay check --user {}",
                user.name
            ));
        }
        become_user(user).map_err(|error| {
            format!(
                "cannot become the user {}: {error}; `--user root` checks for root",
                user.name
            )
        })?;
    }
    Ok(Judged { user })
}

fn find(name: &str) -> Result<User, String> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!(
            "there is no user {name}; `systemd-sysusers` makes the unit's (docs/operations.md, \"Install\")"
        )),
        Err(error) => Err(format!("cannot look up the user {name}: {error}")),
    }
}

fn become_user(user: &User) -> io::Result<()> {
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(())
}

impl Judged {
    /// " for the user relay", or nothing for the current user.
    pub(super) fn whom(&self) -> String {
        self.user
            .as_ref()
            .map_or_else(String::new, |user| format!(" for the user {}", user.name))
    }
}

impl Machine for Judged {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        let mut variables = ThisMachine::default().variables();
        if let Some(user) = &self.user {
            // HOME and the like belong to the current user. The service has its own, and its unit's
            // state directory.
            variables.retain(|(name, _)| name != "HOME" && name != "XDG_STATE_HOME");
            variables.push(("HOME".into(), user.dir.clone().into()));
            if !variables.iter().any(|(name, _)| name == "STATE_DIRECTORY") {
                variables.push(("STATE_DIRECTORY".into(), UNIT_STATE_DIRECTORY.into()));
            }
        }
        variables
    }

    fn default_file(&self) -> Option<PathBuf> {
        ThisMachine::default().default_file()
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        ThisMachine::default().resolve(host, port)
    }

    fn interfaces(&self) -> io::Result<Vec<Interface>> {
        ThisMachine::default().interfaces()
    }

    fn networks(&self) -> io::Result<Vec<IpNet>> {
        ThisMachine::default().networks()
    }

    fn route_source(&self, family: Family) -> Option<IpAddr> {
        ThisMachine::default().route_source(family)
    }

    fn can_bind(&self, ip: IpAddr) -> bool {
        ThisMachine::default().can_bind(ip)
    }

    fn ask_stun(&self, server: SocketAddr, bind: IpAddr, timeout: Duration) -> io::Result<IpAddr> {
        ThisMachine::default().ask_stun(server, bind, timeout)
    }

    fn cores(&self) -> usize {
        ThisMachine::default().cores()
    }

    fn open_files(&self) -> Option<u64> {
        ThisMachine::default().open_files()
    }

    fn user_id(&self) -> u32 {
        ThisMachine::default().user_id()
    }

    fn user(&self) -> String {
        ThisMachine::default().user()
    }

    fn now(&self) -> UnixTime {
        ThisMachine::default().now()
    }
}
