//! What stands in the place of a file and is none.

use std::path::Path;
use std::time::{Duration, Instant};

use relay::config::{Purpose, load_for};
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::machine::{Machine, SECRET};

/// Nothing was waited for.
const AT_ONCE: Duration = Duration::from_secs(4);

#[test]
fn whatever_a_path_leads_to_is_judged_at_once() {
    let machine = Machine::new();
    machine.certificate("turn.example.org");
    machine.file("secret", SECRET);
    mkfifoat(CWD, machine.dir.join("fifo-1"), Mode::RWXU).expect("a FIFO");
    machine.file("huge-1", vec![b'x'; 2 << 20]);
    let keys = [
        "tls = { certificate = \"HERE\", private_key = \"privkey.pem\" }\ncredentials.secret_file = \"secret\"",
        "tls = { certificate = \"fullchain.pem\", private_key = \"HERE\" }\ncredentials.secret_file = \"secret\"",
        "tls.acme = { domains = [\"turn.example.org\"], root = \"HERE\" }\ncredentials.secret_file = \"secret\"",
        "credentials.secret_file = \"HERE\"",
        "credentials.secret_files = [\"HERE\"]",
        "credentials.users = [{ name = \"alice\", password_file = \"HERE\" }]",
        "credentials.secret_file = \"secret\"\napi.keys = [{ name = \"app\", key_file = \"HERE\" }]",
        "credentials.secret_file = \"secret\"\nturn.nonce_secret_file = \"HERE\"",
    ];
    for key in keys {
        for (place, why) in [
            ("fifo-1", "it is a pipe"),
            ("/dev/zero", "it is a device"),
            (".", "it is a directory"),
            ("huge-1", "it has more than"),
        ] {
            let begin = Instant::now();
            let told = machine.bad(&key.replace("HERE", place)).to_string();
            assert!(told.contains(why), "{key} {place}: {told}");
            assert!(begin.elapsed() < AT_ONCE, "{key} {place}: {:?}", begin.elapsed());
        }
    }
}

/// It is read again at every reload, and a pipe gives what it holds once: the second time it would be empty, which is the
/// defaults.
#[test]
fn the_configuration_itself_is_a_regular_file_too() {
    let machine = Machine::new();
    let pipe = machine.dir.join("pipe");
    mkfifoat(CWD, &pipe, Mode::RWXU).expect("a FIFO");
    for (path, why) in [
        (&pipe as &Path, "it is a pipe"),
        (Path::new("/dev/zero"), "it is a device"),
        (&machine.dir, "it is a directory"),
    ] {
        for purpose in [Purpose::Serve, Purpose::Check, Purpose::Mint] {
            let begin = Instant::now();
            let mistakes = load_for(purpose, Some(path), &machine).expect_err("refused");
            let found = mistakes.iter().next().expect("one").to_string();
            assert!(found.contains(why), "{found}");
            assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        }
    }
    let mistakes = load_for(Purpose::Check, Some(&pipe), &machine)
        .expect_err("refused")
        .to_string();
    assert!(mistakes.contains("RELAY_CONFIG"), "{mistakes}");
    // One that is a file in the end, as a shell's `<` makes it.
    machine.file("plain.toml", format!("[credentials]\nsecrets = [\"{SECRET}\"]\n"));
    let link = machine.dir.join("link.toml");
    std::os::unix::fs::symlink(machine.dir.join("plain.toml"), &link).expect("a link");
    assert!(load_for(Purpose::Check, Some(&link), &machine).is_ok());
}

#[test]
fn a_state_directory_that_others_can_change_is_refused_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    let state = machine.dir.join("shared");
    std::fs::create_dir(&state).expect("a directory");
    for (mode, good) in [
        (0o777, false),
        (0o770, false),
        (0o1777, false),
        (0o755, true),
        (0o700, true),
    ] {
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).expect("its mode");
        for purpose in [Purpose::Serve, Purpose::Check] {
            let outcome = machine.load_for(purpose, &format!("state_dir = \"{}\"\n", state.display()));
            assert_eq!(outcome.is_ok(), good, "{mode:o} {purpose:?}");
            if let Err(mistakes) = outcome {
                let told = mistakes.to_string();
                assert!(
                    told.contains(&format!("(mode {mode:04o})"))
                        && told.contains("chmod go-w")
                        && told.contains("directory below it"),
                    "{told}"
                );
            }
        }
    }
    // One below it is made, and is the server's own.
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    machine.good(&format!("state_dir = \"{}/own\"\n", state.display()));
}

#[test]
fn a_link_in_the_state_directory_is_not_followed() {
    let machine = Machine::new();
    let state = machine.dir.join("state");
    std::fs::create_dir(&state).expect("a directory");
    let theirs = machine.file("theirs", SECRET);
    std::os::unix::fs::symlink(&theirs, state.join("secret")).expect("a link");
    let told = machine.bad("").to_string();
    assert!(told.contains("is a symbolic link"), "{told}");
    std::fs::remove_file(state.join("secret")).expect("removed");
    machine.good("");
    assert_eq!(std::fs::read_to_string(theirs).expect("untouched"), SECRET);
}
