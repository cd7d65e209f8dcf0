//! STUN clients of other projects, from the distribution.

use std::process::{Command, Output, Stdio};

use crate::harness::Server;

/// Time limit of every program, in seconds: generous, as it only bounds a failure.
const PATIENCE: &str = "60";

/// Runs a program to its end; panics if it does not end or does not exist.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args([PATIENCE, program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("timeout (coreutils): {error}"));
    // The exit codes of `timeout` itself.
    match output.status.code() {
        Some(124) => panic!(
            "waited {PATIENCE} s for the end of {program} {arguments:?}:\n{}",
            printed(&output)
        ),
        Some(126 | 127) => panic!("{program} cannot be run (sudo tests/install-packages)"),
        _ => output,
    }
}

/// Runs a program to its end, and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    printed(&output(program, arguments))
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

//= STUN-BIND-09
#[test]
fn a_client_of_rfc_3489_learns_its_address_where_that_is_switched_on() {
    let server = Server::start_with("[turn.compat]\nrfc3489_binding = true\n");
    // Test 1 is one plain Binding request; `-v` shows what is read.
    let printed = run("stun", &[&server.plain.to_string(), "1", "-v"]);
    assert!(printed.contains("MappedAddress = 127.0.0.1:"), "{printed}");
}
