//! The control path: handshakes a second, and what an idle allocation takes.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use super::client::{Client, ClientError, Settings};
use super::process::Usage;
use super::report::{Latencies, Progress, Report};
use super::target::Target;
use super::{Common, Failure, certificate};

const CHANNEL: u16 = 0x4000;
/// Any port of the peer will do: nothing is sent to it.
const PEER_PORT: u16 = 9999;

pub(super) fn settings(target: &Target, wish: &Common) -> Result<Settings, Failure> {
    Ok(Settings {
        server: target.server,
        local: target.local,
        carrier: wish.transport,
        tls: certificate::tls_client().map_err(ClientError::Tls)?,
        receive_buffer: None,
    })
}

/// What the clients of one thread have done.
struct Tally {
    latencies: Latencies,
    failures: BTreeMap<String, u64>,
}

/// As many handshakes as `at_once` clients can do one after the other.
pub(super) fn rate(target: &Target, wish: &Common, at_once: u32) -> Result<Report, Failure> {
    let settings = settings(target, wish)?;
    let peer = SocketAddr::new(target.local, PEER_PORT);
    // One whole handshake first: a mistake is told at once, and not once for each client.
    handshake(&settings, target, 0, peer)?;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = wish.server_pid.map(Usage::of).transpose()?;
    let start = Instant::now();
    let work = |index: usize| {
        let mut tally = Tally {
            latencies: Latencies::new(),
            failures: BTreeMap::new(),
        };
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            match handshake(&settings, target, index, peer) {
                Ok(()) => {
                    tally.latencies.record(begun.elapsed());
                    done.fetch_add(1, Relaxed);
                }
                Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
            }
        }
        tally
    };
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..at_once as usize)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        wait("allocations", wish.duration());
        stop.store(true, Relaxed);
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let elapsed = start.elapsed();
    let mut latencies = Latencies::new();
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    for tally in tallies {
        latencies.merge(&tally.latencies);
        for (why, count) in tally.failures {
            *failures.entry(why).or_default() += count;
        }
    }
    let done = done.into_inner();
    let mut report = Report::new();
    report
        .text("mode", "allocations")
        .text("transport", wish.transport.as_str())
        .number("seconds", elapsed.as_secs_f64(), 2)
        .count("handshakes", done)
        .number("handshakes_per_s", done as f64 / elapsed.as_secs_f64(), 0)
        .count("failed", failures.values().sum())
        .latencies(&latencies);
    if let Some((why, _)) = failures.iter().max_by_key(|(_, count)| **count) {
        report.text("most_failed_with", why);
    }
    if let (Some(pid), Some(before)) = (wish.server_pid, before) {
        report.usage(
            "server_cpu_us_per_handshake",
            before,
            Usage::of(pid)?,
            done,
            Duration::from_micros(1),
        );
    }
    Ok(report)
}

/// Sleeps, and shows for how long still.
fn wait(what: &'static str, duration: Duration) {
    let progress = Progress::new(what, duration.as_secs());
    let start = Instant::now();
    while let Some(left) = duration.checked_sub(start.elapsed()) {
        thread::sleep(left.min(Duration::from_millis(100)));
        progress.at(start.elapsed().as_secs());
    }
}

fn handshake(settings: &Settings, target: &Target, index: usize, peer: SocketAddr) -> Result<(), Failure> {
    let mut client = Client::connect(settings, target.credential(index)?)?;
    client.allocate()?;
    client.create_permission(peer)?;
    client.channel_bind(CHANNEL, peer)?;
    client.release()?;
    Ok(())
}

/// A client with an allocation and a channel.
fn hold_one(settings: &Settings, target: &Target, index: usize, peer: SocketAddr) -> Result<Client, Failure> {
    let mut client = Client::connect(settings, target.credential(index)?)?;
    client.allocate()?;
    client.channel_bind(CHANNEL, peer)?;
    Ok(client)
}

/// Holds `-n` allocations with a channel each for the time of the measurement, and ends them.
pub(super) fn hold(target: &Target, wish: &Common) -> Result<Report, Failure> {
    let settings = settings(target, wish)?;
    let peer = SocketAddr::new(target.local, PEER_PORT);
    let usage = || wish.server_pid.map(Usage::of).transpose();
    // What the server takes for its first client is not what it takes for each. That client stays until the end:
    // the server closes a relay socket after it has answered, and would be caught with one too many.
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
    let idle_from = Instant::now();
    wait("holding", wish.duration());
    let (idled, idle) = (usage()?, idle_from.elapsed());
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
