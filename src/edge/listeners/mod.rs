//! Opens every listening socket. For each one that fails it reports why, and what to do.

use core::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use crate::config::settings::{ListenerSettings, Settings};
use crate::net::udp::UdpSocket;
use crate::shard::Listener;

mod holder;
pub mod tcp;

/// Every socket the server listens on.
#[derive(Debug)]
pub struct Bound {
    /// `[worker][socket]`: one of each UDP address for every worker.
    pub udp: Vec<Vec<Listener>>,
    /// One for each TCP address, non-blocking, with what is served there.
    pub tcp: Vec<(TcpListener, ListenerSettings)>,
    /// The operator's listener, non-blocking.
    pub admin: Option<TcpListener>,
    /// The addresses of all of them.
    pub places: ListenAddresses,
    /// Optional listeners that this user may not open, each with what to do.
    pub skipped: Vec<BindFailure>,
}

impl Bound {
    /// One line for each omitted optional listener: what to do is the same for all its addresses.
    pub fn left_out(&self) -> Vec<String> {
        let mut lines: Vec<(&str, String)> = Vec::new();
        for BindFailure {
            label, error, advice, ..
        } in &self.skipped
        {
            if !lines.iter().any(|(told, _)| told == label) {
                let line = format!("listener \"{label}\" is left out, the rest is served: {error}; {advice}");
                lines.push((label, line));
            }
        }
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// Addresses of the listeners.
#[derive(Clone, Debug, Default)]
pub struct ListenAddresses {
    /// UDP.
    pub udp: Vec<SocketAddr>,
    /// DTLS.
    pub dtls: Vec<SocketAddr>,
    /// TCP, with what is served there.
    pub tcp: Vec<(SocketAddr, ListenerSettings)>,
    /// The operator's.
    pub admin: Option<SocketAddr>,
}

/// One address that could not be bound.
#[derive(Debug)]
pub struct BindFailure {
    label: String,
    address: SocketAddr,
    protocol: &'static str,
    error: io::Error,
    advice: String,
}

impl BindFailure {
    fn new(label: &str, address: SocketAddr, protocol: &'static str, error: io::Error) -> Self {
        let advice = advice(address, protocol, &error);
        Self {
            label: label.to_owned(),
            address,
            protocol,
            error,
            advice,
        }
    }
}

impl fmt::Display for BindFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            label,
            address,
            protocol,
            error,
            advice,
        } = self;
        write!(
            f,
            "listener \"{label}\": cannot listen on {protocol} {address}: {error}; {advice}"
        )
    }
}

/// Binds all listeners and the admin address.
///
/// # Errors
/// Every address that could not be bound, except those of optional listeners that this user may not
/// bind. Nothing stays bound.
pub fn bind(settings: &Settings) -> Result<Bound, Vec<BindFailure>> {
    let options = settings.udp.listener;
    let mut failures = Vec::new();
    let mut bound = Bound {
        udp: (0..settings.workers).map(|_| Vec::new()).collect(),
        tcp: Vec::new(),
        admin: None,
        places: ListenAddresses::default(),
        skipped: Vec::new(),
    };
    for listener in &settings.listeners {
        let begin = failures.len();
        for &address in &listener.addresses {
            let fail = |protocol, error| BindFailure::new(&listener.label, address, protocol, error);
            if listener.udp || listener.dtls {
                match UdpSocket::bind_group(address, settings.workers, &options) {
                    Ok(group) => {
                        bound.udp.iter_mut().zip(group).for_each(|(worker, socket)| {
                            worker.push(Listener {
                                socket,
                                plain: listener.udp,
                                dtls: listener.dtls,
                                http3: listener.https && settings.front_door.http3.backend.is_some(),
                            })
                        });
                        bound.places.udp.extend(listener.udp.then_some(address));
                        bound.places.dtls.extend(listener.dtls.then_some(address));
                    }
                    Err(error) => failures.push(fail("UDP", error)),
                }
            }
            if listener.tcp || listener.tls || listener.https {
                match tcp::listen(address) {
                    Ok(socket) => {
                        bound.tcp.push((socket, listener.clone()));
                        bound.places.tcp.push((address, listener.clone()));
                    }
                    Err(error) => failures.push(fail("TCP", error)),
                }
            }
        }
        let forbidden = |failure: &BindFailure| failure.error.kind() == ErrorKind::PermissionDenied;
        if listener.optional && failures[begin..].iter().all(forbidden) {
            bound.skipped.extend(failures.drain(begin..));
        }
    }
    if let Some(address) = settings.admin.address {
        match tcp::listen(address) {
            Ok(socket) => {
                bound.admin = Some(socket);
                bound.places.admin = Some(address);
            }
            Err(error) => failures.push(BindFailure::new("admin.address", address, "TCP", error)),
        }
    }
    let places = &bound.places;
    if places.udp.is_empty() && places.dtls.is_empty() && places.tcp.is_empty() {
        failures.append(&mut bound.skipped);
    }
    if failures.is_empty() { Ok(bound) } else { Err(failures) }
}

fn advice(address: SocketAddr, protocol: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => match holder::find(address, protocol) {
            Some(holder) => format!("it is held by {holder}"),
            None => {
                let flags = if protocol == "UDP" { "-lunp" } else { "-ltnp" };
                format!("`sudo ss {flags} sport = :{}` shows the program", address.port())
            }
        },
        ErrorKind::PermissionDenied => {
            let program = std::env::current_exe();
            let program = program
                .as_deref()
                .unwrap_or_else(|_| Path::new("/usr/local/bin/relay"))
                .display();
            format!(
                "ports below 1024 need a right: run as the systemd unit does, or \
                 `sudo setcap cap_net_bind_service=+ep {program}`, or \
                 `sudo sysctl net.ipv4.ip_unprivileged_port_start={}`",
                address.port()
            )
        }
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address (`ip address` lists them)".into(),
        _ => "see `[[listener]]` in docs/configuration.md".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_told_by_what_is_in_the_way() {
        let told = |protocol, kind: ErrorKind| {
            // No process holds port 0.
            let address = "127.0.0.1:0".parse().expect("an address");
            BindFailure::new("*:0", address, protocol, io::Error::from(kind)).to_string()
        };
        for (protocol, command) in [("UDP", "ss -lunp"), ("TCP", "ss -ltnp")] {
            assert!(told(protocol, ErrorKind::AddrInUse).contains(command), "{protocol}");
        }
        for (kind, help) in [
            (ErrorKind::PermissionDenied, "cap_net_bind_service=+ep"),
            (ErrorKind::AddrNotAvailable, "`ip address` lists them"),
            (ErrorKind::Other, "docs/configuration.md"),
        ] {
            let told = told("UDP", kind);
            assert!(
                told.starts_with("listener \"*:0\": cannot listen on UDP 127.0.0.1:0: "),
                "{told}"
            );
            assert!(told.contains(help), "{told}");
        }
    }

    #[test]
    fn an_optional_listener_that_is_left_out_is_told_once_for_all_its_addresses() {
        let denied = |label, address: &str| {
            let address = address.parse().expect("an address");
            BindFailure::new(label, address, "TCP", ErrorKind::PermissionDenied.into())
        };
        let bound = Bound {
            udp: Vec::new(),
            tcp: Vec::new(),
            admin: None,
            places: ListenAddresses::default(),
            skipped: vec![
                denied("*:443", "0.0.0.0:443"),
                denied("*:443", "[::]:443"),
                denied("*:80", "0.0.0.0:80"),
            ],
        };
        let lines = bound.left_out();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("listener \"*:443\" is left out, the rest is served: "),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("listener \"*:80\""), "{lines:?}");
    }
}
