//! `[credentials]`.

use core::time::Duration;
use std::path::PathBuf;

use super::secret::{SecretOrFile, secret_or_file};
use super::{DAY, HOUR, MINUTE};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Placed, SecretText};

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
