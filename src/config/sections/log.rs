//! `[log]`.

use crate::config::log_level::{self, WrongLevel};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Choice, OneOf};
use crate::config::settings::ClientIp;

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
        level: s.value("level", "info".to_owned()),
        format: s.value("format", OneOf(Format::Text)),
        client_ip: s.value("client_ip", OneOf(ClientIp::Full)),
        allocation_lines_per_second: s.number("allocation_lines_per_second", 1000, 1..=1_000_000),
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
