use std::io::Write;
use std::sync::Mutex;

use proptest::prelude::*;

use super::line::{MAX_LINE, MAX_VALUE};
use super::*;
use crate::config::settings::ClientIp;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn settings(level: &str, json: bool) -> LogSettings {
    LogSettings {
        level: level.to_owned(),
        json,
        client_ip: ClientIp::Full,
        allocation_lines_per_second: 1000,
    }
}

/// The lines that `log` writes.
fn written(level: &str, json: bool, log: impl FnOnce()) -> String {
    told(level, json, |_| log()).0
}

/// The same, and the number of omitted lines.
fn told(level: &str, json: bool, log: impl FnOnce(&LineBudgets)) -> (String, u64) {
    let sink = Sink::default();
    let caps = Arc::new(LineBudgets::new());
    let target = sink.clone();
    let (subscriber, _) = capped(&settings(level, json), move || target.clone(), Arc::clone(&caps)).expect("level");
    tracing::subscriber::with_default(subscriber, || log(&caps));
    let bytes = sink.0.lock().expect("lock").clone();
    (String::from_utf8(bytes).expect("UTF-8"), caps.left_out())
}

/// A line, parsed as strictly as its format allows.
#[derive(Debug, PartialEq)]
struct Read {
    head: String,
    message: String,
    fields: Vec<(String, String)>,
}

/// Parses the quoted text at the front. Returns it, and the rest.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '0' => value.push('\0'),
                'u' => {
                    let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    value.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
                    chars = rest.chars();
                }
                c @ ('"' | '\\') => value.push(c),
                _ => return None,
            },
            c => value.push(c),
        }
    }
}

/// The position of the first ` name=`.
fn first_field(text: &str) -> usize {
    let is_name = |rest: &str| {
        let name = rest.split('=').next().unwrap_or_default();
        name.len() < rest.len() && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    text.match_indices(' ')
        .find(|&(at, _)| is_name(&text[at + 1..]))
        .map_or(text.len(), |(at, _)| at)
}

fn read(line: &str) -> Option<Read> {
    let line = line.strip_suffix('\n')?;
    let (head, rest) = line.split_once(": ")?;
    let (message, mut rest) = match unquote(rest) {
        Some(quoted) => quoted,
        None => {
            let at = first_field(rest);
            (rest[..at].to_owned(), &rest[at..])
        }
    };
    let mut fields = Vec::new();
    while let Some(field) = rest.strip_prefix(' ') {
        let (name, value) = field.split_once('=')?;
        let (value, after) = match unquote(value) {
            Some(quoted) => quoted,
            None => {
                let end = value.find(' ').unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        fields.push((name.to_owned(), value));
        rest = after;
    }
    rest.is_empty().then(|| Read {
        head: head.split_once(' ').expect("a time").1.to_owned(),
        message,
        fields,
    })
}

const NASTY: &str = "a\nINFO forged\r\u{1b}[31m\u{9b}2J\u{202e}\u{2028}\"}\0é";

fn anything() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-z =\"'\\\\\n{}:,]{0,30}",
        "([a-z]{0,4} user=[a-z]{1,4} ?){0,3}",
        Just(NASTY.to_owned()),
        "[\u{200b}\u{202e}\u{feff}\u{301}\u{e000}\u{10ffff}\u{7f}\u{85}a=\" ]{0,20}",
    ]
}

proptest! {
    /// Whatever a client puts into values and message, a reader finds exactly those values.
    #[test]
    fn no_value_adds_a_field_or_a_line(shown in anything(), text in anything(), message in anything()) {
        let log = || tracing::info!(target: "relay::x", user = %shown, text = text.as_str(), debug = ?shown, count = 7, "{message}");
        let line = written("info", false, log);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').contains(is_harmful), "{:?}", line);
        let expected = Read {
            head: " INFO relay::x".to_owned(),
            message: message.clone(),
            fields: vec![
                ("user".to_owned(), shown.clone()),
                ("text".to_owned(), text.clone()),
                ("debug".to_owned(), format!("{shown:?}")),
                ("count".to_owned(), "7".to_owned()),
            ],
        };
        prop_assert_eq!(read(&line), Some(expected), "{:?}", line);

        let line = written("info", true, log);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').contains(is_harmful), "{:?}", line);
        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        prop_assert_eq!(object.as_object().map(serde_json::Map::len), Some(8), "{:?}", line);
        prop_assert_eq!(&object["user"], &shown);
        prop_assert_eq!(&object["text"], &text);
        prop_assert_eq!(&object["debug"], &format!("{shown:?}"));
        prop_assert_eq!(&object["message"], &message);
        prop_assert_eq!(&object["level"], "INFO");
        prop_assert_eq!(&object["target"], "relay::x");
        prop_assert_eq!(&object["count"], 7);
    }
}

#[test]
fn a_line_reads_as_it_always_did_where_nothing_disturbs() {
    let line = written("info", false, || {
        let client = "192.0.2.1:5000";
        tracing::info!(target: "relay::x", client = %client, reason = "expired", age = 1.5, known = true, "it has ended");
    });
    let (_, rest) = line.split_once("Z ").expect("a time in UTC");
    assert_eq!(
        rest,
        " INFO relay::x: it has ended client=192.0.2.1:5000 reason=\"expired\" age=1.5 known=true\n"
    );
}

#[test]
fn a_long_value_is_cut_and_a_line_that_is_long_nevertheless_is_withheld_and_said_so() {
    let long = "é".repeat(50_000);
    for json in [false, true] {
        let line = written("info", json, || tracing::info!(user = %long, "short"));
        let cut = format!("{}…", "é".repeat(MAX_VALUE / 2));
        assert!(line.contains(&cut) && line.len() < MAX_VALUE + 300, "{}", line.len());
        let line = written("info", json, || {
            tracing::info!(a = %long, b = %long, c = %long, d = %long, e = %long, "{long}");
        });
        assert!(line.len() < 200 && line.contains("withheld"), "{line}");
        let escaped = "\u{10ffff}".repeat(MAX_LINE);
        let line = written("info", json, || tracing::info!(a = %escaped, b = %escaped, "short"));
        assert!(line.len() <= MAX_LINE + 1, "{}", line.len());
    }
}

#[test]
fn the_level_decides_what_is_written_and_a_bad_one_is_an_error() {
    assert_eq!(written("info", false, || tracing::debug!("quiet")), "");
    assert!(written("warn,relay=debug", false, || tracing::debug!("loud")).contains("loud"));
    assert_eq!(written("off", false, || tracing::error!("off")), "");
    assert!(subscriber(&settings("relay=chatty", false), io::sink).is_err());
}

/// rustls warns of a malformed server name and quotes all of it: 8 KiB that a client chose, for
/// each connection.
#[test]
fn libraries_write_errors_alone_unless_they_are_named() {
    let log = || {
        tracing::warn!(target: "rustls::msgs::handshake", "Illegal SNI hostname received");
        tracing::info!(target: "hyper::proto", "chatter");
        tracing::error!(target: "tokio_rustls", "an error");
    };
    for level in ["info", "debug", "trace", "warn,relay::shard=debug"] {
        let lines = written(level, false, log);
        assert!(
            lines.contains("an error") && lines.lines().count() == 1,
            "{level}: {lines}"
        );
    }
    assert!(written("info,rustls=warn", false, log).contains("Illegal SNI"));
    assert_eq!(written("off", false, log), "");
}

#[test]
fn each_kind_of_line_has_a_budget_for_all_who_cause_it_and_what_is_left_out_is_said() {
    const MANY: u64 = 20_000;
    let (lines, left_out) = told("info", false, |caps| {
        for n in 0..MANY {
            tracing::warn!(target: "relay::edge::front_door::connection", client = n, "refused a connection");
            tracing::error!(target: "rustls", client = n, "a library's");
            tracing::info!(target: "relay::allocation", n, "an audit line, bounded elsewhere");
        }
        tracing::warn!(target: "relay::edge::front_door::connection", "another kind");
        caps.tell();
        caps.tell();
    });
    let count = |what: &str| lines.lines().filter(|line| line.contains(what)).count() as u64;
    let ours = count(" WARN relay::edge::front_door::connection: refused");
    let theirs = count("ERROR rustls: a library's");
    // A few seconds may pass meanwhile.
    assert!(
        (50..70).contains(&ours) && (50..70).contains(&theirs),
        "{ours} {theirs}"
    );
    assert_eq!(count("an audit line"), MANY);
    assert_eq!(count("another kind"), 1);
    let said = |like: &str, left: u64| {
        let expected =
            [("count", left.to_string()), ("like", like.to_owned())].map(|(name, value)| (name.to_owned(), value));
        let lines = lines.lines().filter_map(|line| read(&format!("{line}\n")));
        lines
            .filter(|line| line.message.starts_with("lines were left out") && line.fields == expected)
            .count()
    };
    assert_eq!(
        said("relay::edge::front_door::connection: refused a connection", MANY - ours),
        1,
        "{left_out}"
    );
    assert_eq!(said("rustls: a library's", MANY - theirs), 1);
    assert_eq!(left_out, 2 * MANY - ours - theirs);
    // At the level of the omitted lines, and none for the kind without omitted lines.
    assert_eq!(count("lines were left out"), 2, "{lines}");
    assert_eq!(count(" WARN relay::daemon::log: lines were left out"), 2);
}

#[test]
fn who_looks_for_a_fault_has_a_larger_budget_and_a_bound_nevertheless() {
    let (lines, left_out) = told("debug", false, |caps| {
        for n in 0..50_000 {
            tracing::debug!(target: "relay::edge::front_door::connection", n, "connection closed");
        }
        caps.tell();
    });
    let said = " INFO relay::daemon::log: lines were left out";
    assert_eq!(lines.matches(said).count(), 1);
    let lines = lines.lines().count() as u64 - 1;
    assert!((1000..5000).contains(&lines), "{lines}");
    assert_eq!(lines + left_out, 50_000);
}

/// The hook applies to the whole process, so this runs in a process with this test only.
#[test]
fn a_panic_is_one_line_that_says_where_and_what() {
    const KIND: &str = "RELAY_TEST_PANIC";
    if let Ok(kind) = std::env::var(KIND) {
        catch_panics(kind == "json");
        panic!("on \"purpose\"\nin two lines");
    }
    for kind in ["text", "json"] {
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program)
            .args([
                "--exact",
                "daemon::log::tests::a_panic_is_one_line_that_says_where_and_what",
            ])
            .arg("--nocapture")
            .env(KIND, kind)
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        let told = |line: &&str| line.contains("src/daemon/log/tests.rs:") && line.contains("on ");
        let line = errors.lines().find(told).unwrap_or_else(|| panic!("{errors}"));
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(object) => {
                assert_eq!(
                    (kind, &object["panic"]),
                    ("json", &"on \"purpose\"\nin two lines".into())
                );
                assert_eq!(
                    (&object["level"], &object["message"]),
                    (&"ERROR".into(), &"panic".into())
                );
            }
            Err(_) => assert!(
                kind == "text" && line.starts_with("ERROR relay: panic in thread "),
                "{line}"
            ),
        }
    }
}

#[test]
fn why_there_is_no_log_is_said() {
    let wrong = LogError::Filter("no level".to_owned());
    assert_eq!(wrong.to_string(), "log.level: no level");
    assert_eq!(LogError::Twice.to_string(), "logs were started twice");
}

#[test]
fn a_line_is_written_as_long_as_it_may_be_and_not_a_byte_longer() {
    let written = |padding: usize| {
        // Values are cut, so several are needed for a long line.
        let (a, b) = ("a".repeat(2040), "b".repeat(padding));
        written("info", false, || tracing::info!(a, b = a, c = a, d = b, "long"))
    };
    let short = written(0).len() - 1;
    let whole = written(MAX_LINE - short);
    assert_eq!(whole.len(), MAX_LINE + 1, "and its end");
    assert!(!whole.contains("withheld"));
    assert!(written(MAX_LINE - short + 1).contains("withheld"));
}

#[test]
fn each_kind_of_value_is_written_as_it_is() {
    let line = written("info", false, || {
        tracing::info!(less = -7, infinite = f64::INFINITY, empty = %"", quote = %"it's", "it's = all");
    });
    assert!(
        line.ends_with(": \"it's = all\" less=-7 infinite=\"inf\" empty=\"\" quote=\"it's\"\n"),
        "{line}"
    );
}

#[test]
fn what_no_line_may_hold_is_what_moves_a_terminal_or_turns_text_round() {
    for c in [
        '\n', '\u{1b}', '\u{9b}', '\u{200e}', '\u{2028}', '\u{202e}', '\u{2069}', '\u{61c}',
    ] {
        assert!(is_harmful(c), "{c:?}");
    }
    for c in ['a', ' ', 'é', '"', '\u{200d}', '\u{202f}', '\u{206a}'] {
        assert!(!is_harmful(c), "{c:?}");
    }
}

/// Lines of libraries that use the crate `log`, as `tracing_log` passes them on.
#[test]
fn a_library_is_named_as_the_target_and_its_source_is_left_out() {
    let line = written("info,hyper=info", false, || {
        tracing::info!(target: "hyper", { log.target = "hyper::proto", log.line = 7, n = 1 }, "words");
    });
    assert!(line.ends_with(" INFO hyper::proto: words n=1\n"), "{line}");
}
