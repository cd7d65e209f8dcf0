//! The comparison with other servers can be run: here of the relay alone, briefly, and without a
//! core of its own.

#![allow(clippy::disallowed_methods, reason = "what is measured takes real time")]
#![allow(clippy::print_stderr, reason = "it tells how far it is")]

mod suite;

use std::fs;
use std::path::Path;

use serde_json::Value;
use suite::{Options, Server};

#[test]
fn the_relay_is_measured_and_the_results_are_written_down() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("side_by_side-{}", std::process::id()));
    let cases = ["frames-up", "idle", "tls-down", "allocations"];
    let mut options = Options {
        runs: 1,
        seconds: 1,
        only: cases.map(str::to_owned).into(),
        servers: vec![Server::Relay],
        turn_server: "turn-server".into(),
        out: out.clone(),
        append: false,
        unpinned: true,
    };
    suite::run(&options).expect("every case is measured");
    // Once more from what was written.
    (options.runs, options.append) = (0, true);
    suite::run(&options).expect("table and plots are written again");

    let read = |name: &str| fs::read_to_string(out.join(name)).expect("a file of results");
    let lines: Vec<Value> = read("results.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect();
    assert!(lines[0]["machine"]["cores"].is_u64(), "{}", lines[0]);
    let measured: Vec<&str> = lines.iter().filter_map(|line| line["case"].as_str()).collect();
    assert_eq!(measured, cases);
    let table = read("table.md");
    assert_eq!(table.lines().count(), 2 + cases.len(), "{table}");
    assert!(table.contains("TLS, 1200 B, down"), "{table}");
    let plot = read("costs.svg");
    assert!(
        plot.starts_with("<svg") && plot.matches(" relay</text>").count() == 2,
        "{plot}"
    );
    fs::remove_dir_all(out).expect("it was ours");
}

#[test]
fn a_case_that_is_not_there_is_refused_with_those_that_are() {
    let options = Options {
        runs: 1,
        seconds: 1,
        only: vec!["vidoe".to_owned()],
        servers: vec![Server::Relay],
        turn_server: "turn-server".into(),
        out: "never-made".into(),
        append: false,
        unpinned: true,
    };
    let told = suite::run(&options).expect_err("no case is measured");
    assert!(
        told.contains("frames-up") && !Path::new("never-made").exists(),
        "{told}"
    );
}
