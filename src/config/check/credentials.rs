//! Secrets, users and keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::super::sections::credentials::RawCredentials;
use super::super::sections::secret::SecretOrFile;
use super::super::strength::{API_KEY_BYTES, SECRET_BYTES, Strength, is_sample, judge};
use super::DAY;
use crate::turn::login::credential::TimeLimited;

/// How to get a good one.
const MAKE_SECRET: &str = "make one: head -c 33 /dev/urandom | base64 | tr +/ -_";

pub(super) fn check(credentials: &RawCredentials, d: &mut Diagnostics) {
    let mut seen = HashMap::new();
    for written in &credentials.secrets.value {
        secret(
            written.value.0.as_bytes(),
            "`credentials.secrets`",
            Some(written.place),
            d,
        );
        match seen.entry(written.value.0.as_str()) {
            Entry::Vacant(vacant) => drop(vacant.insert(written.place)),
            Entry::Occupied(first) => {
                let diagnostic = Diagnostic::error("`credentials.secrets` holds a secret twice").at(written.place);
                d.push(diagnostic.also(*first.get(), "first here").help("remove one of them"));
            }
        }
    }
    let mut seen = HashMap::new();
    for user in &credentials.users {
        user_name(&user.name.value, user.name.place, d);
        match seen.entry(user.name.value.as_str()) {
            Entry::Vacant(vacant) => drop(vacant.insert(user.name.place)),
            Entry::Occupied(first) => {
                let message = format!("there are two users {:?}", user.name.value);
                let diagnostic = Diagnostic::error(message).at(user.name.place);
                let diagnostic = diagnostic.also(*first.get(), "the first");
                d.push(diagnostic.help("give each user a name of its own"));
            }
        }
        if let Some(SecretOrFile::Text(text)) = &user.password {
            password(&text.value.0, &user.name.value, text.place, d);
        }
    }
    if credentials.max_ttl.value > 7 * DAY {
        let message = "`credentials.max_ttl` is more than a week: a stolen credential is good for as long";
        d.push(
            Diagnostic::warning(message)
                .at(credentials.max_ttl.place)
                .help("a day is usual; clients can always get a new one"),
        );
    }
}

fn user_name(name: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
    let expiry = name.split(':').next().unwrap_or("");
    let problem = if name.is_empty() {
        ("a user's name is empty".to_owned(), "give the user a name")
    } else if name.len() > 508 {
        (
            format!("a user's name has {} bytes", name.len()),
            "a USERNAME has at most 508 bytes (RFC 8489 §14.3)",
        )
    } else if name.chars().any(char::is_control) {
        (
            format!("the user name {name:?} holds a control character"),
            "use letters and digits",
        )
    } else if expiry.bytes().all(|b| b.is_ascii_digit()) || TimeLimited::parse(name.as_bytes()).is_some() {
        let message = format!("the user name {name:?} reads like a time-limited credential (`expiry:id`)");
        (message, "begin it with a letter")
    } else {
        return;
    };
    d.push(Diagnostic::error(problem.0).at(place).help(problem.1));
}

/// Judges a shared secret, wherever it was found; `what` names it.
pub(in super::super) fn secret(secret: &[u8], what: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
    match judge(secret, SECRET_BYTES) {
        Strength::Good => {}
        Strength::Weak(why) => {
            d.push(
                Diagnostic::error(format!("{what}: the secret is weak: {why}"))
                    .at(place)
                    .help(MAKE_SECRET),
            );
        }
        Strength::Fair => {
            let message = format!("{what}: the secret holds less than 32 random bytes");
            d.push(Diagnostic::warning(message).at(place).help(MAKE_SECRET));
        }
    }
}

/// Judges a key of the credentials API.
pub(in super::super) fn api_key(key: &[u8], name: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
    if let Strength::Weak(why) = judge(key, API_KEY_BYTES) {
        let message = format!("`api.keys`: the key {name:?} is weak: {why}");
        d.push(Diagnostic::error(message).at(place).help(MAKE_SECRET));
    } else if !key.iter().all(u8::is_ascii_graphic) {
        let message = format!("`api.keys`: the key {name:?} does not fit an HTTP header");
        d.push(
            Diagnostic::error(message)
                .at(place)
                .help("use letters, digits and punctuation alone"),
        );
    }
}

/// Judges the password of a static user.
pub(in super::super) fn password(password: &str, name: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
    let what = format!("`credentials.users`: the password of {name:?}");
    if password.is_empty() {
        d.push(
            Diagnostic::error(format!("{what} is empty"))
                .at(place)
                .help(MAKE_SECRET),
        );
    } else if password.len() > 763 {
        d.push(
            Diagnostic::error(format!("{what} has more than 763 bytes"))
                .at(place)
                .help("shorten it"),
        );
    } else if is_sample(password.as_bytes()) || password == name {
        d.push(
            Diagnostic::error(format!("{what} is one that everybody tries first"))
                .at(place)
                .help(MAKE_SECRET),
        );
    } else if password.chars().count() < 16 {
        let message = format!("{what} is short: guesses can be tried offline from one captured message");
        d.push(Diagnostic::warning(message).at(place).help(MAKE_SECRET));
    }
}
