//! The unit file: what systemd itself thinks of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Highest exposure that `systemd-analyze security` may find, in tenths.
const MAX_EXPOSURE: &str = "15";

/// Runs `systemd-analyze` on the unit with the tested binary in its place; `None` where the tool is not installed,
/// which CI does not forgive.
fn analyze(args: &[&str]) -> Option<(bool, String)> {
    let unit = unit_for_this_machine(args[0]);
    let output = Command::new("systemd-analyze").args(args).arg(&unit).output();
    std::fs::remove_dir_all(unit.parent().expect("parent")).expect("remove");
    match output {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(e) if std::env::var_os("CI").is_none() => {
            eprintln!("NOT TESTED: systemd-analyze cannot be run ({e}); install Debian's `systemd`");
            None
        }
        Err(e) => panic!("systemd-analyze must be there in CI: {e}"),
    }
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
    let Some((success, text)) = analyze(&["verify"]) else {
        return;
    };
    assert!(success && text.trim().is_empty(), "{text}");
}

#[test]
fn the_unit_exposes_little() {
    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let Some((success, text)) = analyze(&["security", "--offline=true", "--no-pager", &threshold]) else {
        return;
    };
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
