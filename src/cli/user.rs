//! The user a configuration is judged for: the one the server will run as, whose rights decide what
//! it can read.
//!
//! The process becomes that user, supplementary groups included, and then looks at files as the
//! server would: modes, groups, directories above and access lists all count, without being worked
//! out here.

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

/// The user of systemd/relay.service.
const UNIT_USER: &str = "relay";
/// Its StateDirectory=.
const UNIT_STATE_DIRECTORY: &str = "/var/lib/relay";

/// The machine as the service's user sees it.
pub(super) struct Judged {
    /// Whom for, where it is not the user who asks.
    user: Option<User>,
}

/// Becomes the user `name`; without it, where root asks, the unit's user if there is one. Call it
/// before there is a second thread.
///
/// # Errors
/// A sentence that says why that cannot be.
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
                "only root can judge for another user: sudo relay check --user {}",
                user.name
            ));
        }
        become_user(user).map_err(|error| {
            format!(
                "cannot become the user {}: {error}; `--user root` judges for root",
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
    /// " for the user relay", or nothing where the user is the one who asks.
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
            // The home is that of who asks; the service has its own, and its unit's state
            // directory.
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
