//! What is written about the configuration is true: the example file, the reference, every example in the documents.

use relay::config::{Purpose, keys, load_for};

use crate::machine::{Machine, OLD_SECRET, SECRET};

const EXAMPLE: &str = include_str!("../../config/relay.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");
const CREDENTIALS: &str = include_str!("../../docs/credentials.md");

#[test]
fn the_example_configuration_is_the_defaults_key_by_key() {
    let machine = Machine::new();
    let example = machine.good(EXAMPLE);
    assert!(example.warnings.is_empty(), "{}", example.warnings);
    let mut machine = Machine::new();
    machine.variables[0].1 = example.settings.state_dir.clone().into();
    assert_eq!(example.effective(), machine.good("").effective());
}

#[test]
fn the_example_configuration_names_every_key() {
    let present = keys_of(EXAMPLE);
    let all = keys().iter().map(|key| &key.path);
    let missing: Vec<_> = all.filter(|key| !present.contains(key)).collect();
    assert!(missing.is_empty(), "config/relay.toml does not mention {missing:?}");
}

#[test]
fn the_keys_that_are_commented_out_in_the_example_exist_too() {
    let present = keys_of(EXAMPLE);
    let known = |name: &String| keys().iter().any(|key| key.path == *name);
    let unknown: Vec<_> = present.iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "config/relay.toml mentions {unknown:?}");
}

/// Every `section.key` of a configuration, also where the line is commented out as `#key = …`.
fn keys_of(toml: &str) -> Vec<String> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in toml.lines() {
        let line = line
            .strip_prefix('#')
            .filter(|rest| !rest.starts_with(' '))
            .unwrap_or(line)
            .trim();
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_start_matches('[').split(']').next().unwrap_or(""));
            if line.starts_with("[[") {
                found.push(section.trim_end_matches('.').to_owned());
            }
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            found.push(format!("{section}{key}"));
        }
    }
    found
}

/// The blocks of `document` in this language, dedented.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for line in document.lines() {
        let trimmed = line.trim_start();
        match &mut current {
            None if trimmed == format!("```{language}") => current = Some((line.len() - trimmed.len(), String::new())),
            Some(_) if trimmed == "```" => found.extend(current.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or(""));
                block.push('\n');
            }
            None => {}
        }
    }
    found
}

/// A machine on which the files of the examples exist.
fn documented_machine() -> Machine {
    let mut machine = Machine::new();
    machine.file("secret", SECRET);
    machine.file("secret-old", OLD_SECRET);
    machine.file("alice", "a password of some length");
    machine.file("api-key", "Qm9RtW5yZc8Lb3Vp7Xk2");
    machine.certificate_for(&["turn.example.org", "203.0.113.10"]);
    for (file, copy) in [("fullchain.pem", "second.pem"), ("privkey.pem", "second-key.pem")] {
        std::fs::copy(machine.dir.join(file), machine.dir.join(copy)).expect("copy");
    }
    machine.names.push(("stun.example.org", vec!["198.51.100.3"]));
    machine.names.push(("fly-global-services", vec!["10.0.8.2"]));
    machine.stun.push(("198.51.100.3:3478", "203.0.113.10"));
    machine.interfaces.push(("eth0", "203.0.113.11"));
    let handed = machine.dir.display().to_string();
    machine.set("CREDENTIALS_DIRECTORY", &handed);
    machine
}

#[test]
fn every_toml_example_in_the_documents_is_a_good_configuration() {
    let documents = [
        ("docs/configuration.md", REFERENCE),
        ("docs/credentials.md", CREDENTIALS),
        ("docs/api.md", include_str!("../../docs/api.md")),
        ("docs/operations.md", include_str!("../../docs/operations.md")),
    ];
    let mut count = 0;
    for (name, document) in documents {
        for example in blocks(document, "toml") {
            let machine = documented_machine();
            let mut toml = example.replace("/etc/relay", &machine.dir.display().to_string());
            // An excerpt; its certificates are for this name.
            if !toml.contains("realm =") {
                toml.insert_str(0, "realm = \"turn.example.org\"\n");
            }
            match machine.load(&toml) {
                Ok(loaded) => {
                    // An open API is warned of wherever it is, and the page says so itself.
                    let mut others = loaded
                        .warnings
                        .iter()
                        .filter(|found| !found.message.starts_with("`api.open`"));
                    assert!(others.next().is_none(), "{name}:\n{example}\n{}", loaded.warnings);
                }
                Err(mistakes) => panic!("{name}:\n{example}\n{mistakes}"),
            }
            count += 1;
        }
    }
    assert!(count >= 11, "only {count} examples found: is the search broken?");
}

#[test]
fn the_environment_variables_in_the_reference_work() {
    let mut machine = documented_machine();
    let mut count = 0;
    for block in blocks(REFERENCE, "sh") {
        for (name, value) in block
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(n, _)| n.starts_with("RELAY__"))
        {
            let value = value
                .trim_matches('\'')
                .replace("/etc/relay", &machine.dir.display().to_string());
            machine.set(name, &value);
            count += 1;
        }
    }
    assert!(count >= 7, "{count}");
    let loaded = load_for(Purpose::Serve, None, &machine).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.settings.listeners.len(), 1);
    assert!(loaded.settings.listeners[0].https && !loaded.settings.listeners[0].udp);
}

//= REST-02
#[test]
fn the_worked_example_of_a_credential_is_right() {
    let expiry = relay::base::time::UnixTime(1_893_456_000);
    let minted = relay::turn::login::credential::mint(b"north", expiry, Some("alice")).expect("a credential");
    assert!(CREDENTIALS.contains(&format!("| username | `{}` (good until 2030-01-01", minted.username)));
    assert!(CREDENTIALS.contains(&format!("| password | `{}` |", minted.password)));
    let secret = relay::turn::login::credential::Secret::new(b"north");
    let forced = secret.mint_forced(expiry, Some("alice")).expect("a credential");
    assert!(CREDENTIALS.contains(&format!("| username | `{}` |", forced.username)));
    assert!(CREDENTIALS.contains(&format!("| password | `{}` |", forced.password)));
}

#[test]
fn secrets_printed_in_the_documents_are_refused() {
    let machine = Machine::new();
    for secret in ["north", "SECRET"] {
        assert!(
            machine
                .bad(&format!("[credentials]\nsecrets = [\"{secret}\"]\n"))
                .has_errors()
        );
    }
}
