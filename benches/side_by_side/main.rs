//! Measures the relay and other TURN servers alternately, with the same traffic: `benches/run`.
//!
//! `relay bench` generates the traffic, so that everyone can repeat the measurement with this
//! repository. The server has core 0 to itself and the generator core 1. Every measurement starts
//! its server anew, and the order changes from run to run. The main figure is the server's CPU time
//! per packet, which other load on the machine hardly affects.

#![allow(clippy::disallowed_methods, reason = "what is measured takes real time")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that talks to whoever started it"
)]

mod bare;
mod suite;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    let result = match words.get(1).map(String::as_str) {
        None => {
            println!("side_by_side takes minutes and wants a quiet machine: start it with benches/run");
            Ok(())
        }
        Some(word @ (suite::BARE | suite::PAUSED)) => {
            let address = |index, otherwise| words.get(index).map_or(otherwise, String::as_str).parse();
            match (address(2, "127.0.0.1:3478"), address(3, "127.0.0.1:5349")) {
                (Ok(plain), Ok(tls)) => bare::run(plain, tls, word == suite::PAUSED).map_err(|e| e.to_string()),
                (Err(error), _) | (_, Err(error)) => Err(format!("an address for {word}: {error}")),
            }
        }
        Some(_) => suite::run(&suite::Options::parse_from(words.get(1..).unwrap_or_default())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("side_by_side: {why}");
            ExitCode::FAILURE
        }
    }
}
