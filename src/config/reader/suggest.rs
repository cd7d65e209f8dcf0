//! What may have been meant by a key that there is not.

use super::document::{Entry, Value};
use super::key::DescribedKey;
use super::value::nearest;

/// What suggestions are made from.
pub(in crate::config) struct Suggestions<'a> {
    /// Every key there is.
    pub(in crate::config) keys: &'a [DescribedKey],
    /// Those of them that are lists of tables.
    pub(in crate::config) lists: &'a [String],
}

impl Suggestions<'_> {
    /// What to write instead.
    pub(super) fn for_entry(&self, section: &str, entry: &Entry) -> Option<String> {
        let written = entry.key.to_ascii_lowercase().replace('-', "_");
        let is_table = matches!(entry.node.value, Value::Table(_));
        if section.is_empty() && is_table {
            let sections = self
                .keys
                .iter()
                .filter_map(|key| key.path.rsplit_once('.'))
                .map(|(section, _)| section);
            return nearest(&written, sections).map(|name| format!("did you mean `[{name}]`?"));
        }
        let prefix = if section.is_empty() {
            String::new()
        } else {
            format!("{section}.")
        };
        let here = || {
            self.keys
                .iter()
                .filter_map(|key| key.path.strip_prefix(&prefix))
                .filter(|rest| !rest.contains('.'))
        };
        if let Some(help) = self.section_elsewhere(section, entry) {
            return Some(help);
        }
        let exact = here().find(|name| *name == written);
        if let Some(name) = exact.or_else(|| nearest(&written, here())) {
            return Some(format!("did you mean `{name}`?"));
        }
        if let Some(found) = self.elsewhere(section, &written) {
            return Some(found);
        }
        if let Some(path) = renamed(&written) {
            return Some(format!("here that is `{path}`"));
        }
        // Behind the last header, and misspelt.
        let names = self.keys.iter().filter_map(|key| key.path.rsplit('.').next());
        if let Some(help) = nearest(&written, names)
            .filter(|name| name.len() > 4)
            .and_then(|name| self.elsewhere(section, name))
        {
            return Some(format!("did you mean another key? {help}"));
        }
        let mut all: Vec<String> = Vec::new();
        for name in here().map(|name| format!("`{name}`")) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        (!all.is_empty()).then(|| format!("it has {}", all.join(", ")))
    }

    /// What may have been meant by the key or section `written`, of which the section may be missing.
    pub(in crate::config) fn for_path(&self, written: &str) -> Option<String> {
        let written = written.to_ascii_lowercase().replace('-', "_");
        let paths = || self.keys.iter().map(|key| key.path.as_str());
        let last = |path: &str| path.rsplit('.').next() == Some(written.as_str());
        let same: Vec<_> = paths()
            .filter(|path| last(path))
            .map(|path| format!("`{path}`"))
            .collect();
        if !same.is_empty() {
            return Some(format!("did you mean {}?", same.join(" or ")));
        }
        if let Some(path) = renamed(&written) {
            return Some(format!("here that is `{path}`"));
        }
        let sections = paths()
            .filter_map(|path| path.rsplit_once('.'))
            .map(|(section, _)| section);
        nearest(&written, paths().chain(sections)).map(|name| format!("did you mean `{name}`?"))
    }

    /// Where a key belongs that stands in the wrong section, as one does that was appended to the file: behind the last
    /// header.
    fn elsewhere(&self, section: &str, written: &str) -> Option<String> {
        let mut sections: Vec<&str> = Vec::new();
        for key in self
            .keys
            .iter()
            .filter(|key| key.path.rsplit('.').next() == Some(written))
        {
            let (place, _) = key.path.rsplit_once('.').unwrap_or(("", written));
            if place != section && !sections.contains(&place) {
                sections.push(place);
            }
        }
        let header = |section: &&str| {
            if self.lists.iter().any(|list| list == section) {
                format!("`[[{section}]]`")
            } else {
                format!("`[{section}]`")
            }
        };
        Some(match sections[..] {
            [] => return None,
            [""] => format!("`{written}` stands at the top of the file, above the first `[section]`"),
            [only] => format!(
                "this key is `[{only}] {written}`: `{written}` belongs in {}",
                header(&only)
            ),
            _ => format!(
                "`{written}` belongs in {}: put it below that header",
                sections.iter().map(header).collect::<Vec<_>>().join(" or ")
            ),
        })
    }

    /// The same for what is written with dots, or as a section: `limits.permissions = 5` behind `[[listener]]`.
    fn section_elsewhere(&self, section: &str, entry: &Entry) -> Option<String> {
        let Value::Table(table) = &entry.node.value else {
            return None;
        };
        let prefix = format!("{}.", entry.key);
        let is_section = self.keys.iter().any(|key| key.path.starts_with(&prefix));
        if section.is_empty() || !is_section {
            return None;
        }
        Some(match &table.entries[..] {
            [one] if self.keys.iter().any(|key| key.path == format!("{prefix}{}", one.key)) => {
                let (section, key) = (&entry.key, &one.key);
                format!("this key is `[{section}] {key}`: put `{key}` below `[{section}]`")
            }
            _ => format!("it is a section of its own: put its keys below `[{}]`", entry.key),
        })
    }
}

/// What other TURN servers call it.
fn renamed(written: &str) -> Option<&'static str> {
    Some(match written {
        "static_auth_secret" | "use_auth_secret" | "shared_secret" | "turn_shared_secret" | "auth_secret" => {
            "credentials.secrets"
        }
        "user" | "lt_cred_mech" => "credentials.users",
        "external_ip" | "public_ip" | "relay_ipv4_addr" => "external.ipv4",
        "relay_ipv6_addr" => "external.ipv6",
        "relay_ip" => "relay.ipv4",
        "min_port" | "max_port" | "relay_min_port" | "relay_max_port" | "port_range" => "relay.ports",
        "listening_port" | "tls_listening_port" | "listening_ip" | "listen" | "port" => "listener.bind",
        "cert" | "tls_crt_file" | "cert_file" => "tls.certificate",
        "pkey" | "tls_key_file" | "key_file" => "tls.private_key",
        "user_quota" => "limits.allocations_per_user",
        "total_quota" => "limits.allocations",
        "allowed_peer_ip" | "whitelist_peers" | "whitelist" => "peers.allow",
        "denied_peer_ip" | "blacklist_peers" | "blacklist" => "peers.deny",
        "max_allocate_lifetime" => "turn.max_lifetime",
        "stale_nonce" => "turn.nonce_lifetime",
        "no_stun" => "turn.binding",
        "log_level" | "verbose" => "log.level",
        "prometheus" | "prometheus_port" => "admin.address",
        _ => return None,
    })
}
