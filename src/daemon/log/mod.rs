//! Logs: one line per event, text or JSON, on standard error.
//!
//! Writing never holds up the process: lines go through a bounded queue to a thread of their own,
//! and what does not fit is dropped and counted. A value is one value whatever a client put into it
//! (`line`), and no kind of line comes more often than its budget allows (`cap`). Libraries write
//! errors only, unless `log.level` names them (`level`). Deliberately absent: colours, files,
//! rotation — the service manager's work.

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

/// Lines waiting for the writer; beyond this they are dropped. When the server stops every
/// allocation has its line at once: twice as many as there are relay ports by default.
const QUEUE_LINES: usize = 64 * 1024;

/// Keeps the writer alive. When it is dropped, the lines still queued are written.
pub struct LogGuard {
    _worker: WorkerGuard,
    lost: ErrorCounter,
    caps: Arc<LineBudgets>,
    filter: LogFilter,
}

/// What is logged, while the process runs.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: Arc<str>,
}

impl LogFilter {
    /// Logs by `level`, written as `log.level` is. `None`: as configured.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn set(&self, level: Option<&str>) -> Result<(), String> {
        let level = level.unwrap_or(&self.configured);
        log_level::check(level).map_err(|wrong| format!("{}; {}", wrong.message, wrong.help))?;
        let filter = EnvFilter::try_new(log_level::filter(level)).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }
}

impl LogGuard {
    /// Changes what is logged.
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }

    /// Counts lines that were dropped because the writer could not keep up.
    pub fn lost_lines(&self) -> ErrorCounter {
        self.lost.clone()
    }

    /// Counts lines that were left out because there were too many of their kind, and tells of
    /// them.
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

/// Makes a panic one line on standard error: where, in which thread, and what. It is written at
/// once rather than through the log's queue, because the process may end with it.
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
    capped(settings, writer, Arc::new(LineBudgets::new())).map(|(subscriber, _)| subscriber)
}

/// A subscriber, and what changes its filter.
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

#[cfg(test)]
mod tests;
