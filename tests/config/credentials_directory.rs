//! `credential:NAME`: files that systemd hands to the service (LoadCredential=).

use std::fs;

use relay::config::Purpose;

use crate::machine::{Machine, OLD_SECRET, SECRET, summary};

/// Every key that names a file to be read, but the root of an ACME authority.
const TOML: &str = r#"realm = "turn.example.org"
[credentials]
secret_file = "credential:secret"
secret_files = ["credential:secret-old"]
users = [{ name = "alice", password_file = "credential:alice" }]
[tls]
certificate = "credential:fullchain.pem"
private_key = "credential:privkey.pem"
certificates = [{ certificate = "credential:fullchain.pem", private_key = "credential:privkey.pem" }]
[api]
keys = [{ name = "app", key_file = "credential:api-key" }]
"#;

/// A machine whose service manager has handed over what [`TOML`] names.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.certificate("turn.example.org");
    let handed = machine.dir.join("handed");
    fs::create_dir(&handed).expect("directory");
    for name in ["fullchain.pem", "privkey.pem"] {
        fs::rename(machine.dir.join(name), handed.join(name)).expect("moved");
    }
    machine.file("handed/secret", SECRET);
    machine.file("handed/secret-old", OLD_SECRET);
    machine.file("handed/alice", "kX8sQ2vL5nR9tB3wY7zC");
    machine.file("handed/api-key", "Zm9yIHRoZSBhcHBsaWNhdGlvbiBhbG9uZSwgMzMh");
    machine.set("CREDENTIALS_DIRECTORY", handed.to_str().expect("UTF-8"));
    machine
}

#[test]
fn every_file_may_be_a_credential_of_the_service_manager() {
    let machine = machine();
    let loaded = machine.good(TOML);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let settings = loaded.settings;
    assert_eq!(settings.tls.certificates.len(), 2);
    assert_eq!(
        settings.tls.certificates[0].private_key,
        machine.dir.join("handed/privkey.pem")
    );
    assert_eq!(settings.api.keys[0].key, "Zm9yIHRoZSBhcHBsaWNhdGlvbiBhbG9uZSwgMzMh");
    let minted = |now| {
        settings
            .turn
            .credentials
            .mint(now, std::time::Duration::from_secs(60), Some("x"))
    };
    let now = relay::base::time::UnixTime(1_800_000_000);
    let expected =
        relay::turn::login::credential::mint(SECRET.as_bytes(), relay::base::time::UnixTime(1_800_000_060), Some("x"));
    assert_eq!(minted(now), expected);
    // The root of an ACME authority as well: what it holds is no certificate, and that is what is found.
    let mistakes = machine.bad("[tls.acme]\ndomains = [\"turn.example.org\"]\nroot = \"credential:alice\"\n");
    assert!(mistakes.to_string().contains("tls.acme.root"), "{mistakes}");
    assert!(mistakes.to_string().contains("PEM file"), "{mistakes}");
}

#[test]
fn a_credential_that_is_not_handed_over_is_told_with_the_line_for_the_unit() {
    let machine = machine();
    fs::remove_file(machine.dir.join("handed/secret")).expect("remove");
    let mistakes = machine.bad(TOML);
    let told = summary(&mistakes, &machine.dir.join("relay.toml"));
    let expected = "3:15 error: cannot read handed/secret: No such file or directory (os error 2) | \
                    add to the unit: LoadCredential=secret:/path/of/the/file; or did you mean `credential:secret-old`?";
    assert_eq!(told, [expected]);
}

#[test]
fn without_the_service_manager_a_check_warns_and_a_start_fails() {
    let mut machine = machine();
    machine.variables.retain(|(name, _)| name != "CREDENTIALS_DIRECTORY");
    let checked = machine
        .load_for(Purpose::Check, TOML)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    // secret, secret-old, alice, api-key, and two certificates with their keys.
    assert_eq!(checked.warnings.counts(), (0, 8), "{}", checked.warnings);
    assert!(checked.effective().contains("secret_file = \"credential:secret\""));
    let mistakes = machine.bad(TOML);
    assert_eq!(mistakes.counts(), (8, 0), "{mistakes}");
    let told = summary(&mistakes, &machine.dir.join("relay.toml"));
    assert!(told[0].contains("LoadCredential=secret:"), "{told:?}");
    // To mint, the secrets are needed, and no certificate.
    let mistakes = machine.load_for(Purpose::Mint, TOML).expect_err("no secret");
    assert_eq!(mistakes.counts(), (4, 0), "{mistakes}");
}

#[test]
fn the_name_of_a_credential_leads_nowhere_else() {
    let machine = machine();
    for name in ["", ".", "..", "../secret", "a/b"] {
        let mistakes = machine.bad(&format!("[credentials]\nsecret_file = \"credential:{name}\"\n"));
        assert!(
            mistakes.to_string().contains("is no name of a credential"),
            "{name}: {mistakes}"
        );
    }
}
