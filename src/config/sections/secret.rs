//! A secret written down, or the file that holds it: a pair of keys that several sections have.

use std::path::PathBuf;

use crate::config::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use crate::config::reader::key::ConfigKey;
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::SecretText;
use crate::config::strength::{API_KEY_BYTES, SECRET_BYTES, Strength, is_sample, judge};

/// A secret written down, or the file that holds it.
pub(in crate::config) enum SecretOrFile {
    Text(Located<SecretText>),
    File(Located<PathBuf>),
}

pub(super) fn secret_or_file(
    s: &mut Section<'_, '_>,
    key: ConfigKey,
    file_key: ConfigKey,
    place: Option<SourceSpan>,
) -> Option<SecretOrFile> {
    if !s.has(key.name) && !s.has(file_key.name) {
        let (key, file_key) = (key.name, file_key.name);
        let diagnostic = Diagnostic::error(format!("`{}`: `{key}` is missing", s.path())).at(place);
        s.report(diagnostic.help(format!("add a `{key}` or a `{file_key}`")));
    }
    optional_secret_or_file(s, key, file_key)
}

pub(super) fn optional_secret_or_file(
    s: &mut Section<'_, '_>,
    key: ConfigKey,
    file_key: ConfigKey,
) -> Option<SecretOrFile> {
    let text = s.optional::<SecretText>(key);
    let file = s.optional::<PathBuf>(file_key);
    if let (Some(text), Some(file)) = (&text, &file) {
        let (key, file_key) = (key.name, file_key.name);
        let diagnostic = Diagnostic::error(format!("there is both a `{key}` and a `{file_key}`")).at(file.place);
        s.report(
            diagnostic
                .also(text.place, "here is the other")
                .help("keep one of them"),
        );
    }
    text.map(SecretOrFile::Text).or_else(|| file.map(SecretOrFile::File))
}

/// How to get a good one.
const MAKE_SECRET: &str = "make one: head -c 33 /dev/urandom | base64 | tr +/ -_";

/// Judges a shared secret, wherever it was found; `what` names it.
pub(in crate::config) fn secret(secret: &[u8], what: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
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
pub(in crate::config) fn api_key(key: &[u8], name: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
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
pub(in crate::config) fn password(password: &str, name: &str, place: Option<SourceSpan>, d: &mut Diagnostics) {
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
