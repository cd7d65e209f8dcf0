//! STUN clients of others, as the distribution has them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Server;

/// Runs a program to its end, at most twenty seconds, and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (sudo tests/install-packages): {error}"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("the child is ours").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("the child is ours");
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

//= STUN-BIND-09
#[test]
fn a_client_of_rfc_3489_learns_its_address_where_that_is_switched_on() {
    let server = Server::start_with("[turn.compat]\nrfc3489_binding = true\n");
    // Test 1 is one plain Binding request; `-v` shows what is read.
    let printed = run("stun", &[&server.plain.to_string(), "1", "-v"]);
    assert!(printed.contains("MappedAddress = 127.0.0.1:"), "{printed}");
}
