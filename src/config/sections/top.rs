//! The keys above all sections.

use core::time::Duration;
use std::path::PathBuf;

use super::{MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, is_host_name, quoted};
use crate::turn::reflection::LONGEST_REALM;

pub(in crate::config) struct RawTop {
    pub(in crate::config) realm: Located<String>,
    pub(in crate::config) state_dir: Located<Auto<PathBuf>>,
    pub(in crate::config) workers: Located<Auto<i128>>,
    pub(in crate::config) start_timeout: Located<Duration>,
    pub(in crate::config) shutdown_timeout: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTop {
    RawTop {
        realm: s.value("realm", "relay".to_owned()),
        state_dir: s.value("state_dir", Auto::Auto),
        workers: s.value("workers", Auto::Auto),
        start_timeout: s.within("start_timeout", MINUTE, Duration::ZERO..=10 * MINUTE),
        shutdown_timeout: s.within("shutdown_timeout", 10 * SECOND, SECOND..=10 * MINUTE),
    }
}

/// Reports what is wrong here. An answer over UDP must be small.
pub(in crate::config) fn check(raw: &RawTop, speaks_udp: bool, d: &mut Diagnostics) {
    let realm = &raw.realm;
    let spoiled = |c: char| c.is_whitespace() || "/:?#@[]".contains(c);
    if realm.value.contains(spoiled) {
        let host = host_in(&realm.value);
        let help = match is_host_name(host) {
            true => format!("write the name alone: {}", quoted(host)),
            false => "use the server's host name alone: no scheme, port, path or space".to_owned(),
        };
        let message = format!("`realm`: {:?} is not a host name", realm.value);
        d.push(Diagnostic::error(message).at(realm.place).help(help));
    } else if realm.value.is_empty() {
        d.push(
            Diagnostic::error("`realm` is empty")
                .at(realm.place)
                .help("use the server's host name"),
        );
    } else if realm.value.chars().count() > 127 || realm.value.len() > 763 {
        let diagnostic = Diagnostic::error("`realm` has more than 127 characters (RFC 8489 §14.9)").at(realm.place);
        d.push(diagnostic.help("use the server's host name"));
    } else if realm.value.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        let diagnostic = Diagnostic::error("`realm` holds a quote, a backslash or a control character").at(realm.place);
        d.push(diagnostic.help("use the server's host name"));
    } else if realm.value.len() > LONGEST_REALM && speaks_udp {
        let message = format!(
            "`realm` has {} bytes, and an answer over UDP to somebody who may have forged his address has room for \
             {LONGEST_REALM}",
            realm.value.len()
        );
        let help = "use a shorter one, your domain for example: clients learn it from the server, and `api.host` names the \
                    host in URIs";
        d.push(Diagnostic::error(message).at(realm.place).help(help));
    }
    if let Auto::Given(workers) = raw.workers.value
        && !(1..=1024).contains(&workers)
    {
        let diagnostic = Diagnostic::error(format!("`workers`: {workers} is out of range")).at(raw.workers.place);
        d.push(diagnostic.help("from 1 to 1024, or \"auto\" for one per core"));
    }
}

/// The host in what may be a URL, or a name with a port or a path.
fn host_in(text: &str) -> &str {
    let rest = text.trim();
    let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
    let rest = ["turns:", "turn:", "stuns:", "stun:"]
        .iter()
        .fold(rest, |rest, scheme| rest.strip_prefix(scheme).unwrap_or(rest));
    let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split(':').next().unwrap_or(rest).trim()
}
