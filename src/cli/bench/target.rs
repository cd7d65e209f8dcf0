//! The measured server and the login. Refuses servers that are not the operator's.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use super::{Common, Failure};
use crate::base::time::UnixTime;
use crate::config::{Purpose, load_for};
use crate::machine::{ThisMachine, files};
use crate::net::clock::unix_now;
use crate::turn::login::credential::{Credentials, MintedCredential, mint};

/// How long minted credentials are valid beyond the measurement.
const GRACE: Duration = Duration::from_secs(120);

/// The server and how to log in.
pub(super) struct Target {
    pub(super) server: SocketAddr,
    /// The local address towards it, to which peers are bound as well.
    pub(super) local: IpAddr,
    login: Login,
    ttl: Duration,
}

enum Login {
    /// One user.
    User(MintedCredential),
    /// A credential for each client, so that quotas per user do not limit the measurement.
    Secret(Vec<u8>),
    Configured(Arc<Credentials>),
}

impl Target {
    /// Resolves the server, and refuses one on another machine without confirmation.
    pub(super) fn find(config: Option<&Path>, wish: &Common) -> Result<Self, Failure> {
        let refused = |why: String| Err(Failure::Refused(why));
        let server = match wish.server.to_socket_addrs() {
            Ok(mut found) => found.next(),
            Err(error) => return refused(format!("{}: {error}; write it as HOST:PORT", wish.server)),
        };
        let Some(server) = server else {
            return refused(format!("{} has no address", wish.server));
        };
        if !wish.i_own_this_server && !is_here(server.ip()) {
            return refused(format!(
                "{server} is not on this machine. Loading somebody else's server is an attack; if it is yours, say so \
                 with --i-own-this-server"
            ));
        }
        Ok(Self {
            server,
            local: local_address(server)?,
            login: login(config, wish)?,
            ttl: wish.duration() + GRACE,
        })
    }

    /// The login of client number `index`.
    pub(super) fn credential(&self, index: usize) -> Result<MintedCredential, Failure> {
        let now = unix_now();
        let userid = format!("bench-{index}");
        let minted = match &self.login {
            Login::User(user) => return Ok(user.clone()),
            Login::Secret(secret) => mint(secret, UnixTime(now.0 + self.ttl.as_secs()), Some(&userid)),
            Login::Configured(credentials) => credentials.mint(now, self.ttl, Some(&userid)),
        };
        minted.map_err(|error| {
            Failure::Refused(format!(
                "{error}: name the server's configuration with --config, or give --secret-file, or --user and --password"
            ))
        })
    }
}

fn login(config: Option<&Path>, wish: &Common) -> Result<Login, Failure> {
    if let (Some(username), Some(password)) = (&wish.user, &wish.password) {
        return Ok(Login::User(MintedCredential {
            username: username.clone(),
            password: password.clone(),
        }));
    }
    if let Some(path) = &wish.secret_file {
        let read = files::read(path, files::MAX_SECRET);
        let text = read.map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))?;
        return Ok(Login::Secret(text.bytes.trim_ascii().to_vec()));
    }
    let loaded = load_for(Purpose::Mint, config, &ThisMachine::default())
        .map_err(|mistakes| Failure::Refused(mistakes.for_stderr().trim_end().to_owned()))?;
    Ok(Login::Configured(loaded.settings.turn.credentials))
}

/// Whether this machine has the address.
fn is_here(ip: IpAddr) -> bool {
    ip.is_loopback()
        || if_addrs::get_if_addrs()
            .unwrap_or_default()
            .iter()
            .any(|interface| interface.ip() == ip)
}

/// The local address that the system would use towards `server`. Nothing is sent.
fn local_address(server: SocketAddr) -> Result<IpAddr, Failure> {
    let any: SocketAddr = if server.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_here() {
        assert!(is_here("127.0.0.5".parse().unwrap()));
        assert!(is_here("::1".parse().unwrap()));
        assert!(!is_here("192.0.2.1".parse().unwrap()));
        assert!(!is_here("2001:db8::1".parse().unwrap()));
    }
}
