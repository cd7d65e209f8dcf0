//! Where the configuration comes from: file, RELAY_CONFIG, RELAY__SECTION__KEY.

use std::time::Duration;

use relay::config::reader::diagnostic::Diagnostics;
use relay::config::{Purpose, load, load_for};

use crate::machine::{Machine, SECRET, summary};

#[test]
fn a_variable_stands_above_the_file() {
    let mut machine = Machine::new();
    machine
        .set("RELAY__LIMITS__PERMISSIONS", "64")
        .set("RELAY__REALM", "env.example.org");
    let settings = machine
        .good("realm = \"file.example.org\"\n[limits]\npermissions = 32\nchannels = 16\n")
        .settings;
    assert_eq!(settings.realm, "env.example.org");
    assert_eq!(
        (settings.turn.limits.permissions, settings.turn.limits.channels),
        (64, 16)
    );
}

#[test]
fn texts_need_no_quotes_even_where_they_look_like_something_else() {
    let mut machine = Machine::new();
    for (name, value) in [
        ("RELAY__REALM", "12345"),
        ("RELAY__TURN__SOFTWARE", "true"),
        ("RELAY__RELAY__PORTS", "50000-50999"),
        ("RELAY__LIMITS__QUEUE_AGE", "200ms"),
        ("RELAY__LIMITS__IDLE_TIMEOUT", "20"),
        ("RELAY__LIMITS__QUEUE_BYTES", "1MiB"),
        ("RELAY__UDP__OFFLOAD", "false"),
        ("RELAY__ADMIN__ADDRESS", "off"),
        ("RELAY__TURN__MAX_SESSION", "\"8h\""),
    ] {
        machine.set(name, value);
    }
    let settings = machine.good("").settings;
    assert_eq!(settings.realm, "12345");
    assert_eq!(settings.turn.software.as_deref(), Some("true"));
    assert_eq!(settings.turn.relay.ports, 50_000..=50_999);
    assert_eq!(settings.stream.limits.queue_age, Duration::from_millis(200));
    assert_eq!(settings.stream.idle_timeout, Duration::from_secs(20));
    assert_eq!(settings.stream.limits.queue_bytes, 1 << 20);
    assert!(!settings.udp.relay.offload && !settings.udp.listener.offload);
    assert_eq!(settings.admin.address, None);
    assert_eq!(settings.turn.max_session, Some(Duration::from_secs(8 * 3600)));
}

#[test]
fn lists_are_toml_or_separated_by_commas_or_set_element_by_element() {
    let mut machine = Machine::new();
    for (name, value) in [
        ("RELAY__PEERS__ALLOW", "10.0.8.0/24, 10.0.9.7"),
        ("RELAY__PEERS__DENY", "[\"198.51.100.0/24\"]"),
        ("RELAY__PEERS__DENIED_PORTS", "19,137-139"),
        ("RELAY__CREDENTIALS__SECRETS", SECRET),
        ("RELAY__LISTENER__0__BIND", "*:9000"),
        ("RELAY__LISTENER__1__BIND", "*:9001"),
        ("RELAY__LISTENER__1__PROTOCOLS", "tls,https"),
        ("RELAY__API__KEYS__0__NAME", "app"),
        ("RELAY__API__KEYS__0__KEY", "Qm9RtW5yZc8Lb3Vp7Xk2"),
    ] {
        machine.set(name, value);
    }
    let settings = machine
        .good("[[listener]]\nbind = \"*:8000\"\nprotocols = [\"udp\"]\n")
        .settings;
    let listeners: Vec<_> = settings
        .listeners
        .iter()
        .map(|l| (l.label.as_str(), l.udp, l.https))
        .collect();
    assert_eq!(listeners, [("*:9000", true, false), ("*:9001", false, true)]);
    assert_eq!(settings.api.keys[0].name, "app");
    let policy = settings.turn.policy;
    for (peer, reached) in [
        ("10.0.8.1", true),
        ("10.0.9.7", true),
        ("10.0.9.8", false),
        ("198.51.100.1", false),
    ] {
        assert_eq!(
            policy.permission(peer.parse().expect("an address")).is_ok(),
            reached,
            "{peer}"
        );
    }
}

#[test]
fn the_eleventh_element_comes_behind_the_tenth() {
    let mut machine = Machine::new();
    for index in 0..12 {
        machine.set(
            &format!("RELAY__LISTENER__{index}__BIND"),
            &format!("*:{}", 9000 + index),
        );
    }
    let settings = machine.good("").settings;
    assert_eq!(settings.listeners[11].label, "*:9011");
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let mut machine = Machine::new();
    for (name, value) in [
        ("RELAY__RELM", "x"),
        ("RELAY__LIMITS__PERMISIONS", "5"),
        ("RELAY__LIMITS__CHANNELS", "many"),
        ("RELAY__LISTENER__3__BIND", "*:443"),
        ("RELAY__LISTENER__BIND", "*:443"),
        ("RELAY__LISTENER__O__BIND", "*:443"),
        ("RELAY__LISTENER__L__PROTOCOLS", "udp"),
        ("RELAY__API__KEYS__FIRST__NAME", "app"),
        ("RELAY__PEERS__DENY__O", "10.0.9.0/24"),
        ("RELAY__TURN__BINDING", "yes"),
        ("RELAY__UDP__SLOTS", "99999999999999999999"),
        ("RELAY__API__HOST", "“turn.example.org”"),
        ("RELAY__PEERS__ALLOW", "[10.0.8.0/24, 10.0.9.7]"),
        ("RELAY__", "x"),
        ("RELAY__REALM__X", "x"),
        ("RELAY__RELAY__PORTS", "80-90"),
        ("RELAY__LOG__FORMAT", ""),
    ] {
        machine.set(name, value);
    }
    let mistakes = machine.bad("realm = \"a.example\"\n[[listener]]\nbind = \"*:3478\"\n");
    assert_eq!(
        summary(&mistakes, &machine.dir.join("relay.toml")),
        [
            "environment variable RELAY__:1:1 error: RELAY__: the name has an empty part | write RELAY__SECTION__KEY, with two underscores in between",
            "environment variable RELAY__API__HOST:1:1 error: `api.host`: “ (U+201C) and ” (U+201D) are not quotation marks in TOML | write straight quotes: \"…\"",
            "environment variable RELAY__API__KEYS__FIRST__NAME:1:1 error: RELAY__API__KEYS__FIRST__NAME: `FIRST` is not a number, and `api.keys` is a list | number its elements from 0: RELAY__API__KEYS__0__NAME",
            "environment variable RELAY__LIMITS__CHANNELS:1:1 error: `limits.channels`: expected a whole number, found \"many\" | for example 100",
            "environment variable RELAY__LIMITS__PERMISIONS:1:1 error: there is no key `permisions` in `[limits]` | did you mean `permissions`?",
            "environment variable RELAY__LISTENER__BIND:1:1 error: RELAY__LISTENER__BIND: `listener` is a list | number its elements from 0: RELAY__LISTENER__0__BIND",
            "environment variable RELAY__LISTENER__L__PROTOCOLS:1:1 error: RELAY__LISTENER__L__PROTOCOLS: `L` is not a number, and `listener` is a list | number its elements from 0: RELAY__LISTENER__1__PROTOCOLS, with the digit instead of the letter",
            "environment variable RELAY__LISTENER__O__BIND:1:1 error: RELAY__LISTENER__O__BIND: `O` is not a number, and `listener` is a list | number its elements from 0: RELAY__LISTENER__0__BIND, with the digit instead of the letter",
            "environment variable RELAY__LISTENER__3__BIND:1:1 error: RELAY__LISTENER__3__BIND: the elements of `listener` must be numbered without a gap | the next one is number 1; the first is 0",
            "environment variable RELAY__PEERS__ALLOW:1:1 error: `peers.allow`: this list is not TOML: texts in brackets need quotes | write [\"10.0.8.0/24\", \"10.0.9.7\"], or leave the brackets away",
            "environment variable RELAY__PEERS__DENY__O:1:1 error: RELAY__PEERS__DENY__O: `O` is not a number, and `peers.deny` is a list | number its elements from 0: RELAY__PEERS__DENY__0, with the digit instead of the letter",
            "environment variable RELAY__REALM__X:1:1 error: RELAY__REALM__X: `realm` is a text, not a section | set it whole",
            "environment variable RELAY__RELAY__PORTS:1:1 error: `relay.ports`: 80 is below 1024, where well-known services are (RFC 8656 §7.2) | begin at 1024 or above: \"1024-2047\"",
            "environment variable RELAY__RELM:1:1 error: there is no key `relm` | did you mean `realm`?",
            "environment variable RELAY__TURN__BINDING:1:1 error: `turn.binding`: expected true or false, found \"yes\" | write `true`, without quotes",
            "environment variable RELAY__UDP__SLOTS:1:1 error: `udp.slots`: 99999999999999999999 is out of range | from 8 to 1024",
        ]
    );
}

#[test]
fn a_variable_with_one_underscore_too_few_is_pointed_out_and_others_are_left_alone() {
    let mut machine = Machine::new();
    // What Kubernetes sets for a service named relay.
    machine
        .set("RELAY_SERVICE_HOST", "10.0.0.1")
        .set("RELAY_PORT", "tcp://10.0.0.1:3478");
    machine.set("RELAY_LIMITS_PERMISSIONS", "5");
    let loaded = machine.good("");
    assert_eq!(
        summary(&loaded.warnings, &machine.dir.join("relay.toml")),
        [
            "- warning: the environment variable RELAY_LIMITS_PERMISSIONS has no effect | did you mean RELAY__LIMITS__PERMISSIONS, with two underscores?"
        ]
    );
    assert_eq!(loaded.settings.turn.limits.permissions, 128);
}

#[test]
fn the_whole_body_may_come_from_the_environment() {
    let mut machine = Machine::new();
    machine.default_file = Some(machine.file("default.toml", "realm = \"default.example\"\n"));
    assert_eq!(load(None, &machine).expect("good").settings.realm, "default.example");
    machine.set("RELAY_CONFIG", "realm = \"body.example\"\n[limits]\nchannels = 3\n");
    let loaded = load(None, &machine).expect("good");
    assert_eq!(
        (loaded.settings.realm.as_str(), loaded.source.as_str()),
        ("body.example", "RELAY_CONFIG")
    );
    let loaded = machine.good("realm = \"file.example\"\n");
    assert_eq!(loaded.settings.realm, "body.example");
    assert_eq!(loaded.warnings.counts(), (0, 1));

    machine.variables.pop();
    machine.set("RELAY_CONFIG", "realm = \"body.example\"\n[limits]\nchannels = 0\n");
    let mistakes = load(None, &machine).expect_err("out of range");
    let first = mistakes.iter().next().expect("one");
    assert_eq!((first.source, first.line, first.column), (Some("RELAY_CONFIG"), 3, 12));
}

#[test]
fn an_unreadable_file_is_named_with_what_to_do() {
    let machine = Machine::new();
    let path = machine.dir.join("missing.toml");
    let mistakes = load(Some(&path), &machine).expect_err("no file");
    assert_eq!(
        summary(&mistakes, &path),
        [
            "- error: cannot read the configuration missing.toml: No such file or directory (os error 2) | correct the path, or start without --config for the defaults"
        ]
    );
    // Its directory misspelt, and its name.
    std::fs::create_dir(machine.dir.join("relay")).expect("a directory");
    machine.file("relay/relay.toml", "");
    let path = machine.dir.join("relya/relay.tml");
    let mistakes = load(Some(&path), &machine).expect_err("no file");
    let meant = machine.dir.join("relay/relay.toml");
    let help = format!(
        "did you mean {}? Without --config the server starts with the defaults",
        meant.display()
    );
    assert_eq!(mistakes.iter().next().and_then(|first| first.help), Some(&*help));
}

#[test]
fn a_turnserver_conf_is_called_one_and_nothing_else_is_said_and_no_secret_shown() {
    let machine = Machine::new();
    let place = |mistakes: &Diagnostics| summary(mistakes, &machine.dir.join("relay.toml"));
    for (text, line) in [
        (
            "# Debian's\nrealm=turn.example.org\nuser=alice:kX8sQ2vL5nR9\nfingerprint\nlt-cred-mech\ncert=/etc/ssl/a.pem\n",
            "4:1",
        ),
        ("static-auth-secret=kX8sQ2vL5nR9\nuse-auth-secret\n", "1:1"),
        ("listening-port 3478\nexternal-ip 203.0.113.5/10.0.0.5\n", "1:1"),
    ] {
        let mistakes = machine.bad(text);
        let told = format!(
            "{line} error: this is the turnserver.conf of coturn, and the configuration is TOML | \
             docs/configuration.md, \"From coturn\", says what its options are called here"
        );
        assert_eq!(place(&mistakes), [told]);
        assert!(!mistakes.to_string().contains("kX8sQ2vL5nR9"), "{mistakes}");
    }
    assert!(include_str!("../../docs/configuration.md").contains("\n## From coturn\n"));
    // One option of coturn's among keys of ours is told as before.
    let told = place(&machine.bad("realm = \"turn.example.org\"\nuse-auth-secret\n")).join("\n");
    assert!(!told.contains("turnserver.conf"), "{told}");
}

#[cfg(unix)]
#[test]
fn values_that_are_no_utf8_are_refused_where_they_matter() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut machine = Machine::new();
    let bad = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    machine.variables.push(("SOMETHING_ELSE".into(), bad.clone()));
    machine.good("");
    machine.variables.push(("RELAY__REALM".into(), bad));
    assert_eq!(machine.bad("").counts(), (1, 0));
    let path = machine.file("latin1.toml", b"# caf\xe9\nrealm = \"x\"\n");
    let mistakes = load_for(Purpose::Serve, Some(&path), &machine).expect_err("not UTF-8");
    let found = mistakes
        .iter()
        .find(|f| f.message == "this is not UTF-8")
        .expect("told");
    assert_eq!((found.line, found.column), (1, 6));
}

#[test]
fn a_path_in_the_place_of_the_configuration_is_called_one() {
    for (value, option) in [
        ("/etc/relay/relay.toml", "--config /etc/relay/relay.toml"),
        ("relay.toml", "--config relay.toml"),
        ("./conf/relay.toml\n", "--config ./conf/relay.toml"),
        ("file:///etc/relay/relay.toml", "--config /etc/relay/relay.toml"),
        ("@/etc/relay.toml", "--config /etc/relay.toml"),
        ("/etc/turnserver.conf", "--config /etc/turnserver.conf"),
    ] {
        let mut machine = Machine::new();
        machine.set("RELAY_CONFIG", value);
        let mistakes = load(None, &machine).expect_err("a path");
        let all: Vec<_> = mistakes.iter().collect();
        assert_eq!(all.len(), 1, "{mistakes}");
        assert!(all[0].message.contains("not its path"), "{mistakes}");
        assert!(all[0].help.is_some_and(|help| help.contains(option)), "{mistakes}");
    }
}

#[test]
fn yaml_and_json_are_called_what_they_are_and_nothing_else_is_said() {
    let machine = Machine::new();
    for (text, language) in [
        ("realm: turn.example.org\nlimits:\n  permissions: 5\n", "YAML"),
        ("---\n- realm: x\n", "YAML"),
        ("{ \"realm\": \"turn.example.org\" }\n", "JSON"),
    ] {
        let mistakes = machine.bad(text);
        let all: Vec<_> = mistakes.iter().collect();
        assert_eq!(all.len(), 1, "{mistakes}");
        assert!(all[0].message.contains(language), "{mistakes}");
    }
}
