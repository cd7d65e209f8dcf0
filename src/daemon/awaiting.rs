//! Loads the configuration at start, and waits for what it names and this machine lacks: an address
//! from DHCP, a VPN or a failover, a name that the resolver cannot answer before the network is up.
//! Such things appear without an operator, so the server waits for them, unlike errors, which end
//! the process at once (docs/decisions/0026-waiting-at-start.md).

use core::time::Duration;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::exit::{EXIT_CONFIG, EXIT_FAILED, say};
use super::signals::Signals;
use super::systemd;
use crate::config::{self, Loaded};
use crate::machine::ThisMachine;
use crate::net::clock::Clock;

/// Pause between two tries: a machine with a fresh address serves at most this much later.
const PAUSE: Duration = Duration::from_secs(1);
/// A resolver without a network is slow. After this long a status line reports what the server
/// waits for.
const SLOW: Duration = Duration::from_secs(2);
/// The time that the service manager grants beyond each try: for slow name and STUN servers.
const GRANT: Duration = Duration::from_secs(120);

/// Loads the configuration, and waits for missing names and addresses.
///
/// # Errors
/// The exit status: the configuration has errors, the wait is over, or a signal ended it.
pub(super) async fn configuration(path: Option<&Path>, signals: &mut Signals) -> Result<Loaded, u8> {
    let clock = Clock::default();
    let begin = clock.mono();
    let mut told = String::new();
    loop {
        let path = path.map(Path::to_owned);
        let outcome = load(path, told.is_empty(), signals).await?;
        let missing = match outcome {
            Ok(loaded) => {
                if !told.is_empty() {
                    say("everything the configuration names is there now");
                }
                return Ok(loaded);
            }
            Err(missing) => missing,
        };
        let text = missing.for_stderr();
        if !missing.may_pass() {
            say(&text);
            return Err(EXIT_CONFIG);
        }
        let limit = missing.start_timeout();
        if told != text {
            say(&text);
            say(&format!(
                "waiting for it, {limit:?} at most (start_timeout); SIGHUP tries again at once"
            ));
            told = text;
        }
        if clock.mono() - begin >= limit {
            say(&format!("not started: still missing after {limit:?}"));
            return Err(EXIT_FAILED);
        }
        let first = missing.iter().next().map_or("", |found| found.message);
        systemd::awaiting(&format!("waiting: {first}"), GRANT);
        tokio::select! {
            () = sleep(PAUSE) => {}
            _ = signals.hangup.recv() => {}
            name = signals.stop.next() => return Err(stopped(name)),
        }
    }
}

type Outcome = Result<Loaded, config::reader::diagnostic::Diagnostics>;

/// Loads once, on a thread that may block.
async fn load(path: Option<PathBuf>, first: bool, signals: &mut Signals) -> Result<Outcome, u8> {
    let mut look = spawn_blocking(move || config::load(path.as_deref(), &ThisMachine::default()));
    let mut slow = core::pin::pin!(sleep(SLOW));
    let mut tell = first;
    loop {
        tokio::select! {
            outcome = &mut look => {
                return outcome.map_err(|error| {
                    say(&format!("the configuration cannot be read: {error}"));
                    EXIT_FAILED
                });
            }
            () = &mut slow, if tell => {
                tell = false;
                say("still looking up the names and addresses of the configuration");
                systemd::awaiting("looking up the names and addresses of the configuration", GRANT);
            }
            name = signals.stop.next() => return Err(stopped(name)),
        }
    }
}

fn stopped(name: &str) -> u8 {
    say(&format!("{name}: stopping; the server had not started"));
    0
}
