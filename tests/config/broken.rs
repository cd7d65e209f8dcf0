//! Configurations with several mistakes each: every one must be told, with its place and what to write instead, and no
//! other. `broken/NAME.toml` is what the operator wrote, `broken/NAME.txt` what the server answers.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::machine::{Machine, SECRET, summary};

/// The machine the broken configurations are for.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.certificate("turn.example.org");
    fs::rename(machine.dir.join("privkey.pem"), machine.dir.join("other-key.pem")).expect("a key");
    machine.certificate("turn.example.org");
    machine.file("secret", SECRET);
    machine.file("short-secret", "Zk3v8yB1qTn5LxW0\n");
    machine.file("empty", "\n");
    let certificate = CertificateDer::from_pem_file(machine.dir.join("fullchain.pem")).expect("a certificate");
    machine.file("certificate.der", &certificate);
    let key = PrivateKeyDer::from_pem_file(machine.dir.join("privkey.pem")).expect("a key");
    machine.file("key.der", key.secret_der());
    // As OpenSSL writes them: the first bytes are what tells these two.
    machine.file(
        "both.p12",
        b"\x30\x82\x0a\x0b\x02\x01\x03\x30\x82\x09\xd1\x06\x09\x2a\x86\x48",
    );
    machine.file(
        "chain.p7b",
        b"\x30\x82\x0a\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x82",
    );
    machine.file(
        "locked.der",
        b"\x30\x81\xf3\x30\x5e\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d\x30\x51",
    );
    fs::create_dir(machine.dir.join("certificates")).expect("a directory");
    machine.file("certificates/turn.pem", "");
    machine
}

pub fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/broken");
    let all = fs::read_dir(dir)
        .expect("the cases")
        .map(|entry| entry.expect("a case").path());
    let mut all: Vec<_> = all
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    all.sort();
    all
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_do() {
    let mut failures = Vec::new();
    for case in cases() {
        let machine = machine();
        let mistakes = machine.bad(&fs::read_to_string(&case).expect("a case"));
        let told = summary(&mistakes, &machine.dir.join("relay.toml")).join("\n") + "\n";
        let expected = case.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &told).expect("the expectation");
        }
        if fs::read_to_string(&expected).unwrap_or_default() != told {
            failures.push(format!("{}:\n{told}", case.display()));
        }
        assert!(
            mistakes.counts().0 >= 2,
            "{}: a case has several mistakes",
            case.display()
        );
    }
    assert!(
        failures.is_empty(),
        "not as expected (UPDATE_EXPECTED=1 writes anew):\n{}",
        failures.join("\n")
    );
}

#[test]
fn an_answer_looks_like_this() {
    let machine = machine();
    let toml =
        "[admin]\naddress = \"127.0.0.1:443\"\n[limits]\n\tpermisions = 5\n[credentials]\nsecrets = [\"north\"]\n";
    let shown = machine
        .bad(toml)
        .to_string()
        .replace(&format!("{}/", machine.dir.display()), "");
    let expected = r#"error: `admin.address` 127.0.0.1:443 overlaps the listener on *:443
  --> relay.toml:2:11
   |
 2 | address = "127.0.0.1:443"
   |           ^^^^^^^^^^^^^^^
   |
  ::: built-in defaults:10:8
   |
10 | bind = "*:443"
   |        ------- the listener
   |
   = help: give the admin listener another port

error: there is no key `permisions` in `[limits]`
 --> relay.toml:4:2
  |
4 |     permisions = *
  |     ^^^^^^^^^^
  |
  = help: did you mean `permissions`?

error: `credentials.secrets`: the secret is weak: it is a sample out of a manual, known to everybody
 --> relay.toml:6:12
  |
6 | secrets = ["*****"]
  |            ^^^^^^^
  |
  = help: make one: head -c 33 /dev/urandom | base64 | tr +/ -_

"#;
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn what_is_there_twice_is_shown_at_both_places() {
    let machine = machine();
    for (toml, first) in [
        (
            "realm = \"a.test\"\nworkers = 2\nrealm = \"b.test\"\n",
            "1 | realm = \"a.test\"\n  | ----- the first",
        ),
        (
            "limits.channels = 8\nworkers = 2\nlimits.channels = 9\n",
            "1 | limits.channels = 8\n  |        -------- the first",
        ),
        (
            "[limits]\nchannels = 8\n[udp]\n[limits]\npermissions = 9\n",
            "1 | [limits]\n  |  ------ the first",
        ),
        (
            "[limits]\nchannels = 8\n[udp]\n[limits]\nchannels = 9\n",
            "2 | channels = 8\n  | -------- the first",
        ),
        (
            "limits.channels = 8\n[udp]\n[limits]\npermissions = 9\n",
            "1 | limits.channels = 8\n  | ------ the first",
        ),
        (
            "turn = { binding = true, software = \"\", binding = false }\n",
            "         ------- the first",
        ),
        (
            "[[listener]]\nbind = \"*:1\"\n[[listener]]\nbind = \"*:2\"\n\nbind = \"*:3\"\n",
            "4 | bind = \"*:2\"\n  | ---- the first",
        ),
        (
            "[peers]\nallow = [\n  \"10.0.0.1\",\n]\nallow = []\n",
            "2 | allow = [\n  | ----- the first",
        ),
    ] {
        let shown = machine.bad(toml).to_string();
        let plain = shown.replace("/ ", "").replace("| |", "|");
        assert!(shown.contains(first) || plain.contains(first), "{first}\n{shown}");
    }
}

#[test]
fn a_secret_is_not_shown_where_the_syntax_is_wrong_either() {
    let machine = machine();
    for toml in [
        format!("[credentials]\nsecrets = [“{SECRET}”]\n"),
        format!("[credentials]\nsecrets = [\n  {SECRET},\n]\n"),
        format!("[[api.keys]]\nname = \"app\"\nkey = {SECRET}\n"),
    ] {
        let shown = machine.bad(&toml).to_string();
        assert!(!shown.contains(&SECRET[..12]), "{shown}");
    }
}
