//! Whatever is wrong with a configuration, what is said of it holds nothing that could be a secret.

use std::fs;

use proptest::prelude::*;
use relay::config::reader::diagnostic::Diagnostics;
use relay::config::{Purpose, keys, load_for};

use crate::broken::cases;
use crate::machine::Machine;

const EXAMPLE: &str = include_str!("../../config/relay.toml");

/// Of a secret nothing longer than this may be seen.
const SEEN: usize = 6;

/// Everything that is ever said: on a terminal, in the log.
fn told(mistakes: &Diagnostics) -> String {
    let log: Vec<String> = mistakes.iter().map(|found| found.to_string()).collect();
    format!(
        "{}\n{}\n{mistakes:?}\n{}",
        mistakes.render(false),
        mistakes.render(true),
        log.join("\n")
    )
}

/// The part of `secret` that `told` gives away.
fn leak<'s>(secret: &'s str, told: &str) -> Option<&'s str> {
    let starts = secret.char_indices().map(|(at, _)| at);
    let pieces = starts.filter_map(|at| secret.get(at..at + SEEN));
    pieces
        .filter(|piece| piece.chars().all(char::is_alphanumeric))
        .find(|piece| told.contains(piece))
}

fn all_told(machine: &Machine, text: &str) -> String {
    let path = machine.file("relay.toml", text);
    match load_for(Purpose::Check, Some(&path), machine) {
        Ok(loaded) => format!("{}{}", told(&loaded.warnings), loaded.effective()),
        Err(mistakes) => told(&mistakes),
    }
}

#[test]
fn the_mistakes_people_make_with_secrets_show_none() {
    let secret = "Xq7Zr9Lm2Vt5Kw8Hn3Bp6Dj1Fs4Gy0Ca";
    for text in [
        // Without quotes, and with one.
        "[credentials]\nsecrets = SECRET\n",
        "[credentials]\nsecret = SECRET\n",
        "[credentials]\nsecrets = [SECRET]\n",
        "[credentials]\nsecrets = [\"SECRET]\n",
        "[credentials]\nsecrets = \"SECRET\n",
        "[credentials]\nsecrets = ['SECRET\"]\n",
        "[credentials]\nsecrets = [“SECRET”]\n",
        // As other servers have it.
        "static-auth-secret=SECRET\n",
        "static-auth-secret SECRET\n",
        "use-auth-secret\nstatic-auth-secret=SECRET\nrealm=x\n",
        "user=alice:SECRET\n",
        "auth_secret: SECRET\n",
        "{ \"static_auth_secret\": \"SECRET\" }\n",
        "credentials:\n  secret: SECRET\n",
        // Cut off.
        "credentials = { secrets = [\"SECRET\"\n",
        "credentials = { users = [{ name = \"a\", password = \"SECRET\n",
        "api.keys = [{ name = \"app\", key = \"SECRET\"\n[limits]\n",
        "api = { keys = [{ key = \"SECRET\" }, 5 }\n",
        // Where a path belongs.
        "credentials.secret_file = \"SECRET\"\n",
        "credentials.secret_files = [\"SECRET\"]\n",
        "credentials.users = [{ name = \"a\", password_file = \"SECRET\" }]\n",
        "api.keys = [{ name = \"a\", key_file = \"SECRET\" }]\n",
        "turn.nonce_secret_file = \"SECRET\"\n",
        "tls = { certificate = \"SECRET\", private_key = \"SECRET\" }\n",
        "tls = { certificate = \"a.pem\", private_key = \"\"\"\n-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\"\"\" }\n",
        "state_dir = \"/SECRET\"\n",
        // Over several lines.
        "[credentials]\nsecrets = [\"\"\"\nSECRET\n\"\"\"]\nx = 1\n",
        "[credentials]\nsecrets = [\n  \"SECRET\",\n  SECRET\n]\n",
        "[credentials]\nsecrets = \"\"\"\nSECRET\nrealm = 5\n",
        "[credentials]\nsecrets = [\"a\"]\nSECRET\n",
        "[credentials]\nsecrets = \"\\\nSECRET\"\n",
        // Misspelt, or in the wrong place.
        "secrt = \"SECRET\"\n",
        "[credentials]\nsekrets = [\"SECRET\"]\n",
        "[credentials]\nsecrets.one = \"SECRET\"\n",
        "[limits]\nsecret = \"SECRET\"\n",
        "credentials = \"SECRET\"\n",
        "api.keys = \"SECRET\"\n",
        "api.keys = [\"SECRET\"]\n",
        "[[api.keys]]\nname = \"SECRET\"\n",
        "SECRET = 1\n",
        "[SECRET]\n",
        "[[SECRET]]\nx = 1\n",
        "[credentials]\nusers = { SECRET = 1 }\n",
        "workers = \"SECRET\"\n",
        "log.level = \"SECRET\"\n",
        "realm = \"https://user:SECRET@turn.example.org\"\n",
        "listener = [{ bind = \"SECRET\" }]\n",
        "external.ipv4 = \"SECRET\"\n",
        "peers.allow = \"SECRET\"\n",
        "api.cors_origins = [\"SECRET\"]\n",
        // Twice, and in a comment.
        "realm = 5 # SECRET\n",
        "[credentials]\nsecrets = [\"SECRET\"]\nsecrets = [\"SECRET\"]\n",
        "[credentials]\nsecrets = [\"SECRET\", \"SECRET\"]\n",
        "credentials.users = [{ name = \"a\", password = \"SECRET\" }, { name = \"a\", password = \"SECRET\" }]\n",
        "api.keys = [{ name = \"a\", key = \"SECRET\" }, { name = \"b\", key = \"SECRET\" }]\n",
    ] {
        let told = all_told(&Machine::new(), &text.replace("SECRET", secret));
        assert_eq!(leak(secret, &told), None, "{text}\n{told}");
    }
}

#[test]
fn a_mistake_in_the_environment_shows_no_secret() {
    let secret = "Xq7Zr9Lm2Vt5Kw8Hn3Bp6Dj1Fs4Gy0Ca";
    for (name, value) in [
        ("RELAY__CREDENTIALS__SECRETS", "[\"SECRET\""),
        ("RELAY__CREDENTIALS__SECRETS", "[SECRET]"),
        ("RELAY__CREDENTIALS__SECRETS__O", "SECRET"),
        ("RELAY__CREDENTIALS__SECRETS__7", "SECRET"),
        ("RELAY__CREDENTIALS__SECRETS", "short SECRET"),
        ("RELAY__CREDENTIALS__SECRET_FILE", "SECRET"),
        ("RELAY__CREDENTIALS__SECRT", "SECRET"),
        ("RELAY__CREDENTIALS", "SECRET"),
        ("RELAY__CREDENTIALS__USERS__0__PASSWORD__X", "SECRET"),
        ("RELAY__API__KEYS__0__KEY", "SECRET"),
        ("RELAY__API__KEYS__0__KEY_FILE", "SECRET"),
        ("RELAY__API__KEYS", "[{ key = \"SECRET\" }]"),
        ("RELAY__TURN__NONCE_SECRET", "{ x = \"SECRET\" }"),
        ("RELAY__WORKERS", "SECRET"),
        ("RELAY_CONFIG", "SECRET"),
        ("RELAY_CONFIG", "/etc/SECRET"),
        ("RELAY_CONFIG", "secrets = SECRET"),
    ] {
        let mut machine = Machine::new();
        machine.set(name, &value.replace("SECRET", secret));
        let told = match load_for(Purpose::Check, None, &machine) {
            Ok(loaded) => told(&loaded.warnings),
            Err(mistakes) => told(&mistakes),
        };
        assert_eq!(leak(secret, &told), None, "{name}={value}\n{told}");
    }
}

fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f]{32,48}",
        "[A-Za-z0-9_-]{36,43}",
        "[A-Za-z0-9+/]{40,43}=",
        "[A-Za-z0-9]{24,40}",
        "[a-z]{6,9}Qx[0-9]{2,3}( [a-z]{7,9}Zk){2,4}",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[A-Z][a-z0-9]{9}[#=,'\\[{\\\\]{1,2}([0-9][A-Z][a-z]){5}",
    ]
}

/// How a value can be written, rightly and wrongly.
fn written(secret: &str, how: usize) -> String {
    match how {
        0 => secret.to_owned(),
        1 => format!("\"{secret}\""),
        2 => format!("'{secret}'"),
        3 => format!("\"{secret}"),
        4 => format!("[\"{secret}\"]"),
        5 => format!("[\"{secret}\""),
        6 => format!("\"\"\"\n{secret}\n\"\"\""),
        7 => format!("\"\"\"\n{secret}"),
        8 => format!("{{ key = \"{secret}\" }}"),
        9 => format!("{{ x = {secret}"),
        10 => format!("[{{ name = \"a\", key = {secret} }}]"),
        _ => format!("“{secret}”"),
    }
}

/// Lines of `text` that give a key a value.
fn pairs(text: &str) -> Vec<usize> {
    let is_pair = |line: &str| line.contains('=') && !line.trim_start().starts_with('#');
    text.lines()
        .enumerate()
        .filter(|(_, line)| is_pair(line))
        .map(|(at, _)| at)
        .collect()
}

fn texts() -> Vec<String> {
    let broken = cases()
        .into_iter()
        .map(|case| fs::read_to_string(case).expect("a case"));
    broken.chain([EXAMPLE.to_owned()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_secret_in_the_place_of_any_value_of_a_broken_file_is_not_shown(
        secret in secret(),
        how in 0..12_usize,
        text in any::<prop::sample::Index>(),
        line in any::<prop::sample::Index>(),
        also in any::<prop::sample::Index>(),
        misspelt in 0..4_usize,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let texts = texts();
        let text = &texts[text.index(texts.len())];
        let pairs = pairs(text);
        prop_assume!(!pairs.is_empty());
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = pairs[line.index(pairs.len())];
        let (key, _) = lines[at].split_once('=').expect("a pair");
        let key = match misspelt {
            0 => key.trim().chars().skip(1).collect::<String>(),
            1 => format!("{}x", key.trim()),
            _ => key.trim().to_owned(),
        };
        lines[at] = format!("{key} = {}", written(&secret, how));
        // Something else is wrong as well, beside it or elsewhere.
        lines.insert(also.index(lines.len()), "nonsense = = 5".to_owned());
        let mut broken = lines.join("\n");
        if let Some(cut) = cut {
            // Of a secret cut in two, a part that looks like a word may be shown.
            let whole = broken.find(&secret).map_or(0..0, |at| at..at + secret.len());
            let cut = cut.index(broken.len());
            let cut = if whole.contains(&cut) { whole.end } else { cut };
            broken.truncate((0..=cut).rev().find(|&at| broken.is_char_boundary(at)).unwrap_or(0));
        }
        let told = all_told(&Machine::new(), &broken);
        prop_assert_eq!(leak(&secret, &told), None, "{}\n---\n{}", broken, told);
    }

    #[test]
    fn a_secret_in_any_variable_is_not_shown(
        secret in secret(),
        how in 0..12_usize,
        key in any::<prop::sample::Index>(),
        misspelt in any::<bool>(),
    ) {
        let keys = keys();
        let key = keys[key.index(keys.len())].path.to_uppercase().replace('.', "__");
        let name = format!("RELAY__{key}{}", if misspelt { "X" } else { "" });
        let mut machine = Machine::new();
        machine.set(&name, &written(&secret, how)).set("RELAY__WORKERS", "none at all");
        let told = all_told(&machine, "");
        prop_assert_eq!(leak(&secret, &told), None, "{}: {}\n---\n{}", name, written(&secret, how), told);
    }
}
