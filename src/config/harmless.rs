//! Whether a text in a configuration can be told from a secret. What cannot is not shown; so it errs on that side.

use std::path::Path;

use super::characters;

/// Letters or digits without anything in between: longer ones are no word and no number of a configuration.
const LONGEST_RUN: usize = 20;
/// Letters and digits mixed: from this length on it may be a key.
const MIXED_RUN: usize = 12;
/// With small and large letters and digits between two separators, from this length on it may be a key.
const MIXED_PART: usize = 10;

/// How file names end that hold what the configuration names.
const ENDINGS: [&str; 13] = [
    "pem", "crt", "cer", "der", "p12", "p7b", "pfx", "key", "txt", "toml", "secret", "token", "conf",
];

/// Where absolute paths lead.
const ROOTS: [&str; 19] = [
    "app", "certs", "config", "data", "dev", "etc", "home", "mnt", "nix", "opt", "proc", "root", "run", "secrets",
    "srv", "state", "tmp", "usr", "var",
];

/// The name of a key or a section.
pub(super) fn key(text: &str) -> bool {
    let bare = |c: char| c.is_alphanumeric() || "_-".contains(c);
    text.len() <= 64 && text.chars().all(bare) && !is_random(text)
}

/// What keys hold that are neither secrets nor paths: numbers, durations, addresses, networks, names, URIs, words.
pub(super) fn value(text: &str) -> bool {
    let plain = |c: char| {
        c.is_alphanumeric()
            || "._:/@%*?&=-+, []\"".contains(c)
            || characters::is_typographic_quote(c)
            || characters::invisible(c).is_some()
    };
    // Words apart: a phrase. Behind a number stands its unit, behind a comma the next of a list.
    let phrase = text.replace(", ", ",").contains(' ') && !text.starts_with(|c: char| c.is_ascii_digit());
    text.len() <= 255 && text.chars().all(plain) && !text.ends_with('=') && !phrase && !is_random(text)
}

/// The path of a file.
pub(super) fn path(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "._-@/:".contains(c);
    let first = text.strip_prefix('/').and_then(|rest| rest.split('/').next());
    let ending = text.rsplit_once('.').map_or("", |(_, ending)| ending);
    let looks_like_one = matches!(text, "auto" | "." | "")
        || text.starts_with("credential:")
        || first.is_some_and(|first| ROOTS.contains(&first))
        || ENDINGS.contains(&ending);
    looks_like_one && text.len() <= 255 && text.chars().all(plain) && !is_random(text)
}

/// A word of a comment, or a path that was accepted.
pub(super) fn word(text: &str) -> bool {
    !is_random(text)
}

/// A path that is in force, as it may be shown.
pub(super) fn shown(file: &Path) -> String {
    let text = file.display().to_string();
    if word(&text) { text } else { "(hidden)".to_owned() }
}

/// Whether it may come from a generator of secrets.
fn is_random(text: &str) -> bool {
    let count = |text: &str, is: fn(&char) -> bool| text.chars().filter(is).count();
    let digits = |text: &str| count(text, |c| c.is_ascii_digit());
    let small = |text: &str| count(text, |c| c.is_lowercase());
    let large = |text: &str| count(text, |c| c.is_uppercase());
    let letters = |text: &str| count(text, |c| c.is_alphabetic());
    let mixed = |text: &str| digits(text) > 0 && small(text) > 0 && large(text) > 0;
    let run = |run: &str| {
        run.len() > LONGEST_RUN || (run.len() >= MIXED_RUN && digits(run) >= 2 && letters(run) >= 2) || zigzags(run)
    };
    let part = |part: &str| part.len() >= MIXED_PART && mixed(part);
    let separated = text.contains(['.', '/', ':', ',', ' ']);
    text.split(|c: char| !c.is_alphanumeric())
        .any(|it| run(it) && !is_number(it))
        || text
            .split(['.', '/', ':', ',', ' ', '@'])
            .any(|it| part(it) && !is_number(it))
        || (text.len() >= LONGEST_RUN && !separated && digits(text) >= 4 && letters(text) >= 4)
        || (text.len() >= LONGEST_RUN && text.contains('+') && mixed(text))
}

/// A number, maybe with its unit.
fn is_number(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() <= 3 && unit.len() < text.len() && text.len() - unit.len() <= LONGEST_RUN
}

/// Small and large letters by turns, as in no word.
fn zigzags(run: &str) -> bool {
    let large: Vec<bool> = run.chars().map(char::is_uppercase).collect();
    let turns = large.windows(2).filter(|pair| pair == &[false, true]).count();
    run.len() >= 8 && turns >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_configurations_hold_is_told_from_secrets() {
        for text in [
            "turn.example.org",
            "10.0.8.0/24",
            "[2001:db8:1234:5678:9abc:def0:1234:5678]:443",
            "49152-65535",
            "99999999999999999999",
            "99999999999999999999GiB",
            "256 furlongs",
            "https://acme-v02.api.letsencrypt.org/directory",
            "turns:turn.example.org:443?transport=tcp",
            "interface:eth0",
            "info,relay=debug",
            "1893456000:dave",
            "https://APP.example.org:443",
            "",
        ] {
            assert!(value(text), "{text}");
        }
        for text in [
            "5f2c9e1b7a8d4036925814703fb6cade",
            "correct horse battery staple",
            "550e8400-e29b-41d4-a716-446655440000",
            "Zk3v8yB1qTn5LxW0",
            "k+Jd8/2nQ0vZp1==",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "p4ss\\word!",
            "correcthorsebatterystaple",
        ] {
            assert!(!value(text), "{text}");
            assert!(!path(text), "{text}");
        }
    }

    #[test]
    fn a_path_looks_like_one() {
        for text in [
            "/etc/relay/secret",
            "fullchain.pem",
            "certs/Example.crt",
            "credential:secret",
            "auto",
        ] {
            assert!(path(text), "{text}");
        }
        for text in [
            "hunter2",
            "/hunter2",
            "a/b",
            "/etc/5f2c9e1b7a8d4036925814703fb6cade",
            "my secret.pem",
        ] {
            assert!(!path(text), "{text}");
        }
    }
}
