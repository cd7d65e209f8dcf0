//! Secrets of the running program, and who else can get at them.

use super::*;

/// Every process of the same user may read it, for as long as the program runs.
#[test]
fn secrets_of_the_environment_are_not_in_the_process_environment_and_outlive_a_reload() {
    let setup = Setup::new();
    let path = setup.write(
        &setup
            .base()
            .replace(&format!("key = \"{KEY}\""), "key = \"to-be-overridden-12345678\""),
    );
    let environment = [
        ("RELAY__CREDENTIALS__SECRETS", SECRET),
        ("RELAY__API__KEYS__0__KEY", KEY),
        ("HOME", "/nonexistent"),
    ];
    let mut server = Server::spawn(&path, &environment);
    server.wait_for_output("is ready");
    let shown = std::fs::read(format!("/proc/{}/environ", server.pid().as_raw_nonzero())).expect("root may read it");
    let shown = String::from_utf8_lossy(&shown);
    assert!(!shown.contains(SECRET) && !shown.contains(KEY), "{shown}");
    assert!(shown.contains("HOME=/nonexistent"), "{shown}");

    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(RELOADED, 1.0);
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
    assert_eq!(setup.mint().status, 200);
}

#[test]
fn a_whole_configuration_in_the_environment_is_taken_out_of_it() {
    let setup = Setup::new();
    let text = format!("{}[credentials]\nsecrets = [\"{SECRET}\"]\n", setup.base());
    let mut server = Server::spawn_without_file(&[("RELAY_CONFIG", &text)]);
    server.wait_for_output("is ready");
    let shown = std::fs::read(format!("/proc/{}/environ", server.pid().as_raw_nonzero())).expect("root may read it");
    let shown = String::from_utf8_lossy(&shown);
    assert!(!shown.contains(SECRET) && !shown.contains(REALM), "{shown}");
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
}

/// `/proc/PID/mem`, ptrace and core dumps are for processes that may be dumped; the kernel gives such files of others to
/// root.
#[test]
fn other_processes_of_its_user_cannot_look_into_it() {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    let setup = Setup::new();
    for path in ["secret", "relay.toml", "."] {
        setup.write(&setup.with_secret_file());
        std::os::unix::fs::chown(setup.dir.join(path), Some(12_345), Some(12_345)).expect("as root");
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_relay"));
    command.arg("--config").arg(setup.dir.join("relay.toml"));
    command.uid(12_345).gid(12_345);
    let mut server = Server::spawn_command(command);
    server.wait_for_output("is ready");
    let pid = server.pid().as_raw_nonzero();
    let owner = std::fs::metadata(format!("/proc/{pid}/mem"))
        .expect("a process of ours")
        .uid();
    assert_eq!(owner, 0, "it may not be dumped");
    let mut other = std::process::Command::new("cat");
    other.arg(format!("/proc/{pid}/environ")).uid(12_345).gid(12_345);
    assert!(!other.output().expect("cat runs").status.success());
    // It still sees itself.
    assert!(setup.metric("process_open_fds") > 5.0);
}
