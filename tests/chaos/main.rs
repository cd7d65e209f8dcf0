//! Fault injection at the sockets: the real workers on a simulated kernel.
//!
//! This program defines the system calls itself ([`calls`]). Threads of a [`world`] have a
//! simulated kernel, virtual time and randomness from a seed, and run one at a time, so the same
//! seed gives the same run. `docs/testing.md`, "Chaos at the sockets", explains how to run it and
//! what to do when it fails.

#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod bytes;
mod calls;
mod datagrams;
mod dialing;
mod ending;
mod ends;
mod faults;
mod guest;
mod kernel;
mod ledger;
mod lines;
mod plug;
mod runner;
mod sealed;
mod stories;
mod streams;
mod world;

use std::collections::BTreeMap;

/// Situations that this many seeds must reach, besides every fault. A run that no longer reaches
/// them proves nothing.
const REACHED: &[&str] = &[
    "a reload",
    "a storm",
    "a stream",
    "a TLS stream",
    "a connection to be bound over TLS",
    "a client that moves",
    "an allocation that moved",
    "an allocation at another worker",
    "a client over DTLS",
    "a handshake of DTLS",
    "an allocation over DTLS",
    "an association is left by its client",
    "a stream is closed by its client",
    "data and the end",
    "an allocation",
    "ICMP told to a client",
    "a packet through a mailbox",
    "a mailbox that is full",
    "several datagrams sent as one",
    "a stream that takes no more",
    "a TCP allocation",
    "a peer a client connected to",
    "a peer that connected",
    "a peer that was not accepted",
    "a connection bound",
    "a connection carried bytes both ways",
    "a connection that one side ended first",
    "a connection ended with its allocation",
    "a connection nobody bound",
    "a peer that could not be reached",
];

/// Situations that a normal run may miss, but ten times as many seeds do not: a run makes few
/// connections with peers.
const SELDOM: &[&str] = &[
    "a connection the policy ended",
    "a peer that did not answer",
    faults::Fault::AcceptAborted.name(),
    faults::Fault::ConnectUnreachable.name(),
    faults::Fault::ConnectTaken.name(),
    faults::Fault::ConnectedAtOnce.name(),
    faults::Fault::ConnectLost.name(),
    faults::Fault::ConnectTimedOut.name(),
];

/// Seeds of a normal run.
const SEEDS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a seed; returns the situations it reached, or what is wrong.
fn run(seed: u64, traced: bool) -> Result<(u64, BTreeMap<&'static str, u64>), String> {
    let mut run = runner::Run::new(seed, traced);
    run.live();
    let findings = run.findings();
    let counted = run.counted();
    let mut state = run.world.lock();
    let trace = state.kernel.trace.take().unwrap_or_default();
    let last = trace.len().saturating_sub(number("WORKER_TRACE").unwrap_or(0) as usize);
    trace[last..].iter().for_each(|line| eprintln!("{line}"));
    if !findings.is_empty() {
        return Err(format!("WORKER_SEED={seed}: {}", findings.join("\n")));
    }
    let mut marks: BTreeMap<&str, u64> = run.marks.iter().map(|(&mark, &count)| (mark, count)).collect();
    for &fault in faults::Fault::ALL {
        *marks.entry(fault.name()).or_default() += state.kernel.faults.struck[fault as usize];
    }
    marks.extend(counted);
    *marks.entry("parcels").or_default() += run.ledger.sent() as u64;
    *marks.entry("parcels that arrived").or_default() += run.ledger.arrived;
    *marks.entry("turns").or_default() += state.turns;
    Ok((state.kernel.digest, marks))
}

#[test]
fn no_invariant_breaks_in_any_run() {
    let one = number("WORKER_SEED");
    let first = one.or_else(|| number("WORKER_FIRST")).unwrap_or(0);
    let seeds = if one.is_some() {
        1
    } else {
        number("WORKER_SEEDS").unwrap_or(SEEDS)
    };
    let mut marks = BTreeMap::new();
    for seed in first..first + seeds {
        match run(seed, number("WORKER_TRACE").is_some()) {
            Ok((_, more)) => more
                .into_iter()
                .for_each(|(mark, count)| *marks.entry(mark).or_insert(0) += count),
            Err(finding) => panic!("{finding}"),
        }
    }
    eprintln!("{marks:#?}");
    let faults = faults::Fault::ALL.iter().map(|fault| fault.name());
    let many = seeds >= 10 * SEEDS;
    let wanted = REACHED.iter().copied().chain(faults).chain(SELDOM.iter().copied());
    let wanted = wanted.filter(|mark| many || !SELDOM.contains(mark));
    let missed: Vec<&str> = wanted
        .filter(|mark| marks.get(mark).is_none_or(|&count| count == 0))
        .collect();
    assert!(
        seeds < SEEDS || missed.is_empty(),
        "{seeds} runs have not come across {missed:?}"
    );
}

#[test]
fn equal_seeds_take_equal_courses() {
    for seed in 0..4 {
        let digest = || run(seed, false).expect("a run without a finding").0;
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}
