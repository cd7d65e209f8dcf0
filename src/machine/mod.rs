//! What the process reads from its machine: environment, names, addresses, files, its own limits.
//!
//! The configuration asks through a trait, so that tests can simulate another machine.

pub mod certificate;
pub mod external;
pub mod file_watch;
pub mod files;
pub mod first_run;
pub mod network;
pub mod process;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use ipnet::IpNet;
use nix::unistd::{Uid, User};

use self::network::Interface;
use crate::base::address::Family;
use crate::base::time::UnixTime;
use crate::net::clock::unix_now;
use crate::net::{environment, local};
use crate::turn::OwnSockets;

/// Read when no file is named, if it exists.
const DEFAULT_FILE: &str = "/etc/relay/relay.toml";

/// The machine: environment variables, names, addresses, clock.
pub trait Machine {
    /// Every environment variable.
    fn variables(&self) -> Vec<(OsString, OsString)>;

    /// The file to read when none is named, if it exists.
    fn default_file(&self) -> Option<PathBuf>;

    /// All addresses of a host name.
    ///
    /// # Errors
    /// When the name has none, or cannot be looked up.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The addresses of this machine's interfaces.
    ///
    /// # Errors
    /// When the system does not answer.
    fn interfaces(&self) -> io::Result<Vec<Interface>>;

    /// Every network that is local to this machine: [`crate::net::local`].
    ///
    /// # Errors
    /// When the system does not answer.
    fn networks(&self) -> io::Result<Vec<IpNet>>;

    /// The source address of the default route.
    fn route_source(&self, family: Family) -> Option<IpAddr>;

    /// Whether a socket can be bound to this address.
    fn can_bind(&self, ip: IpAddr) -> bool;

    /// The source address that a STUN server sees on packets from `bind`.
    ///
    /// # Errors
    /// When it does not answer in time, or not with STUN.
    fn ask_stun(&self, server: SocketAddr, bind: IpAddr, timeout: Duration) -> io::Result<IpAddr>;

    /// Processor cores this process may use.
    fn cores(&self) -> usize;

    /// The maximum of open files and sockets of this process.
    fn open_files(&self) -> Option<u64>;

    /// The user this process runs as.
    fn user_id(&self) -> u32;

    /// The name of that user, or its number if it has none; for commands an operator copies.
    fn user(&self) -> String;

    /// Wall-clock time.
    fn now(&self) -> UnixTime;

    /// The value of one variable, if it is set, not empty, and UTF-8.
    fn variable(&self, name: &str) -> Option<String> {
        let (_, value) = self.variables().into_iter().find(|(n, _)| n == name)?;
        value.into_string().ok().filter(|value| !value.is_empty())
    }
}

/// The real machine.
#[derive(Clone, Debug, Default)]
pub struct ThisMachine {
    /// Where query sockets are registered, once clients are served.
    pub own: Option<OwnSockets>,
}

/// The variables that [`take_variables`] took.
static TAKEN: OnceLock<Vec<(OsString, OsString)>> = OnceLock::new();

/// Takes the variables that are `ours` out of the environment. They may hold secrets, and every
/// process of this user could read them while this one lives. [`ThisMachine`] keeps their values,
/// for reloads as well. Call it before there is a second thread.
///
/// # Errors
/// When they cannot be overwritten; then they stay.
pub fn take_variables(ours: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let taken = std::env::vars_os().filter(|(name, _)| ours(name.as_encoded_bytes()));
    let _ = TAKEN.set(taken.collect());
    environment::wipe(ours)
}

impl Machine for ThisMachine {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        let taken = TAKEN.get().map_or(&[][..], Vec::as_slice);
        let left = std::env::vars_os().filter(|(name, _)| taken.iter().all(|(other, _)| other != name));
        left.chain(taken.iter().cloned()).collect()
    }

    fn default_file(&self) -> Option<PathBuf> {
        if_there(PathBuf::from(DEFAULT_FILE))
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn interfaces(&self) -> io::Result<Vec<Interface>> {
        network::interfaces()
    }

    fn networks(&self) -> io::Result<Vec<IpNet>> {
        local::read()
    }

    fn route_source(&self, family: Family) -> Option<IpAddr> {
        network::route_source(family)
    }

    fn can_bind(&self, ip: IpAddr) -> bool {
        UdpSocket::bind((ip, 0)).is_ok()
    }

    fn ask_stun(&self, server: SocketAddr, bind: IpAddr, timeout: Duration) -> io::Result<IpAddr> {
        network::ask_stun(server, bind, timeout, self.own.as_ref())
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn open_files(&self) -> Option<u64> {
        // The line is "Max open files  1024  524288  files"; the hard limit is the second number.
        let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    fn user_id(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn user(&self) -> String {
        let id = self.user_id();
        let user = User::from_uid(Uid::from_raw(id)).ok().flatten();
        user.map_or_else(|| id.to_string(), |user| user.name)
    }

    fn now(&self) -> UnixTime {
        unix_now()
    }
}

/// A file whose metadata cannot be read counts as existing: the attempt to read it reports the
/// error.
fn if_there(path: PathBuf) -> Option<PathBuf> {
    match path.metadata() {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => None,
        _ => Some(path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    #[test]
    fn a_file_is_there_unless_somebody_knows_better() {
        // A thread without the capabilities of root, so that modes apply to it. Capabilities belong
        // to the thread.
        let alone = std::thread::spawn(|| {
            let mut sets = capabilities(None).expect("the kernel tells");
            let over = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
            sets.effective.remove(over);
            set_capabilities(None, sets).expect("rights can be given up");
            let dir = std::env::temp_dir().join(format!("relay-env-{}", std::process::id()));
            fs::create_dir(&dir).expect("a directory");
            let file = dir.join("relay.toml");
            assert_eq!(if_there(file.clone()), None);
            fs::write(&file, "").expect("write");
            assert_eq!(if_there(file.clone()), Some(file.clone()));
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o000)).expect("its mode");
            assert_eq!(if_there(file.clone()), Some(file), "nobody can tell");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("its mode");
            fs::remove_dir_all(&dir).expect("was made");
        });
        alone.join().expect("all of it holds");
    }

    #[test]
    fn this_machine_has_processors_and_a_clock_and_reaches_itself() {
        let machine = ThisMachine::default();
        let known = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(machine.cores(), known);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(machine.open_files(), limit.maximum);
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(machine.can_bind(loopback));
        assert!(!machine.can_bind(IpAddr::from([192, 0, 2, 1])), "an example's address");
        let names: Vec<_> = machine.interfaces().expect("the system tells");
        assert!(names.iter().any(|interface| interface.ip == loopback));
        let local = machine.networks().expect("the system tells");
        assert!(local.iter().any(|net| net.contains(&loopback)));
        assert_eq!(
            machine.resolve("127.0.0.1", 9).expect("an address"),
            [SocketAddr::new(loopback, 9)]
        );
        assert!(machine.now().0.abs_diff(unix_now().0) <= 5);
        assert_eq!(machine.user_id(), Uid::effective().as_raw());
        let user = User::from_uid(Uid::effective()).expect("it can be looked up");
        assert_eq!(
            machine.user(),
            user.map_or_else(|| machine.user_id().to_string(), |user| user.name)
        );
    }
}
