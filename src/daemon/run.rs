//! The life of the server: start, signals, reload, shutdown.
//!
//! Nothing is bound before the whole configuration is valid, and nothing reports ready before
//! everything is bound (`super::start`). Then `super::server` waits for signals and other events.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit::{EXIT_CONFIG, EXIT_FAILED, say};
use super::signals::Signals;
use super::start::start;
use super::{awaiting, log};
use crate::config::{self, Loaded};
use crate::machine::{self, process};

/// Serves until a signal or an order ends it.
pub fn serve(path: Option<&Path>) -> ExitCode {
    // Before there is a second thread. If it fails, so does bind, with advice.
    let _ = process::use_low_ports();
    // Secrets are for this process alone, and for root. A failure is no reason to stop: this is a
    // second line of defence.
    let _ = process::forbid_looking_inside();
    if let Err(error) = machine::take_variables(config::is_variable) {
        say(&format!("cannot remove secrets from /proc/self/environ: {error}"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("relay-control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start the threads of the control plane: {error}"));
            return EXIT_FAILED.into();
        }
    };
    let (code, log) = runtime.block_on(live(path.map(Path::to_owned)));
    // A lookup that never answers must not delay the end, so running threads are not joined.
    runtime.shutdown_background();
    if let Some(log) = &log {
        log.caps().tell();
    }
    // Writes the queued lines.
    drop(log);
    code.into()
}

/// Returns the exit status, and the log while lines may be queued.
async fn live(path: Option<PathBuf>) -> (u8, Option<log::LogGuard>) {
    // First, so that no signal is lost from here on.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            say(&format!("signals cannot be received: {error}"));
            return (EXIT_FAILED, None);
        }
    };
    let loaded = match awaiting::configuration(path.as_deref(), &mut signals).await {
        Ok(loaded) => loaded,
        Err(code) => return (code, None),
    };
    let log = match log::start(&loaded.settings.log) {
        Ok(log) => log,
        Err(error) => {
            say(&error.to_string());
            return (EXIT_CONFIG, None);
        }
    };
    log::catch_panics(loaded.settings.log.json);
    (run(loaded, signals, &log).await, Some(log))
}

async fn run(loaded: Loaded, mut signals: Signals, log: &log::LogGuard) -> u8 {
    let started = tokio::select! {
        started = start(loaded, log) => started,
        // A file system may block, and nothing is bound yet.
        name = signals.stop.next() => {
            tracing::info!("{name}: stopping; the server had not started");
            return 0;
        }
    };
    match started {
        Ok(server) => server.run(signals).await,
        Err(failures) => {
            for failure in &failures {
                tracing::error!("{failure}");
            }
            tracing::error!(failures = failures.len(), "not started");
            EXIT_FAILED
        }
    }
}
