//! Which keys a reload changes: for each key what its section says of it, and nothing else.

use relay::config::reader::key::{Applies, DescribedKey};
use relay::config::{Loaded, keys, reload};

use crate::machine::{Machine, OLD_SECRET, SECRET};

/// Everything that has no default has a value here, so that another one can be another.
fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.interfaces.push(("eth2", "203.0.113.11"));
    machine.interfaces.push(("eth3", "2001:db8:1::11"));
    machine.file("secret", SECRET);
    machine.file("other-secret", OLD_SECRET);
    machine.certificate_for(&["turn.example.org"]);
    for (file, copy) in [("fullchain.pem", "second.pem"), ("privkey.pem", "second-key.pem")] {
        std::fs::copy(machine.dir.join(file), machine.dir.join(copy)).expect("copy");
    }
    machine
}

const BASE: &str = r#"
realm = "turn.example.org"
[credentials]
secrets = ["5f2c9e1b7a8d4036925814703fb6cade"]
[[credentials.users]]
name = "alice"
password = "kX8sQ2vL5nR9tB3wY7zC"
[[api.keys]]
name = "app"
key = "b3Vp7Xk2Qm9RtW5yZc8L"
[[front_door.route]]
names = ["www.example.org"]
backend = "10.0.8.7:8443"
[[tls.certificates]]
certificate = "fullchain.pem"
private_key = "privkey.pem"
[[listener]]
bind = "*:443"
proxy_protocol = "optional"
trusted_proxies = ["10.0.8.7"]
[[listener]]
bind = "*:3478"
[[listener]]
bind = "*:3479"
"#;

/// Another value for each key that takes no other number, size, duration or word.
const OTHERS: [(&str, &str); 68] = [
    ("turn.redirect.serve_others", r#""2h""#),
    ("nat_discovery.ipv4", r#"["203.0.113.11", "203.0.113.10"]"#),
    ("nat_discovery.ipv6", r#"["2001:db8:1::10", "2001:db8:1::11"]"#),
    ("nat_discovery.ports", r#"[443, 3478]"#),
    ("forced_relay.ports", r#"[3478]"#),
    ("limits.connections_per_network", r#"8000"#),
    ("listener.proxy_protocol", r#""required""#),
    ("listener.bind", r#""*:444""#),
    ("listener.protocols", r#"["udp", "https"]"#),
    ("log.client_ip", r#""off""#),
    ("turn.default_lifetime", r#""20m""#),
    ("turn.tcp_allocations.enabled", r#"false"#),
    ("nat_discovery.enabled", r#"false"#),
    ("api.max_ttl", r#""25h""#),
    ("api.keys.key", r#""Xk2Qm9RtW5yZc8Lb3Vp7""#),
    ("realm", r#""relay.example.org""#),
    ("credentials.max_ttl", r#""26h""#),
    ("state_dir", r#""another""#),
    ("credentials.secret_file", r#""secret""#),
    ("credentials.secret_files", r#"["secret"]"#),
    ("credentials.secrets", r#"["77aa0099bbcc11ddee22ff3344556688"]"#),
    ("credentials.users.name", r#""bob""#),
    ("credentials.users.password", r#""Q9RtW5yZc8Lb3Vp7Xk2m""#),
    ("credentials.users.password_file", r#""other-secret""#),
    ("tls.certificate", r#""second.pem""#),
    ("tls.private_key", r#""second-key.pem""#),
    ("tls.certificates.certificate", r#""second.pem""#),
    ("tls.certificates.private_key", r#""second-key.pem""#),
    ("tls.acme.domains", r#"["turn.example.org"]"#),
    ("tls.acme.contact", r#""ops@example.org""#),
    ("tls.acme.directory", r#""https://acme.example.org/""#),
    ("tls.acme.root", r#""fullchain.pem""#),
    ("external.ipv4", r#""203.0.113.77""#),
    ("external.ipv6", r#""off""#),
    ("external.ports", r#""20000-36383""#),
    ("external.recheck", r#""off""#),
    ("relay.ipv4", r#""203.0.113.11""#),
    ("relay.ipv6", r#""2001:db8:1::11""#),
    ("relay.ports", r#""50000-60000""#),
    ("peers.allow", r#"["10.0.9.0/24"]"#),
    ("peers.deny", r#"["198.51.100.0/24"]"#),
    ("peers.denied_ports", "[53]"),
    ("peers.nat64", r#"["2001:db8:64::/96"]"#),
    ("turn.software", r#""""#),
    ("turn.nonce_secret", r#""9c1d7e3a5b8f4026817934b0a6d2ecf1""#),
    ("turn.nonce_secret_file", r#""other-secret""#),
    ("turn.max_session", r#""8h""#),
    ("turn.redirect.ipv4", r#""198.51.100.5:443""#),
    ("turn.redirect.ipv6", r#""[2001:db8:5::5]:443""#),
    ("turn.redirect.domain", r#""other.example.org""#),
    ("turn.redirect.transports", r#"["udp", "tcp"]"#),
    ("turn.tcp_allocations.peer_ports", r#"["2000-3000"]"#),
    ("turn.tcp_allocations.max_bytes", r#""2GiB""#),
    ("nat_discovery.announced_ipv4", r#"["198.51.100.1", "198.51.100.2"]"#),
    ("nat_discovery.announced_ipv6", r#"["2001:db8:5::1", "2001:db8:5::2"]"#),
    ("forced_relay.transports", r#"["tls"]"#),
    ("front_door.http_upstream", r#""10.0.8.7:80""#),
    ("front_door.route.names", r#"["web.example.org"]"#),
    ("front_door.route.backend", r#""10.0.8.9:8443""#),
    ("front_door.http3.backend", r#""10.0.8.7:8443""#),
    ("api.host", r#""203.0.113.10""#),
    ("api.uris", r#"["turn:turn.example.org:3478"]"#),
    ("api.cors_origins", r#"["https://app.example.org"]"#),
    ("api.keys.key_file", r#""secret""#),
    ("admin.address", r#""127.0.0.1:9999""#),
    ("admin.hosts", r#"["relay.internal"]"#),
    ("log.level", r#""debug""#),
    ("listener.trusted_proxies", r#"["10.0.8.1"]"#),
];

/// What must stand beside a key so that another value of it is good.
const BESIDE: [(&str, &str, &str); 12] = [
    ("tls.", "RELAY__TLS__CERTIFICATE", "\"fullchain.pem\""),
    ("tls.", "RELAY__TLS__PRIVATE_KEY", "\"privkey.pem\""),
    ("tls.acme.contact", "RELAY__TLS__ACME__DOMAINS", "turn.example.org"),
    ("tls.acme.root", "RELAY__TLS__ACME__DOMAINS", "turn.example.org"),
    (
        "turn.redirect.domain",
        "RELAY__TURN__REDIRECT__IPV4",
        "198.51.100.7:443",
    ),
    ("turn.mobility.grace", "RELAY__TURN__MOBILITY__ENABLED", "true"),
    ("turn.tcp_allocations.", "RELAY__TURN__TCP_ALLOCATIONS__ENABLED", "true"),
    ("nat_discovery.", "RELAY__NAT_DISCOVERY__ENABLED", "true"),
    (
        "nat_discovery.",
        "RELAY__NAT_DISCOVERY__IPV4",
        "203.0.113.10,203.0.113.11",
    ),
    (
        "nat_discovery.announced_ipv6",
        "RELAY__NAT_DISCOVERY__IPV6",
        "2001:db8:1::10,2001:db8:1::11",
    ),
    ("api.open", "RELAY__API__KEYS", "[]"),
    ("peers.only_allowed", "RELAY__PEERS__ALLOW", "10.0.9.0/24"),
];

/// Another value than the one that is in force.
fn other(key: &DescribedKey) -> String {
    if let Some((_, other)) = OTHERS.iter().find(|(path, _)| *path == key.path) {
        return (*other).to_owned();
    }
    let value = key.value.as_deref().unwrap_or("");
    let kind = key.kind.replace('`', "");
    let range = kind
        .rsplit(", ")
        .next()
        .and_then(|range| range.split(" or ").next()?.split_once('–'));
    match (value, range) {
        ("true", _) => "false".to_owned(),
        ("false", _) => "true".to_owned(),
        (_, Some((first, last))) if value.trim_matches('"') == first => last.to_owned(),
        // The least of all, or a little more than that of what must not be less than another.
        (_, Some((first, _))) => first.to_owned(),
        (_, None) => {
            let mut words = kind.split(", ");
            let word = words.find(|word| *word != value && word.starts_with('"'));
            word.unwrap_or("nothing else").to_owned()
        }
    }
}

/// A path in the environment starts where the server does.
fn absolute(value: &str, machine: &Machine) -> String {
    let files = [
        "fullchain.pem",
        "privkey.pem",
        "second.pem",
        "second-key.pem",
        "secret",
        "other-secret",
        "another",
    ];
    let file = files.iter().find(|file| value.contains(&format!("\"{file}\"")));
    file.map_or_else(
        || value.to_owned(),
        |file| value.replace(file, &machine.dir.join(file).display().to_string()),
    )
}

/// The variable that sets it, for the first element of lists.
fn variable(path: &str) -> String {
    let mut name = path.to_owned();
    for list in LISTS {
        name = name.replace(&format!("{list}."), &format!("{list}.0."));
    }
    format!("RELAY__{}", name.replace('.', "__").to_uppercase())
}

const LISTS: [&str; 5] = [
    "listener",
    "credentials.users",
    "tls.certificates",
    "front_door.route",
    "api.keys",
];

/// What a change of `key` comes to in a server that runs: before and after.
fn change(key: &DescribedKey) -> Result<(Loaded, Loaded), String> {
    let mut machine = machine();
    for (path, name, value) in BESIDE {
        if key.path.starts_with(path) {
            let value = absolute(value, &machine);
            machine.set(name, &value);
        }
    }
    if key.path == "credentials.users.password_file" || key.path == "api.keys.key_file" {
        machine.set(&variable(key.path.trim_end_matches("_file")), "");
    }
    let before = machine.good(BASE);
    let value = absolute(&other(key), &machine);
    machine.set(&variable(&key.path), &value);
    let after = reload(&before.in_force, &machine).map_err(|mistakes| mistakes.to_string())?;
    Ok((before, after))
}

/// A text beside a file of the same: one of them is all there may be.
fn is_alternative(path: &str) -> bool {
    ["credentials.users.password_file", "api.keys.key_file"].contains(&path)
}

#[test]
fn a_reload_changes_what_its_section_says_and_names_what_waits() {
    let mut wrong = Vec::new();
    for key in keys()
        .iter()
        .filter(|key| !LISTS.contains(&&*key.path) && !is_alternative(&key.path))
    {
        let (before, after) = match change(key) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                wrong.push(format!("{} = {}: {mistakes}", key.path, other(key)));
                continue;
            }
        };
        let shown = |loaded: &Loaded| format!("{:?}", loaded.settings).replace("is_new: true", "is_new: false");
        let list = LISTS.iter().find(|list| key.path.starts_with(&format!("{list}.")));
        let name = list.map_or_else(|| key.path.clone(), |list| format!("[[{list}]]"));
        let stays = shown(&before) == shown(&after) && before.effective() == after.effective();
        let right = match key.applies {
            Applies::Restart => stays && after.waiting == [name],
            Applies::Live | Applies::WithListeners => {
                let is_secret =
                    ["password", "key", "secrets", "nonce_secret"].contains(&key.path.rsplit('.').next().unwrap_or(""));
                (!stays || is_secret) && after.waiting.is_empty()
            }
        };
        if !right {
            wrong.push(format!(
                "{} = {}: stays: {stays}, waits: {:?}",
                key.path,
                other(key),
                after.waiting
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rest_of_a_file_must_fit_what_waits_for_a_restart() {
    let machine = machine();
    let old = machine.good("[[listener]]\nbind = \"203.0.113.10:443\"\n");
    machine.file(
        "relay.toml",
        "[[listener]]\nbind = \"*:3478\"\n[turn.redirect]\nipv4 = \"203.0.113.10:443\"\n",
    );
    let told = reload(&old.in_force, &machine)
        .expect_err("this is the server itself")
        .to_string();
    assert!(told.contains("is this server"), "{told}");
    assert!(
        told.contains("does not fit what needs a restart: [[listener]]"),
        "{told}"
    );
}

/// A reload that waits is compared with what is in force, not with the file before it.
#[test]
fn what_waits_goes_on_waiting_and_a_file_that_is_as_before_waits_for_nothing() {
    let machine = machine();
    let first = machine.good("[udp]\nslots = 65\n");
    machine.file("relay.toml", "[udp]\nslots = 66\n");
    let second = reload(&first.in_force, &machine).expect("good");
    assert_eq!(
        (second.settings.udp.slots, &*second.waiting),
        (65, &["udp.slots".to_owned()][..])
    );
    let third = reload(&second.in_force, &machine).expect("good");
    assert_eq!((third.settings.udp.slots, &third.waiting), (65, &second.waiting));
    machine.file("relay.toml", "[udp]\nslots = 65\n");
    assert!(reload(&third.in_force, &machine).expect("good").waiting.is_empty());
}
