//! Logs: one line per event, text or JSON, on standard error.
//!
//! Writing never holds up the process: lines go through a bounded queue to a thread of their own, and what does not fit
//! is dropped and counted. A line is one line whatever a client put into its username: control and text-direction
//! characters are escaped, and a line has a longest length. Deliberately absent: colours, files, rotation — the service
//! manager's work.

pub(super) mod level;

use core::fmt;
use std::io::{self, Write as _};

use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config::diagnostic::{Diagnostics, Severity};
use super::config::settings::LogSettings;
use super::tls_store::Loaded;

/// Lines waiting for the writer; beyond this they are dropped. When the server stops every allocation has its line at
/// once: twice as many as there are relay ports by default.
const QUEUE_LINES: usize = 64 * 1024;
/// Longest line in bytes. Nothing of ours comes near; a longer one is replaced by a note.
const MAX_LINE: usize = 8 * 1024;

/// Keeps the writer alive. When it is dropped, the lines still queued are written.
pub struct LogGuard {
    _worker: WorkerGuard,
    lost: ErrorCounter,
}

impl LogGuard {
    /// Counts lines that were dropped because the writer could not keep up.
    pub fn lost_lines(&self) -> ErrorCounter {
        self.lost.clone()
    }
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGuard")
            .field("lost", &self.lost.dropped_lines())
            .finish_non_exhaustive()
    }
}

/// Why logs could not be started.
#[derive(Debug)]
pub enum LogError {
    /// `log.level` is no filter.
    Filter(String),
    /// The process has a subscriber already.
    Twice,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(reason) => write!(f, "log.level: {reason}"),
            Self::Twice => f.write_str("logs were started twice"),
        }
    }
}

/// Starts logging to standard error for the whole process.
///
/// # Errors
/// When the level cannot be parsed, or logs were started before.
pub fn start(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("relay-log")
        .finish(io::stderr());
    let lost = writer.error_counter();
    subscriber(settings, writer)
        .map_err(LogError::Filter)?
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(LogGuard { _worker: worker, lost })
}

/// Makes a panic one line on standard error: where, in which thread, and what. It is written at once rather than through
/// the log's queue, because the process may end with it.
pub fn catch_panics(json: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or_default();
        let line = if json {
            let fields = [
                ("level", "ERROR"),
                ("message", "panic"),
                ("place", &place),
                ("thread", thread),
                ("panic", message),
            ];
            serde_json::Value::from_iter(fields).to_string()
        } else {
            format!("ERROR relay: panic in thread {thread} at {place}: {message:?}")
        };
        let _ = writeln!(io::stderr(), "{line}");
    }));
}

/// What [`start`] installs: writes every line to `writer`, whole.
///
/// # Errors
/// What is wrong with the level.
pub fn subscriber<W>(settings: &LogSettings, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&settings.level).map_err(|error| error.to_string())?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    Ok(if settings.json {
        let json = Format::default()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        Box::new(registry.with(layer.fmt_fields(JsonFields::new()).event_format(OneLine(json))))
    } else {
        Box::new(registry.with(layer.event_format(OneLine(Format::default().with_ansi(false)))))
    })
}

/// Logs what was found in a configuration, one line each.
pub fn diagnostics(found: &Diagnostics) {
    for mistake in found.iter() {
        let place = mistake
            .source
            .map(|source| format!("{source}:{}:{}", mistake.line, mistake.column));
        match mistake.severity {
            Severity::Error => tracing::error!(place, help = mistake.help, "{}", mistake.message),
            Severity::Warning => tracing::warn!(place, help = mistake.help, "{}", mistake.message),
        }
    }
}

/// Logs which certificate is served, and what is wrong with it nevertheless.
pub fn certificate(loaded: &Loaded) {
    let info = &loaded.info;
    if loaded.changed {
        tracing::info!(
            names = info.names.join(", "),
            not_after_unix = info.not_after.0,
            sha256 = info.fingerprint,
            self_signed = info.self_signed,
            "certificate in service"
        );
    }
    for warning in &loaded.warnings {
        tracing::warn!(names = info.names.join(", "), "{warning}");
    }
}

/// Makes one harmless line of what the inner format writes.
struct OneLine<F>(F);

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N> + Escape,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        if line.len() > MAX_LINE {
            return F::too_long(line.len(), &mut out);
        }
        for c in line.chars() {
            if is_harmful(c) {
                F::escape(c, &mut out)?
            } else {
                out.write_char(c)?
            }
        }
        out.write_char('\n')
    }
}

/// Characters that a terminal acts on or that make one line look like another.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

/// How a format writes a character that must not stand there as it is.
trait Escape {
    fn escape(c: char, out: &mut Writer<'_>) -> fmt::Result;
    /// Stands in for a line that is too long to be one of ours.
    fn too_long(length: usize, out: &mut Writer<'_>) -> fmt::Result;
}

impl<T> Escape for Format<Full, T> {
    fn escape(c: char, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{}", c.escape_unicode())
    }

    fn too_long(length: usize, out: &mut Writer<'_>) -> fmt::Result {
        writeln!(out, " WARN relay::log: a log line was withheld length={length}")
    }
}

impl<T> Escape for Format<Json, T> {
    /// Harmful characters are all in the basic plane, and stand in strings only.
    fn escape(c: char, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "\\u{:04x}", u32::from(c))
    }

    fn too_long(length: usize, out: &mut Writer<'_>) -> fmt::Result {
        let message = "a log line was withheld";
        writeln!(
            out,
            r#"{{"level":"WARN","message":"{message}","target":"relay::log","length":{length}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::service::config::settings::ClientIp;

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

    /// What `log` leaves behind.
    fn written(level: &str, json: bool, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let (writer, guard) = NonBlockingBuilder::default().finish(sink.clone());
        let settings = LogSettings {
            level: level.to_owned(),
            json,
            client_ip: ClientIp::Full,
        };
        tracing::subscriber::with_default(subscriber(&settings, writer).expect("level"), log);
        drop(guard);
        let bytes = sink.0.lock().expect("lock").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    const NASTY: &str = "a\nINFO forged\r\u{1b}[31m\u{9b}2J\u{202e}\u{2028}\"}\0é";

    #[test]
    fn a_username_cannot_forge_a_line_or_reach_the_terminal() {
        for json in [false, true] {
            let text = written("info", json, || {
                tracing::info!(username = NASTY, display = %NASTY, debug = ?NASTY, "{NASTY}");
            });
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.ends_with('\n'));
            assert!(!text.trim_end().contains(is_harmful), "{text:?}");
            assert!(text.contains('é'));
        }
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_on_the_top_level() {
        let text = written("info", true, || {
            tracing::info!(username = NASTY, bytes = 7_u64, "allocation ended")
        });
        let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(object["username"], NASTY);
        assert_eq!(object["bytes"], 7);
        assert_eq!(object["message"], "allocation ended");
        assert_eq!(object["level"], "INFO");
    }

    #[test]
    fn a_line_without_end_is_withheld_and_said_so() {
        let long = "x".repeat(MAX_LINE);
        let text = written("info", false, || tracing::info!("{long}"));
        assert!(text.len() < 200 && text.contains("withheld"), "{text}");
        let text = written("info", true, || tracing::info!("{long}"));
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        let fits = "x".repeat(MAX_LINE - 200);
        assert!(written("info", false, || tracing::info!("{fits}")).contains(&fits));
    }

    #[test]
    fn the_level_decides_what_is_written_and_a_bad_one_is_an_error() {
        assert_eq!(written("info", false, || tracing::debug!("quiet")), "");
        assert!(written("warn,relay=debug", false, || tracing::debug!("loud")).contains("loud"));
        let (writer, _guard) = NonBlockingBuilder::default().finish(io::sink());
        let settings = LogSettings {
            level: "relay=chatty".to_owned(),
            json: false,
            client_ip: ClientIp::Full,
        };
        assert!(subscriber(&settings, writer).is_err());
    }
}
