//! The keys above all sections.

use core::time::Duration;
use std::path::PathBuf;

use super::{MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, is_host_name, quoted};
use crate::turn::reflection::LONGEST_REALM;

const REALM: ConfigKey = live(
    "realm",
    "Sent to clients in every challenge, and part of every key. Use the server's host name alone, or your \
     domain: no scheme, port, path or space.\n\n\
     At most 36 bytes \
     if a listener has `udp`, and preferably 12 or less: the server then offers SHA-256 to every client \
     over UDP as well ([why](security.md#amplification)). A change invalidates the running sessions of \
     static users.",
)
.kind("string, 1–127 characters");

const STATE_DIR: ConfigKey = restart(
    "state_dir",
    "Where the server keeps a generated secret, a self-signed certificate and the ACME account.\n\n\
     The directory and everything below it must belong to the server's user or to root and be writable by \
     its owner alone; otherwise the server refuses it. The server creates a missing directory. Auto: \
     `$STATE_DIRECTORY` (systemd sets it), else `/var/lib/relay` for root and for the user who owns it, \
     else `$XDG_STATE_HOME/relay` or `~/.local/state/relay`. Not needed if a secret and a certificate are \
     configured.",
);

const WORKERS: ConfigKey = restart(
    "workers",
    "Worker threads. Auto: one per core that this process may use.\n\n\
     Use fewer to leave cores to other programs; more than one per core does not help.",
)
.kind("1–1024 or `\"auto\"`");

const START_TIMEOUT: ConfigKey = restart(
    "start_timeout",
    "How long the server waits at start for an address or a name that the configuration uses and the \
     machine does not have yet.\n\n\
     Then it exits with status 1. See [operations](operations.md#addresses-that-come-late).",
);

const SHUTDOWN_TIMEOUT: ConfigKey = live(
    "shutdown_timeout",
    "How long a shutdown may take after SIGTERM.\n\n\
     Keep it below `TimeoutStopSec=`.",
);

pub(in crate::config) struct RawTop {
    pub(in crate::config) realm: Located<String>,
    pub(in crate::config) state_dir: Located<Auto<PathBuf>>,
    pub(in crate::config) workers: Located<Auto<i128>>,
    pub(in crate::config) start_timeout: Located<Duration>,
    pub(in crate::config) shutdown_timeout: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawTop {
    RawTop {
        realm: s.value(REALM, "relay".to_owned()),
        state_dir: s.value(STATE_DIR, Auto::Auto),
        workers: s.value(WORKERS, Auto::Auto),
        start_timeout: s.within(START_TIMEOUT, MINUTE, Duration::ZERO..=10 * MINUTE),
        shutdown_timeout: s.within(SHUTDOWN_TIMEOUT, 10 * SECOND, SECOND..=10 * MINUTE),
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
