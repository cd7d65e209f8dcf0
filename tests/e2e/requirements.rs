//! What the lab needs of the machine. Something missing is a failure that says what to do, never a test skipped in silence.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Panics with the whole list when the machine cannot carry the lab.
pub(crate) fn check(programs: &[&str]) {
    let mut missing = Vec::new();
    if fs::metadata("/proc/self").map_or(true, |process| process.uid() != 0) {
        missing.push("root: network namespaces and firewalls are set up".to_owned());
    }
    for program in programs {
        if !on_path(program) {
            missing.push(format!("the program `{program}`"));
        }
    }
    assert!(
        missing.is_empty(),
        "the end-to-end lab cannot run here, it needs {}.\n\
         `sudo tests/install-packages` installs the programs. Run the tests as root, or let cargo build as you and run \
         as root: `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E' cargo test --test e2e`. \
         docs/testing.md, \"End-to-end lab\", tells what runs without it.",
        missing.join(", ")
    );
}

/// Is there an executable of this name? The places of system tools count even where an ordinary PATH leaves them out.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned());
    env::split_paths(&path)
        .chain(system)
        .any(|folder| folder.join(program).is_file())
}
