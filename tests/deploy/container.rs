//! The container image on the host's network, without a container engine: the same user, the same file capability, and
//! the capabilities that Docker leaves a user who is not root. `tests/image` builds the image itself.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;

use crate::place::{Dir, PATIENCE, Process, local, require, run, source};

/// What comes behind the first `instruction` of the Dockerfile that has it.
fn dockerfile(instruction: &str) -> String {
    let text = fs::read_to_string(source("Dockerfile")).expect("Dockerfile");
    let rest = text.lines().find_map(|line| Some(line.split_once(instruction)?.1));
    let rest = rest.unwrap_or_else(|| panic!("the Dockerfile has no `{instruction}`"));
    rest.split_whitespace().next().expect("an argument").to_owned()
}

/// Starts the program as the image would: `docker run --network host --cap-drop ALL` and the flags.
fn start(dir: &Dir, bounding_set: &str, flags: &[&str]) -> Process {
    require(&["unshare", "ip", "setpriv", "setcap"]);
    let program = dir.0.join("relay");
    fs::copy(env!("CARGO_BIN_EXE_relay"), &program).expect("copy");
    run(Command::new("setcap").arg(dockerfile("setcap ")).arg(&program));
    let user = dockerfile("USER ");
    let (uid, gid) = user.split_once(':').expect("USER uid:gid");
    let state = dir.0.join("state");
    run(Command::new("install")
        .args(["-d", "-m", "700", "-o", uid, "-g", gid])
        .arg(&state));
    let config = source("config/relay.toml");
    // The checkout may be where the image's user cannot go.
    let copied = dir.0.join("relay.toml");
    run(Command::new("install").args(["-m", "644"]).args([&config, &copied]));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (reuid, regid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
    let bounding_set = format!("--bounding-set={bounding_set}");
    let state = format!("STATE_DIRECTORY={}", path(&state));
    let (program, config) = (path(&program), path(&copied));
    let mut command = vec![
        "setpriv",
        &reuid,
        &regid,
        "--clear-groups",
        "--inh-caps=-all",
        &bounding_set,
    ];
    command.extend(flags);
    command.extend(["env", &state, &program, "--config", &config]);
    let mut process = Process::start(&command, dir.0.join("log"));
    process.wait_until_ready();
    process
}

/// Whether port 443 takes TCP connections, and answers STUN over UDP.
pub(crate) fn serves_443(process: &Process) -> [bool; 2] {
    process.within(|| {
        let tcp = TcpStream::connect_timeout(&local(443), PATIENCE).is_ok();
        let udp = UdpSocket::bind(local(0)).expect("a socket");
        udp.set_read_timeout(Some(PATIENCE)).expect("timeout");
        udp.connect(local(443)).expect("connect");
        let mut request = [0; 64];
        let id = TransactionId([7; 12]);
        let writer = MessageWriter::new(&mut request, Class::Request, Method::Binding, id);
        let len = writer.finish().expect("room");
        // A port nobody has answers with an ICMP error, which is an error of the next call.
        let mut answer = [0; 512];
        let answered = udp.send(&request[..len]).and_then(|_| udp.recv(&mut answer));
        let answered = answered
            .is_ok_and(|len| Message::parse(&answer[..len]).is_ok_and(|message| message.class() == Class::Success));
        [tcp, answered]
    })
}

#[test]
fn the_build_stage_has_every_file_that_the_manifest_names() {
    let dir = Dir::new();
    let text = fs::read_to_string(source("Dockerfile")).expect("Dockerfile");
    let copied: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        // Into the build's directory; what has a place of its own is no part of the build.
        .filter(|line| !line.contains(" /"))
        .collect();
    assert!(copied.len() >= 3, "{copied:?}");
    for line in copied {
        let names: Vec<&str> = line.split_whitespace().collect();
        let (target, sources) = names.split_last().expect("a target");
        for name in sources {
            run(Command::new("cp").arg("-r").arg(source(name)).arg(dir.0.join(target)));
        }
    }
    run(Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(&dir.0));
}

#[test]
fn the_images_user_serves_443_on_the_hosts_network_where_the_capability_is_added() {
    let dir = Dir::new();
    let process = start(&dir, "-all,+net_bind_service", &[]);
    assert_eq!(serves_443(&process), [true, true], "{}", process.log());
}

#[test]
fn without_the_capability_the_image_still_starts_and_says_what_is_missing() {
    for (bounding_set, flags) in [
        ("-all", &[][..]),
        // Kubernetes' `allowPrivilegeEscalation: false`: the kernel ignores what files permit.
        ("-all,+net_bind_service", &["--no-new-privs"]),
    ] {
        let dir = Dir::new();
        let process = start(&dir, bounding_set, flags);
        assert_eq!(serves_443(&process), [false, false], "{bounding_set} {flags:?}");
        let log = process.log();
        assert!(
            log.contains("ip_unprivileged_port_start"),
            "{bounding_set} {flags:?}: {log}"
        );
    }
}
