//! Notifies the service manager (sd_notify) and serves its watchdog. Without a service manager
//! nothing happens.

use core::time::Duration;

use sd_notify::NotifyState;

/// Reports that everything is bound and serving.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Reports a reload; [`ready`] ends it.
pub fn reloading() {
    // Since systemd 253 a `Type=notify-reload` unit needs the time as well; other units ignore it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Reports the shutdown; the process ends within `at_most`.
pub fn stopping(status: &str, at_most: Duration) {
    let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status(&one_line(status)),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Reports that it is not ready yet, and asks the service manager for `at_least` more time.
pub fn awaiting(status: &str, at_least: Duration) {
    let micros = u32::try_from(at_least.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Status(&one_line(status)),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Reports that every worker is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often to call [`alive`], if the service manager wants that: half the time it allows.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(half)
}

fn half(limit: Duration) -> Duration {
    // A limit of less than a few milliseconds cannot be kept, whatever the environment says.
    (limit / 2).max(Duration::from_millis(5))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// A status is one line: the protocol separates by newlines.
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
