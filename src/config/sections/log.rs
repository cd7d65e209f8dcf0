//! `[log]`.

use crate::config::log_level::{self, WrongLevel};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Choice, OneOf};
use crate::config::settings::ClientIp;
use crate::shard::ShardConfig;

const LEVEL: ConfigKey = restart(
    "level",
    "What is logged: `\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"`, `\"trace\"`, `\"off\"`; per part: \
     `\"info,relay::allocation=warn\"`.\n\n\
     Libraries log errors only, unless they are named: \
     `\"info,rustls=debug\"`. Other words, and parts that write no line, are errors.",
);

const FORMAT: ConfigKey = restart("format", "How log lines are written. JSON: one object per line.");

const CLIENT_IP: ConfigKey = restart("client_ip", "Client addresses whole, as /24 and /48, or not at all.");

const ALLOCATION_LINES_PER_SECOND: ConfigKey = restart(
    "allocation_lines_per_second",
    "Log lines about allocations that begin, move or end, per second, all clients together; the burst is \
     twenty seconds' worth.\n\n\
     Lines left out are counted, and reported once a minute. The lines of a shutdown are always written.",
);

pub(in crate::config) struct RawLog {
    pub(in crate::config) level: Located<String>,
    pub(in crate::config) format: Located<OneOf<Format>>,
    pub(in crate::config) client_ip: Located<OneOf<ClientIp>>,
    pub(in crate::config) allocation_lines_per_second: Located<u32>,
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Format {
    Text,
    Json,
}

impl Choice for Format {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choice for ClientIp {
    const ALL: &'static [(&'static str, Self)] =
        &[("full", Self::Full), ("truncated", Self::Truncated), ("off", Self::Off)];
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawLog {
    RawLog {
        level: s.value(LEVEL, "info".to_owned()),
        format: s.value(FORMAT, OneOf(Format::Text)),
        client_ip: s.value(CLIENT_IP, OneOf(ClientIp::Full)),
        allocation_lines_per_second: s.number(
            ALLOCATION_LINES_PER_SECOND,
            ShardConfig::default().allocation_lines,
            1..=1_000_000,
        ),
    }
}

/// Reports a level that says nothing.
pub(in crate::config) fn check(log: &RawLog, d: &mut Diagnostics) {
    let level = &log.level;
    if let Err(WrongLevel { message, help }) = log_level::check(&level.value) {
        let diagnostic = Diagnostic::error(format!("`log.level`: {message}")).at(level.place);
        d.push(diagnostic.help(help));
    }
}
