//! Every key there is, with its type, default and bounds. `config/relay.toml` and `docs/configuration.md` list the same
//! keys; tests hold the three together.

pub(super) mod admin;
pub(super) mod api;
pub(super) mod credentials;
pub(super) mod dtls;
pub(super) mod external;
pub(super) mod forced_relay;
pub(super) mod front_door;
pub(super) mod limits;
pub(super) mod listener;
pub(super) mod log;
pub(super) mod nat_discovery;
pub(super) mod peers;
pub(super) mod relay;
pub(super) mod secret;
pub(super) mod tls;
pub(super) mod top;
pub(super) mod turn;
pub(super) mod udp;

use core::time::Duration;
use std::collections::HashSet;
use std::sync::LazyLock;

use super::reader::diagnostic::{Diagnostics, SourceSpan};
use super::reader::document::{Node, Table};
use super::reader::effective::Effective;
use super::reader::key::DescribedKey;
use super::reader::section::{Located, Reader, Section};
use super::reader::value::{OneOf, Secrecy};
use super::settings::UdpSettings;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The configuration as written, typed and with places; not yet checked for sense.
pub(super) struct Raw {
    pub(super) top: top::RawTop,
    pub(super) credentials: credentials::RawCredentials,
    pub(super) tls: tls::RawTls,
    pub(super) external: external::RawExternal,
    pub(super) relay: relay::RawRelay,
    pub(super) peers: peers::RawPeers,
    pub(super) turn: turn::RawTurn,
    pub(super) nat_discovery: nat_discovery::RawNatDiscovery,
    pub(super) forced_relay: forced_relay::RawForcedRelay,
    pub(super) limits: limits::RawLimits,
    pub(super) front_door: front_door::RawFrontDoor,
    pub(super) udp: UdpSettings,
    pub(super) dtls: dtls::RawDtls,
    pub(super) api: api::RawApi,
    pub(super) admin: admin::RawAdmin,
    pub(super) log: log::RawLog,
    pub(super) listeners: Located<Vec<listener::RawListener>>,
    /// A listener is missing from `listeners` because its `bind` is wrong, which is reported: nothing follows from its
    /// absence.
    pub(super) lacks_listeners: bool,
}

impl Raw {
    /// Whether any listener speaks plain UDP, where sources can be forged.
    fn speaks_udp(&self) -> bool {
        let mut listeners = self.listeners.value.iter();
        listeners.any(|listener| listener.protocols.value.contains(&OneOf(listener::Protocol::Udp)))
    }
}

/// What reading gives: the values, the effective configuration, and the name of every key.
pub(super) struct Reading {
    pub(super) raw: Raw,
    pub(super) effective: Effective,
    pub(super) keys: Vec<DescribedKey>,
    /// Those of `keys` without their last part that are lists of tables: `listener`.
    pub(super) lists: Vec<String>,
}

/// Reads the whole of `table`; mistakes go to `diagnostics`.
pub(super) fn read(table: Table, diagnostics: &mut Diagnostics) -> Reading {
    let defaults = listener::defaults(diagnostics);
    let (raw, read) = Reader::run(table, diagnostics, |top| read_top(top, defaults));
    Reading {
        raw,
        effective: read.effective,
        keys: read.keys,
        lists: read.lists,
    }
}

/// All keys, and all lists of tables.
pub(super) struct Known {
    keys: Vec<DescribedKey>,
    pub(super) lists: Vec<String>,
    words: HashSet<String>,
}

impl Known {
    /// The name of every key, with its section.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.path.as_str())
    }

    /// Every key with what is known of it.
    pub(super) fn described(&self) -> &[DescribedKey] {
        &self.keys
    }

    /// Whether there is a key of this name.
    pub(super) fn has(&self, path: &str) -> bool {
        self.kind(path).is_some()
    }

    /// What a key holds. `None`: there is no such key.
    pub(super) fn kind(&self, path: &str) -> Option<Secrecy> {
        self.keys.iter().find(|key| key.path == path).map(|key| key.secrecy)
    }

    /// Whether it is a word out of the names of keys and sections.
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.words.contains(&word.to_ascii_lowercase())
    }
}

/// What the schema knows.
pub(super) fn known() -> &'static Known {
    static KNOWN: LazyLock<Known> = LazyLock::new(|| {
        let reading = read(Table { entries: Vec::new() }, &mut Diagnostics::default());
        let parts = reading
            .keys
            .iter()
            .flat_map(|key| key.path.split(['.', '_']).chain(key.path.split('.')));
        Known {
            words: parts.map(str::to_owned).collect(),
            keys: reading.keys,
            lists: reading.lists,
        }
    });
    &KNOWN
}

fn read_top(top: &mut Section<'_, '_>, default_listeners: Vec<Node>) -> Raw {
    let mut lacks_listeners = false;
    let mut listener = |s: &mut Section<'_, '_>, place: Option<SourceSpan>| {
        let read = listener::read(s, place);
        lacks_listeners |= read.is_none() && place.is_some();
        read
    };
    Raw {
        top: top::read(top),
        credentials: top.section("credentials", credentials::read),
        tls: top.section("tls", tls::read),
        external: top.section("external", external::read),
        relay: top.section("relay", relay::read),
        peers: top.section("peers", peers::read),
        turn: top.section("turn", turn::read),
        nat_discovery: top.section("nat_discovery", nat_discovery::read),
        forced_relay: top.section("forced_relay", forced_relay::read),
        limits: top.section("limits", limits::read),
        front_door: top.section("front_door", front_door::read),
        udp: top.section("udp", udp::read),
        dtls: top.section("dtls", dtls::read),
        api: top.section("api", api::read),
        admin: top.section("admin", admin::read),
        log: top.section("log", log::read),
        listeners: top.tables(listener::LISTENER, default_listeners, &mut listener),
        lacks_listeners,
    }
}

/// Reports what is wrong, or unwise, within each section.
pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    top::check(&raw.top, raw.speaks_udp(), d);
    credentials::check(&raw.credentials, d);
    tls::check(&raw.tls, d);
    external::check(&raw.external, d);
    relay::check(&raw.relay, d);
    peers::check(&raw.peers, d);
    turn::check(&raw.turn, d);
    forced_relay::check(&raw.forced_relay, d);
    limits::check(&raw.limits, d);
    listener::check(&raw.listeners, raw.lacks_listeners, d);
    api::check(&raw.api, d);
    admin::check(&raw.admin, d);
    log::check(&raw.log, d);
}
