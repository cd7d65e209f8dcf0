//! The secret a server makes for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;

use relay::machine::files::own::FileOwner;
use relay::machine::first_run::{default_state_dir, find_secret, obtain_secret};

use crate::machine::Machine;

#[test]
fn the_first_start_makes_a_secret_and_the_next_one_uses_it() {
    let machine = Machine::new();
    let first = machine.good("").settings;
    let file = machine.dir.join("state/secret");
    assert_eq!(first.first_run.secret_file.as_ref(), Some(&file));
    assert!(first.first_run.secret_is_new);
    let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&machine.dir.join("state")), 0o700);
    let text = fs::read_to_string(&file).expect("the secret");
    assert_eq!(text.trim_end().len(), 43, "32 bytes in base64url");
    let needs_no_encoding = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    assert!(text.trim_end().chars().all(needs_no_encoding), "{text}");

    let second = machine.good("");
    assert!(!second.settings.first_run.secret_is_new);
    assert_eq!(fs::read_to_string(&file).expect("the secret"), text);
    let expiry = relay::base::time::UnixTime(1_800_000_060);
    let minted = second.settings.turn.credentials.mint(
        relay::base::time::UnixTime(1_800_000_000),
        std::time::Duration::from_secs(60),
        Some("x"),
    );
    assert_eq!(
        minted,
        relay::turn::login::credential::mint(text.trim_end().as_bytes(), expiry, Some("x"))
    );
}

#[test]
fn the_made_secret_passes_the_check_of_given_ones() {
    let machine = Machine::new();
    machine.good("");
    let loaded = machine.good("[credentials]\nsecret_file = \"state/secret\"\n");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn servers_that_start_at_the_same_moment_have_the_same_secret() {
    for _ in 0..20 {
        let machine = Machine::new();
        let dir = machine.dir.join("deep/state");
        let barrier = Barrier::new(8);
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        obtain_secret(&dir).expect("a secret")
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().expect("no panic"))
                .collect()
        });
        assert!(secrets.iter().all(|secret| secret.bytes == secrets[0].bytes));
        assert_eq!(secrets.iter().filter(|secret| secret.is_new).count(), 1);
    }
}

#[test]
fn what_a_crash_left_behind_does_not_matter_but_a_damaged_secret_does() {
    let machine = Machine::new();
    let dir = machine.dir.join("state");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("secret.new"), "half a sec").expect("a file");
    assert!(obtain_secret(&dir).expect("a secret").is_new);

    fs::write(dir.join("secret"), "damaged\n").expect("a file");
    assert!(find_secret(&dir, FileOwner::Ourselves).is_err());
    let mistakes = machine.bad("");
    assert!(
        mistakes.to_string().contains("remove it, and a new one is made"),
        "{mistakes}"
    );
    assert_eq!(fs::read_to_string(dir.join("secret")).expect("untouched"), "damaged\n");
}

/// Somebody copied a secret of their own there.
#[test]
fn a_weak_secret_in_the_state_directory_is_refused_like_one_in_the_configuration() {
    let machine = Machine::new();
    let dir = machine.dir.join("state");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("secret"), "change-me-to-something-long-and-random-please\n").expect("a file");
    let told = machine.bad("").to_string();
    assert!(told.contains("the secret is weak"), "{told}");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_told_with_what_to_do() {
    let mut machine = Machine::new();
    let file = machine.file("occupied", "");
    machine.variables[0].1 = file.join("state").into();
    let mistakes = machine.bad("");
    let found = mistakes.iter().next().expect("a mistake");
    assert!(found.message.contains("occupied/state"), "{mistakes}");
    assert!(found.help.is_some_and(|help| help.contains("state_dir")), "{mistakes}");
}

#[test]
fn the_state_directory_is_the_service_managers_then_the_users_own() {
    let mut machine = Machine::new();
    machine.variables = vec![
        ("STATE_DIRECTORY".into(), "/var/lib/a:/var/lib/b".into()),
        ("HOME".into(), "/home/x".into()),
    ];
    assert_eq!(default_state_dir(&machine).as_deref(), Some("/var/lib/a".as_ref()));
    machine.variables.remove(0);
    assert_eq!(
        default_state_dir(&machine).as_deref(),
        Some("/home/x/.local/state/relay".as_ref())
    );
    machine.set("XDG_STATE_HOME", "relative");
    assert_eq!(
        default_state_dir(&machine).as_deref(),
        Some("/home/x/.local/state/relay".as_ref())
    );
    machine.variables.pop();
    machine.set("XDG_STATE_HOME", "/state");
    assert_eq!(default_state_dir(&machine).as_deref(), Some("/state/relay".as_ref()));
    machine.user_id = 0;
    assert_eq!(default_state_dir(&machine).as_deref(), Some("/var/lib/relay".as_ref()));
    machine.user_id = 1000;
    machine.variables.clear();
    assert_eq!(default_state_dir(&machine), None);
    let mistakes = machine.bad("");
    assert_eq!(
        mistakes.counts(),
        (2, 0),
        "neither secret nor certificate can be kept: {mistakes}"
    );
}

#[test]
fn with_a_secret_and_a_certificate_no_state_directory_is_needed() {
    let mut machine = Machine::new();
    machine.variables.clear();
    machine.certificate("turn.example.org");
    machine.file("secret", crate::machine::SECRET);
    let toml = "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n[tls]\ncertificate = \"fullchain.pem\"\nprivate_key = \"privkey.pem\"\n";
    assert!(machine.good(toml).warnings.is_empty());
}

#[test]
fn a_kept_secret_is_as_long_as_one_that_is_made_at_least() {
    let machine = Machine::new();
    let state = machine.dir.join("state");
    obtain_secret(&state).expect("it can be made");
    for (len, good) in [(31, false), (32, true)] {
        fs::write(state.join("secret"), "s".repeat(len) + "\n").expect("write");
        assert_eq!(find_secret(&state, FileOwner::Ourselves).is_ok(), good, "{len} bytes");
    }
}
