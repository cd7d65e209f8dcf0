//! The install steps of docs/operations.md with the configuration of README.md, line by line, on this machine's own files: in a
//! mount namespace, with layers that are gone afterwards over /etc and the like. The service manager's part is done here.

use std::fs;
use std::process::Command;

use crate::container::serves_443;
use crate::place::{Dir, Process, require, run, source};

/// Layers over what the steps write, and the source's directory as they need it. `$1` is the test's directory.
const PRELUDE: &str = r#"
set -euo pipefail
mount -t tmpfs -o mode=755 tmpfs "$1/layers"
for place in etc var/lib usr/local/bin usr/lib/sysusers.d; do
    mkdir -p "/$place" "$1/layers/$place/upper" "$1/layers/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$1/layers/$place/upper,workdir=$1/layers/$place/work" overlay "/$place"
done
rm -rf /etc/relay /var/lib/relay
mkdir -p /etc/systemd/system
cd "$1/source"
"#;

/// As systemd/relay.service does.
const START: &str = r#"
install -d -m 700 -o relay -g relay /var/lib/relay
exec setpriv --reuid relay --regid relay --init-groups --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
    --bounding-set=-all,+net_bind_service --no-new-privs env -i STATE_DIRECTORY=/var/lib/relay \
    /usr/local/bin/relay --config /etc/relay/relay.toml
"#;

/// The text between `begin` and the end of its block.
fn blocks(page: &str, begin: &str) -> Vec<String> {
    let text = fs::read_to_string(source(page)).expect("page");
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, at)) = rest.split_once(begin) {
        let (block, after) = at.split_once("```\n").expect("the block's end");
        blocks.push(block.to_owned());
        rest = after;
    }
    blocks
}

/// The steps up to the check, which are for root to type.
fn steps() -> String {
    let page = fs::read_to_string(source("docs/operations.md")).expect("page");
    let (_, install) = page.split_once("## Install\n").expect("the section");
    let (install, _) = install.split_once("\n### ").expect("its end");
    let lines: Vec<&str> = install
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap_or_default().lines())
        // There is no service manager in here.
        .filter(|line| !line.starts_with("systemctl "))
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("relay check")), "{lines:?}");
    lines.join("\n") + "\n"
}

/// A directory like the source's after a build, with README's ten lines as the configuration.
fn prepare() -> Dir {
    require(&[
        "unshare",
        "setpriv",
        "install",
        "systemd-sysusers",
        "ip",
        "groupadd",
        "usermod",
    ]);
    let dir = Dir::new();
    let path = |name: &str| dir.0.join(name);
    fs::create_dir(path("layers")).expect("directory");
    fs::create_dir_all(path("source/target/release")).expect("directory");
    fs::create_dir_all(path("source/config")).expect("directory");
    fs::copy(env!("CARGO_BIN_EXE_relay"), path("source/target/release/relay")).expect("copy");
    run(Command::new("cp").arg("-r").arg(source("systemd")).arg(path("source")));
    let ten_lines = blocks("README.md", "```toml\n").remove(0);
    fs::write(path("source/config/relay.toml"), ten_lines).expect("write");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["turn.example.org".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(path("source/fullchain.pem"), certificate.pem()).expect("write");
    fs::write(path("source/privkey.pem"), key.serialize_pem()).expect("write");
    dir
}

/// A shell script behind [`PRELUDE`], as arguments of a command.
fn script(dir: &Dir, text: &str) -> [String; 7] {
    let dir = dir.0.to_str().expect("UTF-8");
    let text = format!("{PRELUDE}{text}");
    ["unshare", "--mount", "bash", "-c", &text, "bash", dir].map(str::to_owned)
}

#[test]
fn the_install_steps_of_the_documents_end_in_a_server_that_serves() {
    let dir = prepare();
    let command = script(&dir, &format!("{}{START}", steps()));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut process = Process::start(&command, dir.0.join("log"));
    process.wait_until_ready();
    assert_eq!(serves_443(&process), [true, true], "{}", process.log());
}

/// Runs the steps, then `text`, and gives back what that printed and `relay check` said to root.
fn check_after(text: &str) -> String {
    let dir = prepare();
    let text = format!(
        "{{\n{}}} >/dev/null 2>&1\n{text}\nif relay check --quiet --config /etc/relay/relay.toml 2>&1; then echo GOOD; else echo BAD; fi\n",
        steps()
    );
    let command = script(&dir, &text);
    run(Command::new(&command[0]).args(&command[1..]))
}

#[test]
fn root_is_told_what_the_services_user_cannot_read() {
    let told = check_after("chgrp root /etc/relay/secret /etc/relay/api-key /etc/relay/privkey.pem");
    for file in ["secret", "api-key", "privkey.pem"] {
        let advice = format!("read it: chown relay /etc/relay/{file}");
        assert!(told.contains(&advice), "{advice} is not in\n{told}");
    }
    assert!(told.contains("would not start for the user relay: 3 errors"), "{told}");
    assert!(told.trim_end().ends_with("BAD"), "{told}");
}

#[test]
fn a_directory_that_the_services_user_may_not_enter_is_named() {
    let told = check_after(
        "install -d -m 700 /etc/keys; mv /etc/relay/privkey.pem /etc/keys/; ln -s /etc/keys/privkey.pem /etc/relay/",
    );
    assert!(told.contains("enter /etc/keys: chmod o+x /etc/keys"), "{told}");
    assert!(told.contains("1 error"), "{told}");
    let told = check_after("chmod 700 /etc/relay");
    assert!(told.contains("enter /etc/relay: chmod o+x /etc/relay"), "{told}");
    assert!(told.trim_end().ends_with("BAD"), "{told}");
}

#[test]
fn groups_of_the_services_user_count_and_root_may_ask_for_itself() {
    let told = check_after("groupadd --system keys; usermod -aG keys relay; chgrp keys /etc/relay/privkey.pem");
    assert!(told.trim_end().ends_with("GOOD"), "{told}");
    let told = check_after(
        "chgrp root /etc/relay/secret\nrelay check --quiet --user root --config /etc/relay/relay.toml 2>&1 && echo ROOT\n\
         relay check --quiet --user nobody-of-that-name --config /etc/relay/relay.toml 2>&1 || echo UNKNOWN",
    );
    assert!(told.contains("ROOT\nthere is no user nobody-of-that-name"), "{told}");
    assert!(told.contains("UNKNOWN") && told.trim_end().ends_with("BAD"), "{told}");
}

#[test]
fn a_state_directory_that_the_services_user_cannot_write_is_a_mistake() {
    let told = check_after(
        "install -d -m 755 /var/lib/other; sed -i '1i state_dir = \"/var/lib/other\"' /etc/relay/relay.toml",
    );
    assert!(
        told.contains("cannot write to the state directory /var/lib/other"),
        "{told}"
    );
    assert!(told.trim_end().ends_with("BAD"), "{told}");
    // The unit's own is made and given to its user by systemd.
    let told = check_after(
        "install -d -m 700 /var/lib/relay; sed -i '1i state_dir = \"/var/lib/relay\"' /etc/relay/relay.toml",
    );
    assert!(told.trim_end().ends_with("GOOD"), "{told}");
}
