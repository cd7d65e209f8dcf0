//! Logs: one line per event, text or JSON, on standard error.
//!
//! Writing never delays the process: lines go through a bounded queue to a thread of their own.
//! Lines that do not fit are dropped and counted. A value stays one value whatever a client put
//! into it (`line`), and no kind of line exceeds its budget (`cap`). Libraries log errors only,
//! unless `log.level` names them (`level`). Colours, files and rotation are the service manager's
//! work.

mod cap;
mod line;

use core::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use self::cap::Capped;
pub use self::cap::LineBudgets;
use self::line::Lines;
pub use self::line::is_harmful;

use crate::config::log_level;
use crate::config::reader::diagnostic::{Diagnostics, Severity};
use crate::config::settings::LogSettings;

/// Lines waiting for the writer; further ones are dropped. At a stop every allocation has its line
/// at once: this is twice the default number of relay ports.
const QUEUE_LINES: usize = 64 * 1024;

/// Keeps the writer alive. Dropping it writes the queued lines.
pub struct LogGuard {
    _worker: WorkerGuard,
    lost: ErrorCounter,
    caps: Arc<LineBudgets>,
    filter: LogFilter,
}

/// Changes the filter while the process runs.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: Arc<str>,
}

impl LogFilter {
    /// Sets the filter to `level`, in the format of `log.level`. `None`: the configured one.
    ///
    /// # Errors
    /// What is wrong with it, and the correct format.
    pub fn set(&self, level: Option<&str>) -> Result<(), String> {
        let level = level.unwrap_or(&self.configured);
        log_level::check(level).map_err(|wrong| format!("{}; {}", wrong.message, wrong.help))?;
        let filter = EnvFilter::try_new(log_level::filter(level)).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }
}

impl LogGuard {
    /// The handle that changes the filter.
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }

    /// Counts lines that were dropped because the writer could not keep up.
    pub fn lost_lines(&self) -> ErrorCounter {
        self.lost.clone()
    }

    /// Counts and reports lines that were omitted because there were too many of their kind.
    pub fn caps(&self) -> Arc<LineBudgets> {
        Arc::clone(&self.caps)
    }
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGuard")
            .field("lost", &self.lost.dropped_lines())
            .finish_non_exhaustive()
    }
}

/// Why logging could not start.
#[derive(Debug)]
pub enum LogError {
    /// `log.level` is not a valid filter.
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

/// Starts to log to standard error for the whole process.
///
/// # Errors
/// When the level cannot be parsed, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("relay-log")
        .finish(io::stderr());
    let lost = writer.error_counter();
    let caps = Arc::new(LineBudgets::new());
    let (subscriber, filter) = capped(settings, writer, Arc::clone(&caps)).map_err(LogError::Filter)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(LogGuard {
        _worker: worker,
        lost,
        caps,
        filter,
    })
}

/// Writes a panic as one line on standard error: place, thread and message. It is written directly
/// and not through the log's queue, because the process may end with it.
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

/// The subscriber that [`start`] installs. It writes every line to `writer` in one call.
///
/// # Errors
/// What is wrong with the level.
pub fn subscriber<W>(settings: &LogSettings, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    capped(settings, writer, Arc::new(LineBudgets::new())).map(|(subscriber, _)| subscriber)
}

/// A subscriber, and the handle that changes its filter.
type Filtered = (Box<dyn Subscriber + Send + Sync>, LogFilter);

fn capped<W>(settings: &LogSettings, writer: W, caps: Arc<LineBudgets>) -> Result<Filtered, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(log_level::filter(&settings.level)).map_err(|error| error.to_string())?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false)
        .event_format(if settings.json { Lines::Json } else { Lines::Text });
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter).with(Capped(caps));
    let filter = LogFilter {
        handle,
        configured: settings.level.as_str().into(),
    };
    Ok((Box::new(registry.with(layer)), filter))
}

/// Logs the diagnostics of a configuration, one line each.
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

#[cfg(test)]
mod tests;
