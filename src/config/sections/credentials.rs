//! `[credentials]`.

use core::time::Duration;
use std::path::PathBuf;

use super::secret::{SecretOrFile, password, secret, secret_or_file};
use super::{DAY, HOUR, MINUTE};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use crate::config::reader::key::{ConfigKey, live};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, SecretText};
use crate::turn::login::credential::TimeLimited;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

const SECRET_FILE: ConfigKey = live(
    "secret_file",
    "File with the secret shared with the services that mint credentials. Make one: \
     `head -c 33 /dev/urandom | base64 | tr +/ -_`.\n\n\
     With neither secret nor user, the server generates one.",
)
.example("\"/etc/relay/secret\"");

const SECRET_FILES: ConfigKey = live(
    "secret_files",
    "More such files, all valid at once, for [rotation](credentials.md#rotation).",
);

const SECRETS: ConfigKey = live(
    "secrets",
    "The same, written in the configuration.\n\n\
     The first of all (`secret_file`, then `secret_files`, then `secrets`) signs new credentials.",
);

const MAX_TTL: ConfigKey = live(
    "max_ttl",
    "The server refuses a credential that expires later than this from now.\n\n\
     Many services mint for 24 hours; the extra hour allows for clocks that are fast. Raise it for \
     services that mint longer credentials.",
);

const SKEW: ConfigKey = live("skew", "How far the clocks of minting services may be ahead.");

const USERS: ConfigKey = live("users", "Users with a fixed name and password, beside the secrets.");

const USER_NAME: ConfigKey = live(
    "name",
    "The name.\n\n\
     Must not look like `1893456000` or `1893456000:x`: those are time-limited credentials.",
)
.kind("string, 1–508 bytes");

const USER_PASSWORD: ConfigKey = live("password", "The password.")
    .default("–")
    .example("\"kX8sQ2vL5nR9tB3wY7zC\"");

const USER_PASSWORD_FILE: ConfigKey = live("password_file", "Alternatively, the file that holds it.")
    .default("–")
    .example("\"/etc/relay/alice\"");

const USER_FORCED: ConfigKey = live("forced", "The user may relay on the ports of `[forced_relay]` only.");

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
        secret_file: s.optional(SECRET_FILE),
        secret_files: s.value(SECRET_FILES, Vec::new()),
        secrets: s.value(SECRETS, Vec::new()),
        max_ttl: s.within(MAX_TTL, 25 * HOUR, MINUTE..=365 * DAY),
        skew: s.within(SKEW, MINUTE, Duration::ZERO..=HOUR),
        users: s
            .tables(USERS, Vec::new(), |user, place| {
                let name = user.required(USER_NAME, "\"alice\"", place);
                let password = secret_or_file(user, USER_PASSWORD, USER_PASSWORD_FILE, place);
                let forced = user.value(USER_FORCED, false);
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
