//! `relay check` and `relay credentials mint`, as programs.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use relay::base::time::UnixTime;
use relay::turn::login::credential::mint;

use crate::machine::{Machine, SECRET};

/// Runs `relay` with an environment of its own.
fn relay(machine: &Machine, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(arguments);
    if arguments.first() == Some(&"check") {
        // Root would judge for the user of the unit, where that is installed.
        let own = std::fs::metadata("/proc/self").expect("/proc").uid();
        command.args(["--user", &own.to_string()]);
    }
    command
        .env_clear()
        .env("STATE_DIRECTORY", machine.dir.join("state"))
        .current_dir(&machine.dir)
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn check_prints_what_is_in_force_as_toml_and_succeeds() {
    let machine = Machine::new();
    machine.file("secret", SECRET);
    machine.file(
        "relay.toml",
        "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n",
    );
    let output = relay(&machine, &["check", "--config", "relay.toml"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(shown.starts_with("# relay.toml: good"), "{shown}");
    let table: toml::Table = shown.parse().expect("TOML");
    assert_eq!(table["realm"].as_str(), Some("turn.example.org"));
    assert!(!shown.contains(SECRET));

    let quiet = relay(&machine, &["check", "--config", "relay.toml", "--quiet"]);
    assert_eq!((quiet.status.code(), quiet.stdout.len()), (Some(0), 0));
}

#[test]
fn check_explains_a_key_and_reads_no_configuration() {
    let machine = Machine::new();
    let output = relay(&machine, &["check", "--config", "none.toml", "--explain", "udp.slots"]);
    let told = text(&output.stdout);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    assert!(
        told.starts_with("udp.slots\n") && told.contains("RELAY__UDP__SLOTS"),
        "{told}"
    );

    let output = relay(&machine, &["check", "--explain", "udp.slot"]);
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(told.contains("did you mean `udp.slots`?"), "{told}");
}

#[test]
fn check_of_the_example_configuration_succeeds_and_makes_nothing() {
    let machine = Machine::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/relay.toml");
    let output = relay(&machine, &["check", "--config", &example.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!machine.dir.join("state").exists());
}

#[test]
fn check_tells_every_mistake_and_fails() {
    let machine = Machine::new();
    machine.file(
        "relay.toml",
        "workrs = 2\n[relay]\nports = \"60000-50000\"\n[log]\nformat = \"xml\"\n",
    );
    let output = relay(&machine, &["check", "--config", "relay.toml"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    for expected in [
        "relay.toml:1:1",
        "relay.toml:3:9",
        "relay.toml:5:10",
        "did you mean `workers`?",
        "3 errors",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "no colours where nobody looks");
}

#[test]
fn mint_prints_a_credential_of_the_configured_secret_in_three_forms() {
    let machine = Machine::new();
    machine.file("secret", SECRET);
    let toml = "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n[api]\nrelay_only = true\n";
    machine.file("relay.toml", toml);
    let print = |format: &str| {
        let mint = [
            "credentials",
            "mint",
            "--config",
            "relay.toml",
            "--ttl",
            "1h",
            "--user",
            "a:b@c",
            "--format",
            format,
        ];
        let output = relay(&machine, &mint);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let is_right = |username: &str, password: &str| {
        let (expiry, user) = username.split_once(':').expect("expiry:user");
        let expiry: u64 = expiry.parse().expect("a number");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        assert!((now + 3500..=now + 3600).contains(&expiry), "{expiry}");
        let expected = mint(SECRET.as_bytes(), UnixTime(expiry), Some(user)).expect("a credential");
        assert_eq!(
            (username, password, user),
            (expected.username.as_str(), expected.password.as_str(), "a:b@c")
        );
    };

    let plain = print("plain");
    let (username, password) = plain.trim_end().split_once('\n').expect("two lines");
    is_right(username, password);

    let rest: serde_json::Value = serde_json::from_str(&print("rest")).expect("JSON");
    is_right(
        rest["username"].as_str().expect("a text"),
        rest["password"].as_str().expect("a text"),
    );
    assert_eq!(rest["ttl"], 3600);
    assert_eq!(rest["uris"][0], "turns:turn.example.org:443?transport=tcp");

    let ice: serde_json::Value = serde_json::from_str(&print("ice")).expect("JSON");
    let server = &ice["iceServers"][0];
    is_right(
        server["username"].as_str().expect("a text"),
        server["credential"].as_str().expect("a text"),
    );
    assert_eq!(server["urls"], rest["uris"]);
    assert_eq!(ice["iceTransportPolicy"], "relay");
}

#[test]
fn credentials_minted_without_a_name_have_one_of_their_own() {
    let machine = Machine::new();
    machine.file("secret", SECRET);
    machine.file("relay.toml", "[credentials]\nsecret_file = \"secret\"\n");
    let user = || {
        let output = relay(
            &machine,
            &["credentials", "mint", "--config", "relay.toml", "--format", "plain"],
        );
        text(&output.stdout)
            .lines()
            .next()
            .and_then(|line| line.split(':').nth(1).map(str::to_owned))
    };
    let (one, other) = (user().expect("a user"), user().expect("a user"));
    assert!(one.len() >= 16 && one != other, "{one} {other}");
}

#[test]
fn mint_says_why_it_cannot() {
    let machine = Machine::new();
    machine.file("secret", SECRET);
    machine.file(
        "relay.toml",
        "[credentials]\nsecret_file = \"secret\"\nmax_ttl = \"2h\"\n[api]\nmax_ttl = \"1h\"\ndefault_ttl = \"1h\"\n",
    );
    machine.file("broken.toml", "[credentials]\nsecret_fil = \"secret\"\n");
    for (arguments, expected) in [
        (["--config", "relay.toml", "--ttl", "3h"], "credentials.max_ttl"),
        (["--config", "relay.toml", "--ttl", "soon"], "1h30m"),
        (["--config", "relay.toml", "--ttl", "0"], "1h30m"),
        (["--config", "relay.toml", "--user", ""], "userid"),
        (
            ["--config", "broken.toml", "--ttl", "1h"],
            "did you mean `secret_file`?",
        ),
        (["--config", "missing.toml", "--ttl", "1h"], "missing.toml"),
        // No configuration, and no server has run yet.
        (["--ttl", "60", "--format", "plain"], "there is no secret to mint with"),
    ] {
        let output = relay(&machine, &[&["credentials", "mint"], &arguments[..]].concat());
        let told = text(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
}

#[test]
fn a_server_with_a_broken_configuration_tells_all_of_it_and_ends_without_binding() {
    let machine = Machine::new();
    // The port is taken: whoever tried to bind it would say so.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let mut count = 0;
    for case in crate::broken::cases() {
        let toml = std::fs::read_to_string(&case).expect("a case");
        // Names are not looked up here: this is the real machine.
        if toml.contains("example.org:") || toml.contains("[[listener]]") || toml.contains("listener = ") {
            continue;
        }
        machine.file(
            "relay.toml",
            format!("{toml}\n[[listener]]\nbind = \"127.0.0.1:{port}\"\n"),
        );
        let output = relay(&machine, &["--config", "relay.toml"]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{}: {told}", case.display());
        assert!(
            output.stdout.is_empty() && !told.contains("in use"),
            "{}: {told}",
            case.display()
        );
        let checked = relay(&machine, &["check", "--config", "relay.toml"]);
        let mistakes = |text: &str| text.lines().filter(|line| line.starts_with("error")).count();
        assert!(mistakes(&told) >= 2, "{}: {told}", case.display());
        assert!(mistakes(&text(&checked.stderr)) >= 1, "{}", case.display());
        count += 1;
    }
    assert!(count >= 20, "{count}");
    assert!(!machine.dir.join("state").exists(), "nothing is made");
}

#[test]
fn check_tells_what_would_keep_the_server_from_starting_on_this_machine_by_a_status_of_its_own() {
    let machine = Machine::new();
    for toml in [
        "[[listener]]\nbind = \"192.0.2.77:3478\"\n",
        "[[listener]]\nbind = \"nowhere.invalid:3478\"\n",
        "[relay]\nipv4 = \"192.0.2.77\"\n",
    ] {
        machine.file("relay.toml", format!("realm = \"turn.example.org\"\n{toml}"));
        for flag in [&[][..], &["--quiet"]] {
            let output = relay(&machine, &[&["check", "--config", "relay.toml"], flag].concat());
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{told}");
            assert!(told.contains("would not start on this machine"), "{told}");
        }
    }
    // Mistakes go before it.
    machine.file("relay.toml", "relm = 1\n[[listener]]\nbind = \"192.0.2.77:3478\"\n");
    assert_eq!(
        relay(&machine, &["check", "--config", "relay.toml"]).status.code(),
        Some(1)
    );
}

#[test]
fn an_api_without_anything_to_hand_out_is_a_mistake() {
    let machine = Machine::new();
    machine.file("secret", SECRET);
    let check = |listener: &str, api: &str| {
        machine.file(
            "relay.toml",
            format!(
                "realm = \"turn.example.org\"\n[credentials]\nsecret_file = \"secret\"\n[api]\n{api}\n[[listener]]\nbind = \"{listener}\"\n"
            ),
        );
        let output = relay(&machine, &["check", "--quiet", "--config", "relay.toml"]);
        (output.status.code(), text(&output.stderr))
    };
    let keys = "keys = [{ name = \"app\", key = \"Qm9RtW5yZc8Lb3Vp7Xk2Ja6N\" }]";
    let (status, told) = check("127.0.0.1:3478", keys);
    assert!(status == Some(1) && told.contains("no URI to hand out"), "{told}");
    for (listener, api) in [
        ("*:3478", keys.to_owned()),
        (
            "127.0.0.1:3478",
            format!("{keys}\nuris = [\"turn:turn.example.org:3478\"]"),
        ),
        ("127.0.0.1:3478", format!("{keys}\nhost = \"localhost\"")),
        ("127.0.0.1:3478", "enabled = false".to_owned()),
    ] {
        assert_eq!(check(listener, &api).0, Some(0), "{listener} {api}");
    }
}

/// What `relay` writes to a terminal that is described by these variables.
fn on_a_terminal(machine: &Machine, variables: &[(&str, &str)]) -> String {
    let command = format!("{} check --config relay.toml", env!("CARGO_BIN_EXE_relay"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .current_dir(&machine.dir)
        .output()
        .expect("util-linux's script runs");
    text(&output.stdout)
}

#[test]
fn mistakes_are_coloured_on_terminals_that_take_it_and_where_it_is_forced() {
    let machine = Machine::new();
    machine.file("relay.toml", "workrs = 2\n");
    for (variables, coloured) in [
        (&[("TERM", "xterm-256color")][..], true),
        (&[("TERM", "dumb")], false),
        (&[("TERM", "xterm-256color"), ("NO_COLOR", "1")], false),
        (&[("TERM", "xterm-256color"), ("CLICOLOR", "0")], false),
    ] {
        let shown = on_a_terminal(&machine, variables);
        assert!(shown.contains("did you mean"), "{shown}");
        assert_eq!(shown.contains("\u{1b}["), coloured, "{variables:?}: {shown:?}");
    }
    for arguments in [&["check", "--config", "relay.toml"][..], &["--config", "relay.toml"]] {
        let piped = Command::new(env!("CARGO_BIN_EXE_relay"))
            .args(arguments)
            .env_clear()
            .env("CLICOLOR_FORCE", "1")
            .current_dir(&machine.dir)
            .output()
            .expect("the program runs");
        assert!(text(&piped.stderr).contains("\u{1b}["), "{arguments:?}");
    }
}
