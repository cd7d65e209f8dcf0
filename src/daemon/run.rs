//! The life of the server: start, signals, reload, the end.
//!
//! Nothing is bound before the whole configuration is found good, and nothing is said to be ready
//! before everything is bound (`super::start`). From then on this file waits: for a signal, for the
//! watchdog's next beat, for a certificate to change, for something to die.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit::{EXIT_CONFIG, EXIT_FAILED, say};
use super::signals::Signals;
use super::start::start;
use super::{awaiting, log};
use crate::config::{self, Loaded};
use crate::machine::{self, process};

/// Serves until told to stop.
pub fn serve(path: Option<&Path>) -> ExitCode {
    // Before there is a second thread. Where it fails, so does binding, with advice.
    let _ = process::use_low_ports();
    // Secrets are for this process alone, and for root. What is refused here would only have been a
    // second wall.
    let _ = process::forbid_looking_inside();
    if let Err(error) = machine::take_variables(config::is_variable) {
        say(&format!(
            "what the environment holds stays in /proc/self/environ: {error}"
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("relay-control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no threads for the control plane: {error}"));
            return EXIT_FAILED.into();
        }
    };
    let (code, log) = runtime.block_on(live(path.map(Path::to_owned)));
    // What still runs belongs to nobody: a lookup that never answers must not hold up the end.
    runtime.shutdown_background();
    if let Some(log) = &log {
        log.caps().tell();
    }
    // Writes what is still queued.
    drop(log);
    code.into()
}

/// The exit status, and the log as long as something may be in it.
async fn live(path: Option<PathBuf>) -> (u8, Option<log::LogGuard>) {
    // Before anything else, so that no signal is lost from here on.
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
    (run(path, loaded, signals, &log).await, Some(log))
}

async fn run(path: Option<PathBuf>, loaded: Loaded, mut signals: Signals, log: &log::LogGuard) -> u8 {
    let started = tokio::select! {
        started = start(path, loaded, log) => started,
        // While a file system is waited for, and nothing is bound yet.
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
