//! `log.level`: a level for everything, and others for parts of the program. Written wrong it would be a filter that
//! lets nothing through, so each word is compared with what there is.

use tracing_subscriber::EnvFilter;

use crate::config::reader::value::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Where lines come from: the modules of this program that write any, and the names given to groups of events. A test
/// holds this list to the sources.
const TARGETS: [&str; 27] = [
    "relay::allocation",
    "relay::control::api",
    "relay::control::operator",
    "relay::daemon::banner",
    "relay::daemon::external_address",
    "relay::daemon::life",
    "relay::daemon::log",
    "relay::daemon::orders",
    "relay::daemon::own_address",
    "relay::daemon::peer_policy",
    "relay::daemon::run",
    "relay::daemon::server",
    "relay::daemon::start",
    "relay::daemon::systemd",
    "relay::edge::certificates::acme",
    "relay::edge::certificates::dtls_context",
    "relay::edge::certificates::report",
    "relay::edge::front_door::accept",
    "relay::edge::front_door::backend",
    "relay::edge::front_door::connection",
    "relay::edge::front_door::preface",
    "relay::edge::front_door::socket",
    "relay::edge::front_door::upstream",
    "relay::edge::http3_backend",
    "relay::http3",
    "relay::refusal",
    "relay::shard",
];

/// What every target of this program begins with.
const OWN: &str = "relay";

/// Libraries that write lines of their own, where somebody looks for a fault in them.
const LIBRARIES: [&str; 6] = ["hyper", "hyper_util", "mio", "rustls", "rustls_acme", "tokio_rustls"];

/// Why a level cannot be what was meant, and what to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrongLevel {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: String,
}

fn wrong(message: impl Into<String>, help: impl Into<String>) -> WrongLevel {
    WrongLevel {
        message: message.into(),
        help: help.into(),
    }
}

/// Judges the value of `log.level`.
///
/// # Errors
/// For the first part that is neither a level nor a place lines come from.
pub(crate) fn check(text: &str) -> Result<(), WrongLevel> {
    if text.trim().is_empty() {
        return Err(wrong(
            "it is empty",
            "for example \"info\"; \"off\" switches the log off",
        ));
    }
    for part in text.split(',').map(str::trim) {
        if part.is_empty() {
            return Err(wrong(
                "there is a comma too many",
                "for example \"info,relay::allocation=warn\"",
            ));
        }
        match part.split_once('=') {
            // Spans and fields, which this program has none of, would match nothing.
            _ if part.contains(['[', ']', '{', '}']) => {
                return Err(wrong(
                    format!("{part:?} filters by spans, and there are none"),
                    "for example \"info,relay::allocation=warn\"",
                ));
            }
            Some((target, level)) => {
                check_target(target.trim())?;
                check_word(level.trim())?;
            }
            None if is_target(part) => {}
            None if part.contains("::") => check_target(part)?,
            None => check_word(part)?,
        }
    }
    EnvFilter::try_new(filter(&without_spaces(text)))
        .map(drop)
        .map_err(|error| {
            wrong(
                error.to_string(),
                "for example \"info\", \"debug\" or \"info,relay::allocation=warn\"",
            )
        })
}

/// The same, as the filter's library wants it. A level alone is for this program's own lines. Libraries write errors, and
/// more only where they are named: what strangers send them stands in their warnings.
pub(crate) fn filter(text: &str) -> String {
    let is_level = |part: &&str| LEVELS.contains(&part.to_ascii_lowercase().as_str());
    let level = text.split(',').rfind(is_level);
    let others = match level {
        Some(level) if level.eq_ignore_ascii_case("off") => "off",
        _ => "error",
    };
    let own = |part: &str| match is_level(&part) {
        true => format!("{OWN}={part}"),
        false => part.to_owned(),
    };
    let parts = text.split(',').map(own);
    [others.to_owned()]
        .into_iter()
        .chain(parts)
        .collect::<Vec<_>>()
        .join(",")
}

/// The value without its spaces.
pub(crate) fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn check_word(word: &str) -> Result<(), WrongLevel> {
    let lower = word.to_ascii_lowercase();
    if LEVELS.contains(&lower.as_str()) {
        return Ok(());
    }
    let meant = match lower.as_str() {
        "verbose" | "fine" | "all" => Some("debug"),
        "warning" => Some("warn"),
        "notice" | "information" | "default" | "normal" => Some("info"),
        "fatal" | "critical" | "crit" | "alert" | "emerg" | "err" => Some("error"),
        "none" | "quiet" | "silent" | "false" | "no" => Some("off"),
        other => nearest(other, LEVELS.into_iter()),
    };
    let all = "\"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"";
    Err(wrong(
        format!("{word:?} is not a level"),
        match meant {
            Some(meant) => format!("did you mean \"{meant}\"? A level is one of {all}"),
            None => format!("a level is one of {all}"),
        },
    ))
}

/// A filter holds for all targets that begin with it.
fn is_target(word: &str) -> bool {
    let leads_to = |target: &&str| {
        target
            .strip_prefix(word)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    TARGETS.iter().any(leads_to) || LIBRARIES.contains(&word.split("::").next().unwrap_or(word))
}

fn check_target(target: &str) -> Result<(), WrongLevel> {
    if is_target(target) {
        return Ok(());
    }
    let help = match nearest(target, TARGETS.into_iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("it can be {}", TARGETS.join(", ")),
    };
    Err(wrong(format!("no line of the log comes from {target:?}"), help))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn levels_and_places_that_exist_are_taken() {
        for text in [
            "info",
            "off",
            "WARN",
            "debug,relay::allocation=warn",
            "info, relay::shard=trace",
            "warn,relay=debug",
            "relay",
            "relay::edge::front_door=debug",
            "info,rustls=debug",
            "error,hyper::proto=trace",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_level_is_for_our_own_lines_and_libraries_write_errors_unless_they_are_named() {
        for (text, expected) in [
            ("info", "error,relay=info"),
            ("off", "off,relay=off"),
            ("DEBUG", "error,relay=DEBUG"),
            ("info,rustls=debug", "error,relay=info,rustls=debug"),
            ("relay::shard=trace", "error,relay::shard=trace"),
            ("off,relay::allocation=info", "off,relay=off,relay::allocation=info"),
        ] {
            assert_eq!(filter(text), expected);
            EnvFilter::try_new(expected).expect(expected);
        }
    }

    #[test]
    fn what_would_switch_the_log_off_is_refused_with_what_was_meant() {
        for (text, help) in [
            ("verbose", "did you mean \"debug\"?"),
            ("WARNING", "did you mean \"warn\"?"),
            ("information", "did you mean \"info\"?"),
            ("inof", "did you mean \"info\"?"),
            ("loud", "a level is one of"),
            ("3", "a level is one of"),
            ("info,relay::alocation=warn", "did you mean \"relay::allocation\"?"),
            ("info,coturn=debug", "it can be relay::allocation"),
            ("relay::allocation=warning", "did you mean \"warn\"?"),
            ("info,relay::shards", "did you mean \"relay::shard\"?"),
            ("info,", "for example"),
            ("info;debug", "did you mean \"info\"?"),
            ("relay[span]=debug", "for example"),
            (" ", "for example"),
        ] {
            let wrong = check(text).expect_err(text);
            assert!(wrong.help.contains(help), "{text}: {wrong:?}");
        }
    }

    /// The module of a source file below `src`.
    fn module(path: &Path) -> String {
        let path = path.with_extension("");
        let parts = path
            .iter()
            .filter_map(|part| part.to_str())
            .filter(|part| *part != "mod");
        ["relay"].into_iter().chain(parts).collect::<Vec<_>>().join("::")
    }

    fn targets(dir: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                targets(&path, root, found);
                continue;
            }
            if path.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for kind in ["error", "warn", "info", "debug", "trace", "event"] {
                for (at, call) in code.match_indices(&format!("tracing::{kind}!(")) {
                    let arguments = code[at + call.len()..].trim_start();
                    let named = arguments
                        .strip_prefix("target: \"")
                        .and_then(|rest| rest.split('"').next());
                    let own = || module(path.strip_prefix(root).expect("below the root"));
                    found.insert(named.map_or_else(own, str::to_owned));
                }
            }
        }
    }

    #[test]
    fn the_list_of_targets_is_what_the_sources_write() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = BTreeSet::new();
        targets(&root, &root, &mut found);
        let listed: BTreeSet<String> = TARGETS.iter().map(|target| (*target).to_owned()).collect();
        assert_eq!(listed, found);
    }
}
