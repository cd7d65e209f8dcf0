//! The unit file: what systemd itself thinks of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Highest exposure that `systemd-analyze security` may find, in tenths.
const MAX_EXPOSURE: &str = "15";

/// Runs `systemd-analyze` on the unit with the tested binary in its place.
fn analyze(args: &[&str]) -> (bool, String) {
    let unit = unit_for_this_machine(args[0]);
    let output = Command::new("timeout")
        .args(["--verbose", "60", "systemd-analyze"])
        .args(args)
        .arg(&unit)
        .output()
        .unwrap_or_else(|error| panic!("timeout (coreutils): {error}"));
    std::fs::remove_dir_all(unit.parent().expect("parent")).expect("remove");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // What `timeout` says of a program that is not there.
    assert_ne!(output.status.code(), Some(127), "sudo tests/install-packages: {text}");
    (output.status.success(), text)
}

/// The drop-in of docs/operations.md that hands over files which only root can read.
fn drop_in() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(page).expect("page");
    let (_, rest) = page.split_once("```ini\n").expect("a drop-in");
    let (block, _) = rest.split_once("```").expect("its end");
    assert_eq!(block.matches("LoadCredential=").count(), 4, "{block}");
    block.to_owned()
}

fn unit_for_this_machine(purpose: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/relay.service");
    let unit = std::fs::read_to_string(source).expect("unit");
    assert!(unit.contains("ExecStart=/usr/local/bin/relay "));
    let unit = unit.replace("/usr/local/bin/relay ", &format!("{} ", env!("CARGO_BIN_EXE_relay")));
    let unit = unit + "\n" + &drop_in();
    let dir = std::env::temp_dir().join(format!("relay-unit-{purpose}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let path = dir.join("relay.service");
    std::fs::write(&path, unit).expect("write");
    path
}

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let (success, text) = analyze(&["verify"]);
    assert!(success && text.trim().is_empty(), "{text}");
}

#[test]
fn the_unit_exposes_little() {
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let (success, text) = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
    assert!(success, "{text}");
}

/// Every value of this key in the unit.
fn values(key: &str) -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/relay.service");
    let unit = std::fs::read_to_string(unit).expect("unit");
    let lines = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_unit_goes_on_trying_for_what_comes_late_and_not_for_mistakes() {
    // Status 1: an address that comes after two minutes must find a unit that has not given up.
    assert_eq!(values("Restart"), ["on-failure"]);
    assert_eq!(values("StartLimitIntervalSec"), ["0"]);
    assert_eq!(values("RestartPreventExitStatus"), ["78"]);
    let pause: u64 = values("RestartSec")[0].parse().expect("seconds");
    assert!((1..=10).contains(&pause));
}
