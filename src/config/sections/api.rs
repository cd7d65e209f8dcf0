//! `[api]`.

use core::time::Duration;

use super::secret::{SecretOrFile, secret_or_file};
use super::{DAY, MINUTE};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Placed};

pub(in crate::config) struct RawApi {
    pub(in crate::config) enabled: Located<bool>,
    pub(in crate::config) host: Located<Auto<String>>,
    pub(in crate::config) uris: Located<Auto<Vec<Placed<String>>>>,
    pub(in crate::config) relay_only: Located<bool>,
    pub(in crate::config) open: Located<bool>,
    pub(in crate::config) query_key: Located<bool>,
    pub(in crate::config) cors_origins: Located<Vec<Placed<String>>>,
    pub(in crate::config) default_ttl: Located<Duration>,
    pub(in crate::config) max_ttl: Located<Duration>,
    pub(in crate::config) mints_per_minute_per_key: Located<u32>,
    pub(in crate::config) mints_per_minute_per_ip: Located<u32>,
    pub(in crate::config) mints_per_minute_per_network: Located<Auto<u32>>,
    pub(in crate::config) keys: Located<Vec<RawKey>>,
}

pub(in crate::config) struct RawKey {
    pub(in crate::config) name: Located<String>,
    /// `None`: missing or wrong, and reported.
    pub(in crate::config) key: Option<SecretOrFile>,
    pub(in crate::config) choose_username: Located<bool>,
    pub(in crate::config) forced: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawApi {
    RawApi {
        enabled: s.value("enabled", true),
        host: s.value("host", Auto::Auto),
        uris: s.value("uris", Auto::Auto),
        relay_only: s.value("relay_only", false),
        open: s.value("open", false),
        query_key: s.value("query_key", false),
        cors_origins: s.value("cors_origins", Vec::new()),
        default_ttl: s.within("default_ttl", DAY, MINUTE..=365 * DAY),
        max_ttl: s.within("max_ttl", DAY, MINUTE..=365 * DAY),
        mints_per_minute_per_key: s.number("mints_per_minute_per_key", 600, 0..=1_000_000),
        mints_per_minute_per_ip: s.number("mints_per_minute_per_ip", 600, 0..=1_000_000),
        mints_per_minute_per_network: s.auto_number("mints_per_minute_per_network", 0..=16_000_000),
        keys: s.tables("keys", Vec::new(), |key, place| {
            let name = key.required("name", "\"app\"", place);
            let secret = secret_or_file(key, "key", "key_file", place);
            let choose_username = key.value("choose_username", false);
            let forced = key.value("forced", false);
            Some(RawKey {
                name: name?,
                key: secret,
                choose_username,
                forced,
            })
        }),
    }
}
