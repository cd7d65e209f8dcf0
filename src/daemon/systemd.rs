//! What the service manager is told (sd_notify), and its watchdog. Without a service manager
//! nothing happens.

use core::time::Duration;

use sd_notify::NotifyState;

/// Everything is bound and serving.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    // Since systemd 253 a `Type=notify-reload` unit needs the time as well; others skip it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// No new clients; within `at_most` the process is gone.
pub fn stopping(status: &str, at_most: Duration) {
    let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status(&one_line(status)),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Not ready yet, for a reason; the service manager is to grant `at_least` more.
pub fn awaiting(status: &str, at_least: Duration) {
    let micros = u32::try_from(at_least.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Status(&one_line(status)),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Every worker is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be told, if the service manager wants that: half of what it allows.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(half)
}

fn half(limit: Duration) -> Duration {
    // Nobody can live up to less than a few milliseconds, whatever the environment says.
    (limit / 2).max(Duration::from_millis(5))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// A status line is one line: the protocol's separator is the newline.
fn one_line(status: &str) -> String {
    status.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_told_twice_within_its_time() {
        for (limit, told) in [(10_000, 5000), (10, 5), (1, 5), (0, 5)] {
            assert_eq!(half(Duration::from_millis(limit)), Duration::from_millis(told));
        }
    }

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(one_line("waiting:\na\tname"), "waiting: a name");
    }
}
