//! What is said of certificates that are served, and that clients refuse all the same.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::machine::{Machine, SECRET, summary};

/// A root, an intermediate and a leaf for `turn.example.org`, in PEM, and the leaf's key.
struct Chain {
    leaf: String,
    intermediate: String,
    root: String,
    key: String,
}

fn params(name: &str, is_ca: bool, last_year: i32) -> CertificateParams {
    let names = if is_ca { Vec::new() } else { vec![name.to_owned()] };
    let mut params = CertificateParams::new(names).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

/// The intermediate is valid until the first day of `last_year`; this machine's clock shows 2027.
fn chain(last_year: i32) -> Chain {
    let key = || KeyPair::generate().expect("a key");
    let (root_key, intermediate_key, leaf_key) = (key(), key(), key());
    let root = params("Example Root", true, 2040);
    let root_pem = root.self_signed(&root_key).expect("a root").pem();
    let root = Issuer::new(root, root_key);
    let intermediate = params("Example Intermediate", true, last_year);
    let intermediate_pem = intermediate
        .signed_by(&intermediate_key, &root)
        .expect("an intermediate")
        .pem();
    let intermediate = Issuer::new(intermediate, intermediate_key);
    let leaf = params("turn.example.org", false, 2036);
    Chain {
        leaf: leaf.signed_by(&leaf_key, &intermediate).expect("a leaf").pem(),
        intermediate: intermediate_pem,
        root: root_pem,
        key: leaf_key.serialize_pem(),
    }
}

/// What is said of this certificate file.
fn warnings(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>, top: &str) -> Vec<String> {
    let machine = Machine::new();
    machine.file("chain.pem", certificate);
    machine.file("key.pem", key);
    let loaded = machine.good(&format!(
        "{top}\n[tls]\ncertificate = \"chain.pem\"\nprivate_key = \"key.pem\"\n"
    ));
    summary(&loaded.warnings, &machine.dir.join("relay.toml"))
}

const REALM: &str = "realm = \"turn.example.org\"";

#[test]
fn a_chain_that_clients_refuse_is_warned_of_and_a_whole_one_is_not() {
    let Chain {
        leaf,
        intermediate,
        root,
        key,
    } = chain(2036);
    assert_eq!(warnings(format!("{leaf}{intermediate}"), &key, REALM), [""; 0]);
    assert_eq!(warnings(format!("{leaf}{intermediate}{root}"), &key, REALM), [""; 0]);
    for (file, told) in [
        (leaf.clone(), "the server's certificate alone"),
        (
            format!("{leaf}{root}"),
            "certificate number 2 of the chain is not the issuer",
        ),
        (
            format!("{leaf}{root}{intermediate}"),
            "certificate number 2 of the chain is not the issuer",
        ),
    ] {
        let all = warnings(file, &key, REALM);
        assert!(all[0].starts_with("3:15 warning") && all[0].contains(told), "{all:?}");
    }
    let Chain {
        leaf,
        intermediate,
        key,
        ..
    } = chain(2025);
    let all = warnings(format!("{leaf}{intermediate}"), &key, REALM);
    assert!(
        all.len() == 1 && all[0].contains("certificate number 2 of the chain has expired"),
        "{all:?}"
    );
}

#[test]
fn a_name_that_clients_are_sent_to_and_no_certificate_has_is_warned_of() {
    let Chain {
        leaf,
        intermediate,
        key,
        ..
    } = chain(2036);
    let file = format!("{leaf}{intermediate}");
    for (top, host) in [
        ("realm = \"other.example.org\"", "other.example.org"),
        (
            "realm = \"turn.example.org\"\napi.host = \"b.example.org\"",
            "b.example.org",
        ),
        (
            "realm = \"turn.example.org\"\napi.host = \"203.0.113.10\"",
            "203.0.113.10",
        ),
        (
            "realm = \"turn.example.org\"\napi.uris = [\"turns:turn.example.org:443\", \"turns:c.example.org:443\"]",
            "c.example.org",
        ),
        // The realm is no name of a host, so clients are sent to the address.
        ("", "203.0.113.10"),
    ] {
        let all = warnings(&file, &key, top);
        assert!(
            all.len() == 1 && all[0].contains(&format!("clients are sent to {host} with TLS")),
            "{all:?}"
        );
    }
    // Obtained by ACME, for these names alone.
    let machine = Machine::new();
    let told = |domains: &str| {
        let loaded = machine.good(&format!("{REALM}\n[tls.acme]\ndomains = [{domains}]\n"));
        summary(&loaded.warnings, &machine.dir.join("relay.toml"))
    };
    assert_eq!(told("\"turn.example.org\""), [""; 0]);
    assert!(told("\"other.example.org\"")[0].contains("clients are sent to turn.example.org"));
}

#[test]
fn a_byte_order_mark_is_read_over_and_utf_16_is_named() {
    let Chain {
        leaf,
        intermediate,
        key,
        ..
    } = chain(2036);
    let marked = |text: &str| format!("\u{feff}{text}");
    for (certificate, key) in [
        (format!("{}{intermediate}", marked(&leaf)), key.clone()),
        (format!("{leaf}{}", marked(&intermediate)), key.clone()),
        (format!("{leaf}{intermediate}"), marked(&key)),
    ] {
        assert_eq!(warnings(certificate, key, REALM), [""; 0]);
    }
    let utf16 = |text: &str| -> Vec<u8> {
        let units = ['\u{feff}']
            .into_iter()
            .chain(text.chars())
            .map(|c| u16::try_from(c).expect("ASCII"));
        units.flat_map(u16::to_le_bytes).collect()
    };
    let machine = Machine::new();
    machine.file("chain.pem", format!("{leaf}{intermediate}"));
    machine.file("key.pem", utf16(&key));
    machine.file("secret", utf16(SECRET));
    let toml =
        "[credentials]\nsecret_file = \"secret\"\n[tls]\ncertificate = \"chain.pem\"\nprivate_key = \"key.pem\"\n";
    let mistakes = machine.bad(toml).to_string();
    assert_eq!(mistakes.matches("UTF-16").count(), 2, "{mistakes}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_secret() {
    let machine = Machine::new();
    let toml = "[credentials]\nsecret_file = \"secret\"\n";
    let password = || {
        let settings = machine.good(toml).settings;
        let minted = settings.turn.credentials.mint(
            relay::base::time::UnixTime(1_800_000_000),
            std::time::Duration::from_secs(60),
            Some("a"),
        );
        minted.expect("a credential").password
    };
    machine.file("secret", SECRET);
    let plain = password();
    machine.file("secret", format!("\u{feff}{SECRET}\n"));
    assert_eq!(password(), plain);
}
