//! The lab's requirements. A missing one fails with instructions; a test is never skipped silently.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Panics with the whole list if the machine lacks something.
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

/// Whether there is an executable with this name. Directories of system tools count even if PATH
/// omits them.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned());
    env::split_paths(&path)
        .chain(system)
        .any(|folder| folder.join(program).is_file())
}
