//! Opens every listening socket, and says of all that could not be opened why, and what helps.

use core::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::settings::{ListenerSettings, Settings};
use crate::net::udp::{UdpOptions, UdpSocket};

mod holder;

/// Connections the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;

/// Every socket the server listens on.
#[derive(Debug)]
pub struct Bound {
    /// `[worker][socket]`: one of each UDP address for every worker.
    pub udp: Vec<Vec<UdpSocket>>,
    /// One for each TCP address.
    pub tcp: Vec<BoundTcp>,
    /// The operator's listener.
    pub admin: Option<TcpListener>,
    /// Optional listeners that this user may not open, each with what helps.
    pub skipped: Vec<BindFailure>,
}

/// A TCP listener and what is served on it.
#[derive(Debug)]
pub struct BoundTcp {
    /// Non-blocking.
    pub socket: TcpListener,
    /// Its address.
    pub address: SocketAddr,
    /// Which of the protocols over TCP.
    pub settings: ListenerSettings,
}

/// One address that could not be listened on.
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
/// Everything that could not be bound, except optional listeners that this user may not bind. Nothing stays bound.
pub fn bind(settings: &Settings) -> Result<Bound, Vec<BindFailure>> {
    let options = UdpOptions {
        receive_buffer: settings.udp.receive_buffer,
        send_buffer: settings.udp.send_buffer,
        offload: settings.udp.offload,
        errors: false,
        traffic_class: true,
    };
    let mut failures = Vec::new();
    let mut bound = Bound {
        udp: (0..settings.workers).map(|_| Vec::new()).collect(),
        tcp: Vec::new(),
        admin: None,
        skipped: Vec::new(),
    };
    for listener in &settings.listeners {
        let begin = failures.len();
        for &address in &listener.addresses {
            let fail = |protocol, error| BindFailure::new(&listener.label, address, protocol, error);
            if listener.udp {
                match UdpSocket::bind_group(address, settings.workers, &options) {
                    Ok(group) => bound
                        .udp
                        .iter_mut()
                        .zip(group)
                        .for_each(|(worker, socket)| worker.push(socket)),
                    Err(error) => failures.push(fail("UDP", error)),
                }
            }
            if listener.tcp || listener.tls || listener.https {
                match tcp(address) {
                    Ok(socket) => bound.tcp.push(BoundTcp {
                        socket,
                        address,
                        settings: listener.clone(),
                    }),
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
        match tcp(address) {
            Ok(socket) => bound.admin = Some(socket),
            Err(error) => failures.push(BindFailure::new("admin.address", address, "TCP", error)),
        }
    }
    if bound.tcp.is_empty() && bound.udp.iter().all(Vec::is_empty) {
        failures.append(&mut bound.skipped);
    }
    if failures.is_empty() { Ok(bound) } else { Err(failures) }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier process in TIME_WAIT must not keep this one from starting.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn advice(address: SocketAddr, protocol: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => match holder::find(address, protocol) {
            Some(holder) => format!("it is held by {holder}"),
            None => {
                let flags = if protocol == "UDP" { "-lunp" } else { "-ltnp" };
                format!("`sudo ss {flags} sport = :{}` tells by which program", address.port())
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
