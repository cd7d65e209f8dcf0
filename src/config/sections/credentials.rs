//! `[credentials]`.

use core::time::Duration;
use std::path::PathBuf;

use super::secret::{SecretOrFile, password, secret, secret_or_file};
use super::{DAY, HOUR, MINUTE};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, SecretText};
use crate::turn::login::credential::TimeLimited;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

pub(in crate::config) struct RawCredentials {
    pub(in crate::config) secret_file: Option<Located<PathBuf>>,
    pub(in crate::config) secret_files: Located<Vec<Placed<PathBuf>>>,
    pub(in crate::config) secrets: Located<Vec<Placed<SecretText>>>,
    pub(in crate::config) max_ttl: Located<Duration>,
    pub(in crate::config) skew: Located<Duration>,
    pub(in crate::config) users: Vec<RawUser>,
}

pub(in crate::config) struct RawUser {
    pub(in crate::config) name: Located<String>,
    /// `None`: missing or wrong, and reported.
    pub(in crate::config) password: Option<SecretOrFile>,
    pub(in crate::config) forced: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawCredentials {
    RawCredentials {
        secret_file: s.optional("secret_file"),
        secret_files: s.value("secret_files", Vec::new()),
        secrets: s.value("secrets", Vec::new()),
        max_ttl: s.within("max_ttl", 25 * HOUR, MINUTE..=365 * DAY),
        skew: s.within("skew", MINUTE, Duration::ZERO..=HOUR),
        users: s
            .tables("users", Vec::new(), |user, place| {
                let name = user.required("name", "\"alice\"", place);
                let password = secret_or_file(user, "password", "password_file", place);
                let forced = user.value("forced", false);
                Some(RawUser {
                    name: name?,
                    password,
                    forced,
                })
            })
            .value,
    }
}

/// Reports what is wrong with secrets and users.
pub(in crate::config) fn check(credentials: &RawCredentials, d: &mut Diagnostics) {
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
