//! Tests of the lab itself: with a firewall that lets everything pass, every other test would be
//! worthless.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use crate::lab::{Firewall, Lab, Namespace, PREFIX, RELAY, SFU, clear_leftovers, take_lock};
use crate::one_at_a_time;
use crate::process::{Output, Process, run};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn the_tcp_firewall_lets_tcp_443_to_the_relay_pass_and_nothing_else() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &[]);
    assert!(tcp_passes(lab.client(0), lab.relay(), RELAY, 443));
    assert!(tcp_passes(lab.client(1), lab.relay(), RELAY, 443));
    let passed = lab.passed();
    assert!(
        passed.tcp_443 > 0 && passed.udp_443 == 0 && passed.other == 0 && passed.refused == 0,
        "{passed:?}"
    );

    assert!(!tcp_passes(lab.client(0), lab.relay(), RELAY, 3478));
    assert!(!tcp_passes(lab.client(0), lab.sfu(), SFU, 443));
    assert!(!udp_passes(lab.client(0), lab.relay(), RELAY, 443));
    assert!(!udp_passes(lab.client(0), lab.sfu(), SFU, 443));
    let passed = lab.passed();
    assert!(
        passed.udp_443 == 0 && passed.other == 0 && passed.refused >= 4,
        "{passed:?}"
    );
}

#[test]
fn the_udp_firewall_lets_udp_443_to_the_relay_pass_and_nothing_else() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyUdp443, &[]);
    assert!(udp_passes(lab.client(0), lab.relay(), RELAY, 443));
    assert!(!udp_passes(lab.client(0), lab.relay(), RELAY, 3478));
    assert!(!tcp_passes(lab.client(0), lab.relay(), RELAY, 443));
    let passed = lab.passed();
    assert!(
        passed.udp_443 == 2 && passed.tcp_443 == 0 && passed.other == 0 && passed.refused >= 2,
        "{passed:?}"
    );
}

#[test]
fn relay_and_sfu_reach_each_other_and_an_open_firewall_counts_what_passes() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, &[]);
    assert!(udp_passes(lab.relay(), lab.sfu(), SFU, 10_000));
    assert!(udp_passes(lab.sfu(), lab.relay(), RELAY, 10_000));
    assert_eq!(lab.passed().other, 0, "no client took part");
    assert!(udp_passes(lab.client(0), lab.sfu(), SFU, 10_000));
    assert_eq!(lab.passed().other, 2);
}

#[test]
fn a_dropped_lab_leaves_no_namespace_process_or_folder() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::Open, &[]);
    let name = lab.client(0).name().to_owned();
    let folder = lab.folder().to_owned();
    let mut command = lab.client(0).command("sleep");
    command.arg("600");
    let mut sleeper = Process::start("sleeper", lab.folder(), command, Output::Log);
    sleeper.wait_until("is inside", Duration::from_secs(5), |_| {
        !run(Command::new("ip").args(["netns", "pids", &name])).is_empty()
    });

    drop(lab);

    assert!(
        sleeper.wait(Duration::from_secs(5)).is_some(),
        "a process of the lab is still there"
    );
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert!(!Path::new("/etc/netns").join(&name).exists());
    assert!(!folder.exists() || std::env::var_os("RELAY_E2E_KEEP").is_some());
}

#[test]
fn what_a_killed_run_has_left_is_cleared_and_a_running_one_is_spared() {
    let _turn = one_at_a_time();
    drop(Lab::new(Firewall::Open, &[]));
    // Ids above the kernel's highest, so that they belong to no real run.
    let id = |offset: u32| 5_000_000 + 2 * process::id() + offset;
    let (dead, alive) = (format!("{PREFIX}{}-0-sfu", id(0)), format!("{PREFIX}{}-0-sfu", id(1)));
    drop(take_lock(id(0)));
    let lock = take_lock(id(1));
    for name in [&dead, &alive] {
        run(Command::new("ip").args(["netns", "add", name]));
    }

    clear_leftovers();

    assert!(!Path::new("/run/netns").join(&dead).exists());
    assert!(Path::new("/run/netns").join(&alive).exists());
    drop(lock);
    clear_leftovers();
    assert!(!Path::new("/run/netns").join(&alive).exists());
}

/// Whether a byte sent over TCP to a listener at `address:port` in `to` comes back.
fn tcp_passes(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16) -> bool {
    let server = SocketAddr::from((address, port));
    let listener = to.within(|| TcpListener::bind(server)).expect("the port is free");
    let Ok(mut client) = from.within(|| TcpStream::connect_timeout(&server, SHORT)) else {
        return false;
    };
    let (mut accepted, _) = listener.accept().expect("a connection is waiting");
    let mut byte = [0];
    client
        .write_all(b"x")
        .and_then(|()| accepted.read_exact(&mut byte))
        .expect("bytes follow the connection");
    accepted
        .write_all(&byte)
        .and_then(|()| client.read_exact(&mut byte))
        .is_ok()
}

/// Whether a datagram to a socket at `address:port` in `to`, and one back, arrive.
fn udp_passes(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16) -> bool {
    let server = to
        .within(|| UdpSocket::bind((address, port)))
        .expect("the port is free");
    let client = from
        .within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .expect("a free port exists");
    for socket in [&server, &client] {
        socket
            .set_read_timeout(Some(SHORT))
            .expect("a timeout that is not zero");
    }
    client.send_to(b"x", (address, port)).expect("the route exists");
    let mut byte = [0];
    let Ok((_, source)) = server.recv_from(&mut byte) else {
        return false;
    };
    server.send_to(b"y", source).expect("the route exists");
    client.recv_from(&mut byte).is_ok() && byte == *b"y"
}
