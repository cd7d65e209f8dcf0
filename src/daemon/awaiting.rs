//! The configuration at start, and what it names that is not there yet: an address a DHCP server, a
//! VPN or a failover brings, a name the resolver cannot answer for before the network is up. Such
//! things come by themselves, so they are waited for, unlike mistakes, which end the process at
//! once (docs/decisions/0026-waiting-at-start.md).

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

/// Pause between two looks: a machine with a fresh address serves this much later.
const PAUSE: Duration = Duration::from_secs(1);
/// A resolver without a network takes its time; after this somebody who watches is told what is
/// going on.
const SLOW: Duration = Duration::from_secs(2);
/// What the service manager grants beyond each look: names may take so long, and STUN servers.
const GRANT: Duration = Duration::from_secs(120);

/// Loads the configuration, and waits for what it names.
///
/// # Errors
/// The exit status: it has mistakes, its patience is over, or a signal ended it.
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
                "waiting for it, {limit:?} at most (start_timeout); SIGHUP looks again at once"
            ));
            told = text;
        }
        if clock.mono() - begin >= limit {
            say(&format!("not started: it has not come within {limit:?}"));
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

/// Looks once, on a thread that may wait.
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
