//! A flood of unauthenticated requests from many sources: 127.0.0.0/8 has an address for each. The
//! server's state is measured from outside, on the whole process. `FLOOD_REQUESTS=1000000` makes
//! the flood larger.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay::wire::attribute::AttributeType;
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Method, TransactionId};
use relay::wire::writer::MessageWriter;

use crate::client::Client;
use crate::harness::{EchoPeer, SECRET, Server, minted};

const SOURCES: u32 = 100_000;
/// Sent between two checks of the server's counters.
const BURST: u32 = 500;
const MAY_GROW: usize = 10 << 20;
const CHANNEL: u16 = 0x4000;
const LATE: Duration = Duration::from_secs(2);

/// Each sends once and never again.
struct Strangers {
    server: SocketAddr,
    packets: [Vec<u8>; 4],
    sent: u32,
}

impl Strangers {
    fn new(server: SocketAddr) -> Self {
        Self {
            server,
            packets: [
                request(Method::Allocate, false),
                request(Method::Allocate, true),
                request(Method::Refresh, true),
                request(Method::Binding, false),
            ],
            sent: 0,
        }
    }

    /// Sends the next `requests`, each from the next source.
    fn send(&mut self, requests: u32) {
        for _ in 0..requests {
            let source = Ipv4Addr::from_bits(0x7F10_0000 + self.sent % SOURCES);
            let packet = &self.packets[(self.sent / 7 % 4) as usize];
            let socket = UdpSocket::bind((source, 0)).expect("an address of this machine");
            assert_eq!(
                socket.send_to(packet, self.server).expect("loopback takes it"),
                packet.len()
            );
            self.sent += 1;
        }
    }

    /// Sends until the server has received `requests` more, and repeats what its buffers had no
    /// room for.
    fn flood(&mut self, server: &Server, requests: u32) {
        let taken = || server.metric("relay_requests_total", "");
        let goal = taken() + f64::from(requests);
        let deadline = Instant::now() + Duration::from_secs(60 + u64::from(requests) / 1000);
        while taken() < goal {
            assert!(
                Instant::now() < deadline,
                "{} sent, {} of {goal} taken",
                self.sent,
                taken()
            );
            self.send(BURST);
        }
    }
}

/// What happened meanwhile to regular clients.
#[derive(Debug, Default)]
struct Honest {
    /// Packets of a call to an echo and back.
    sent: u32,
    lost: u32,
    /// New clients, each for its own allocation.
    came: u32,
    unserved: u32,
}

impl Honest {
    /// Sends at most 200 packets of 160 bytes per second over `caller`'s channel, with a new client
    /// for every fiftieth, until `over`.
    fn go_on(caller: &mut Client, server: SocketAddr, over: &AtomicBool) -> Self {
        let mut honest = Self::default();
        while !over.load(Ordering::Relaxed) {
            let packet = [&honest.sent.to_be_bytes()[..], &[0; 156]].concat();
            caller.send_channel(CHANNEL, &packet);
            honest.sent += 1;
            // Late counts as lost: a later packet has an earlier number.
            let came = std::iter::from_fn(|| caller.receive_data(LATE));
            honest.lost += u32::from(!came.map(|(_, data)| data).any(|data| data == packet));
            if honest.sent % 50 == 0 {
                honest.came += 1;
                let login = minted(SECRET, 600, &format!("honest-{}", honest.came));
                let served = Client::udp(server).with_login(&login).allocate().is_ok();
                honest.unserved += u32::from(!served);
            }
            thread::sleep(Duration::from_millis(5));
        }
        honest
    }
}

/// A request without a login, or one with a guess and an invalid nonce.
fn request(method: Method, signed: bool) -> Vec<u8> {
    let mut buf = [0; 512];
    let mut writer = MessageWriter::new(&mut buf, Class::Request, method, TransactionId([7; 12]));
    if method == Method::Allocate {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    }
    if signed {
        writer.attribute(AttributeType::USERNAME, b"1900000000:x");
        writer.attribute(AttributeType::REALM, b"relay.test");
        writer.attribute(AttributeType::NONCE, b"0123456789abcdef0123456789abcdef");
        let key = Key::long_term(b"1900000000:x", "relay.test", b"guess", PasswordAlgorithm::Md5);
        writer.integrity(&key, Integrity::Sha1);
    }
    let len = writer.finish().expect("the request fits");
    buf[..len].to_vec()
}

/// Datagrams to `server` for which the kernel had no room, so they never reached the relay.
fn dropped_by_the_kernel(server: SocketAddr) -> u32 {
    let port = format!(":{:04X}", server.port());
    let sockets = std::fs::read_to_string("/proc/net/udp").expect("the kernel's table");
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = fields.filter(|it| it.get(1).is_some_and(|local| local.ends_with(&port)));
    ours.map(|it| it.last().and_then(|drops| drops.parse().ok()).unwrap_or(0))
        .sum()
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("VmRSS in kB");
    kib.parse::<usize>().expect("a number") << 10
}

//= STUN-AUTH-24
#[test]
fn a_flood_from_a_hundred_thousand_sources_leaves_the_server_as_small_as_it_was() {
    let requests = std::env::var("FLOOD_REQUESTS").map_or(SOURCES, |text| text.parse().expect("a number"));
    let mut server = Server::start();
    let login = minted(SECRET, 600, "honest");
    let mut honest = Client::udp(server.plain).with_login(&login);
    honest.allocate().expect("allocated");
    let echo = EchoPeer::start();
    assert_eq!(honest.channel_bind(CHANNEL, echo.address), 0);
    let before = resident(server.pid());
    let mut strangers = Strangers::new(server.plain);
    let started = Instant::now();
    let over = AtomicBool::new(false);
    let fared = thread::scope(|scope| {
        let fared = scope.spawn(|| Honest::go_on(&mut honest, server.plain, &over));
        strangers.flood(&server, requests);
        over.store(true, Ordering::Relaxed);
        fared.join().expect("who behaves is answered")
    });
    let grown = resident(server.pid()).saturating_sub(before);
    let dropped = dropped_by_the_kernel(server.plain);
    eprintln!(
        "{requests} requests from {} sources in {:.1?}: {} KiB more than {} KiB",
        strangers.sent.min(SOURCES),
        started.elapsed(),
        grown >> 10,
        before >> 10
    );
    eprintln!("{fared:?}, the kernel dropped {dropped}");
    assert!(fared.came > 0 && fared.unserved == 0, "{fared:?}");
    assert!(fared.lost <= dropped, "{fared:?}, the kernel dropped {dropped}");
    assert!(grown < MAY_GROW, "{grown} bytes more than {before}");
    assert_eq!(honest.refresh(600), 0);
    assert!(Client::udp(server.plain).with_login(&login).allocate().is_ok());
    server.wait_for_metric("relay_allocations", "", f64::from(2 + fared.came));
    server.assert_healthy();
}
