//! Measures the control path: handshakes per second, and the memory and descriptors of an idle
//! allocation.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use relay_client::{ClientError, ClientLink, ClientSettings, TurnClient, accept_any_certificate};

use super::process::Usage;
use super::report::{Latencies, Progress, Report};
use super::target::Target;
use super::{ClientTransport, Common, Failure};
use crate::net::clock::Clock;
use crate::net::udp::UdpOptions;

/// How long to wait for a response.
const PATIENCE: Duration = Duration::from_secs(8);
/// Large socket buffers: a measurement must not lose packets in its own sockets.
pub(super) const UDP: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: false,
};
const CHANNEL: u16 = 0x4000;
/// Any port of the peer works: nothing is sent to it.
const PEER_PORT: u16 = 9999;

pub(super) fn settings(target: &Target, wish: &Common) -> Result<ClientSettings, Failure> {
    Ok(ClientSettings {
        server: target.server,
        local: target.local,
        link: match wish.transport {
            ClientTransport::Udp => ClientLink::Udp(UDP),
            ClientTransport::Tcp => ClientLink::Tcp,
            ClientTransport::Tls => ClientLink::Tls(Arc::new(
                accept_any_certificate(&[b"stun.turn"]).map_err(ClientError::Tls)?,
            )),
        },
        receive_buffer: None,
        timeout: PATIENCE,
    })
}

/// The results of some clients.
struct Tally {
    done: u64,
    latencies: Latencies,
    failures: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Self {
        Self {
            done: 0,
            latencies: Latencies::new(),
            failures: BTreeMap::new(),
        }
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.latencies.merge(&other.latencies);
        for (why, count) in other.failures {
            *self.failures.entry(why).or_default() += count;
        }
    }
}

/// Handshakes that `at_once` clients complete one after the other. With `pair` the peer is another
/// allocation of the server.
pub(super) fn rate(target: &Target, wish: &Common, at_once: u32, pair: bool) -> Result<Report, Failure> {
    let settings = settings(target, wish)?;
    let mut peer = SocketAddr::new(target.local, PEER_PORT);
    let mut other = None;
    if pair {
        let mut client = TurnClient::connect(&settings, target.credential(at_once as usize)?)?;
        peer = client.allocate()?;
        other = Some(client);
    }
    // One complete handshake first, so that an error is reported at once and not by each client.
    handshake(&settings, target, 0, peer)?;
    let before = Usage::of(&wish.server_pids)?;
    let clock = Clock::default();
    let start = clock.mono();
    let tally = together(at_once, wish.duration(), |index| {
        handshake(&settings, target, index, peer)
    });
    let (elapsed, after) = (clock.mono() - start, Usage::of(&wish.server_pids)?);
    if let Some(client) = &mut other {
        client.release()?;
    }
    let mut report = Report::new();
    report
        .text("mode", "allocations")
        .text("transport", wish.transport.as_str())
        .number("seconds", elapsed.as_secs_f64(), 2)
        .count("handshakes", tally.done)
        .number("handshakes_per_s", tally.done as f64 / elapsed.as_secs_f64(), 0)
        .count("failed", tally.failures.values().sum())
        .latencies(&tally.latencies);
    if let Some((why, _)) = tally.failures.iter().max_by_key(|(_, count)| **count) {
        report.text("most_failed_with", why);
    }
    if let (Some(before), Some(after)) = (before, after) {
        let unit = Duration::from_micros(1);
        report.usage("server_cpu_us_per_handshake", before, after, tally.done, unit);
    }
    Ok(report)
}

/// Runs `work` repeatedly on `at_once` clients for `duration`.
fn together(at_once: u32, duration: Duration, work: impl Fn(usize) -> Result<(), Failure> + Sync) -> Tally {
    let stop = AtomicBool::new(false);
    let clock = Clock::default();
    let client = |index| {
        let mut tally = Tally::new();
        while !stop.load(Relaxed) {
            let begun = clock.mono();
            match work(index) {
                Ok(()) => {
                    tally.latencies.record(clock.mono() - begun);
                    tally.done += 1;
                }
                Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
            }
        }
        tally
    };
    let mut all = Tally::new();
    thread::scope(|scope| {
        let client = &client;
        let threads: Vec<_> = (0..at_once as usize)
            .map(|index| scope.spawn(move || client(index)))
            .collect();
        wait("allocations", duration);
        stop.store(true, Relaxed);
        for tally in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.add(tally);
        }
    });
    all
}

/// Sleeps, and shows the progress.
fn wait(what: &'static str, duration: Duration) {
    let progress = Progress::new(what, duration.as_secs());
    let clock = Clock::default();
    let start = clock.mono();
    while let Some(left) = duration.checked_sub(clock.mono() - start) {
        thread::sleep(left.min(Duration::from_millis(100)));
        progress.at((clock.mono() - start).as_secs());
    }
}

fn handshake(settings: &ClientSettings, target: &Target, index: usize, peer: SocketAddr) -> Result<(), Failure> {
    let mut client = TurnClient::connect(settings, target.credential(index)?)?;
    client.allocate()?;
    client.create_permission(peer)?;
    client.channel_bind(CHANNEL, peer)?;
    client.release()?;
    Ok(())
}

/// A client with an allocation and a channel.
fn hold_one(settings: &ClientSettings, target: &Target, index: usize, peer: SocketAddr) -> Result<TurnClient, Failure> {
    let mut client = TurnClient::connect(settings, target.credential(index)?)?;
    client.allocate()?;
    client.channel_bind(CHANNEL, peer)?;
    Ok(client)
}

/// Holds `-n` allocations with a channel each for the duration, and ends them.
pub(super) fn hold(target: &Target, wish: &Common) -> Result<Report, Failure> {
    let settings = settings(target, wish)?;
    let peer = SocketAddr::new(target.local, PEER_PORT);
    let usage = || Usage::of(&wish.server_pids);
    // The server's memory for its first client is not its memory per client. This client stays
    // until the end: the server closes a relay socket after it has answered, and the count would
    // include it.
    let mut first = hold_one(&settings, target, 0, peer)?;
    let before = usage()?;
    let progress = Progress::new("allocating", wish.allocations.into());
    let mut clients = Vec::with_capacity(wish.count());
    for index in 0..wish.count() {
        clients.push(hold_one(&settings, target, index, peer)?);
        progress.at(index as u64);
    }
    drop(progress);
    let held = usage()?;
    let clock = Clock::default();
    let idle_from = clock.mono();
    wait("holding", wish.duration());
    let (idled, idle) = (usage()?, clock.mono() - idle_from);
    for client in &mut clients {
        client.release()?;
    }
    drop(clients);
    let after = usage()?;
    first.release()?;
    let mut report = Report::new();
    report
        .text("mode", "hold")
        .text("transport", wish.transport.as_str())
        .count("allocations", wish.allocations.into());
    if let (Some(before), Some(held), Some(idled), Some(after)) = (before, held, idled, after) {
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / f64::from(wish.allocations);
        report
            .number("rss_bytes_per_allocation", each(held.resident, before.resident), 0)
            .number("fds_per_allocation", each(held.descriptors, before.descriptors), 2)
            .number(
                "idle_cpu_ms_per_s",
                (idled.cpu.saturating_sub(held.cpu)).as_secs_f64() * 1000.0 / idle.as_secs_f64(),
                2,
            )
            .count("server_rss_bytes_before", before.resident)
            .count("server_rss_bytes_held", held.resident)
            .count("server_rss_bytes_after", after.resident);
    }
    Ok(report)
}
