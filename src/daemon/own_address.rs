//! Follows the addresses and routes that lead to this machine. When the kernel's tables change, the
//! server reads them again and rebuilds the peer policy. So a new address is refused as a peer
//! before clients learn about it.

use std::collections::BTreeSet;
use std::io;
use std::thread;

use ipnet::IpNet;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Duration;

use super::peer_policy::renew_policy;
use crate::config::settings::Settings;
use crate::control::process_counters::ProbeOutcome;
use crate::net::local::{self, Changes};

/// Pause between two reads: a start of containers brings many changes at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);
/// Networks that one log line names.
const TOLD: usize = 8;

type Read = io::Result<Vec<IpNet>>;

/// The tables as read.
pub(super) struct OwnAddressMonitor {
    readings: Receiver<Read>,
    /// Logged once, not at every retry.
    told: bool,
}

impl OwnAddressMonitor {
    /// Subscribes to changes, on a thread that waits for them. Reads once at the beginning, because
    /// the tables may have changed since the configuration was loaded.
    ///
    /// # Errors
    /// When the kernel refuses, or no thread can be started.
    pub(super) fn new() -> io::Result<Self> {
        let changes = Changes::new()?;
        let (sender, readings) = channel(1);
        let thread = thread::Builder::new().name("relay-machine".to_owned());
        thread.spawn(move || follow(&changes, &sender))?;
        Ok(Self { readings, told: false })
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn read(&mut self) -> Read {
        match self.readings.recv().await {
            Some(read) => read,
            // The thread ends only after the receiver is dropped.
            None => core::future::pending().await,
        }
    }

    /// Applies what was read to the peer policy of `settings`, and logs the changes.
    pub(super) fn apply(&mut self, read: io::Result<Vec<IpNet>>, settings: &mut Settings) -> ProbeOutcome {
        let networks = match read {
            Ok(networks) => networks,
            Err(error) => {
                if !core::mem::replace(&mut self.told, true) {
                    tracing::error!(%error, "the addresses of this machine cannot be read; those known stay closed to peers");
                }
                return ProbeOutcome::Failed;
            }
        };
        self.told = false;
        let before = core::mem::replace(&mut settings.peers.local, networks);
        let after = &settings.peers.local;
        if before == *after {
            return ProbeOutcome::Same;
        }
        tracing::info!(
            came = listed(after, &before),
            went = listed(&before, after),
            "the addresses of this machine changed; peers may not reach them"
        );
        renew_policy(settings);
        ProbeOutcome::Changed
    }
}

/// Runs until the receiver is dropped.
fn follow(changes: &Changes, sender: &Sender<Read>) {
    loop {
        let read = local::read();
        let is_good = read.is_ok();
        if sender.blocking_send(read).is_err() {
            return;
        }
        thread::sleep(if is_good { PAUSE } else { RETRY });
        if is_good {
            // A lost notification is made up for by a read.
            let _ = changes.wait();
        }
    }
}

/// Networks in `these` that are not in `those`.
fn listed(these: &[IpNet], those: &[IpNet]) -> String {
    let those: BTreeSet<_> = those.iter().collect();
    let others = || these.iter().filter(|net| !those.contains(net));
    let mut text: Vec<_> = others().take(TOLD).map(name).collect();
    let more = others().count().saturating_sub(TOLD);
    if more > 0 {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

/// A network of one address is written as that address.
fn name(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::*;
    use crate::config::sample;

    #[test]
    fn a_change_is_told_within_a_bound() {
        let net = |n: u8| IpNet::from(core::net::IpAddr::from([10, 0, 0, n]));
        let these: Vec<_> = (0..20).map(net).collect();
        assert_eq!(listed(&these[..2], &[net(0)]), "10.0.0.1");
        assert_eq!(listed(&[], &these), "");
        assert!(listed(&these, &[]).ends_with("10.0.0.7, and 12 more"));
        assert_eq!(listed(&these[..8], &[]).matches(", ").count(), 7);
        assert!(!listed(&these[..8], &[]).contains("more"));
        assert_eq!(listed(&["10.9.0.0/24".parse().expect("a network")], &[]), "10.9.0.0/24");
    }

    #[test]
    fn peers_are_kept_from_what_leads_here_now_and_what_cannot_be_read_changes_nothing() {
        let mut settings = sample::settings(&format!("{}\npeers.allow = [\"10.0.0.0/8\"]\n", sample::BASE));
        let (_sender, readings) = channel(1);
        let mut monitor = OwnAddressMonitor { readings, told: false };
        let here = |text: &str| Ok(vec![text.parse::<IpNet>().expect("a network")]);
        let closed = |settings: &Settings, ip: &str| {
            let policy = &settings.turn.policy;
            policy.permission(ip.parse().expect("an address")).is_err()
        };
        assert_eq!(monitor.apply(here("10.9.0.1/32"), &mut settings), ProbeOutcome::Changed);
        assert!(closed(&settings, "10.9.0.1") && !closed(&settings, "10.9.0.2"));
        let policy = Arc::clone(&settings.turn.policy);
        assert_eq!(monitor.apply(here("10.9.0.1/32"), &mut settings), ProbeOutcome::Same);
        let silent = || Err(io::Error::other("it does not tell"));
        for _ in 0..2 {
            assert_eq!(monitor.apply(silent(), &mut settings), ProbeOutcome::Failed);
            assert!(monitor.told);
        }
        assert!(Arc::ptr_eq(&settings.turn.policy, &policy), "nothing has changed");
        assert_eq!(monitor.apply(here("10.9.0.2/32"), &mut settings), ProbeOutcome::Changed);
        assert!(!monitor.told, "a failure would be told again");
        assert!(closed(&settings, "10.9.0.2") && !closed(&settings, "10.9.0.1"));
    }

    #[tokio::test]
    async fn what_leads_here_is_read_at_once() {
        let mut monitor = OwnAddressMonitor::new().expect("the kernel tells");
        let read = timeout(Duration::from_secs(20), monitor.read()).await;
        let networks = read.expect("a reading").expect("it can be read");
        let loopback = IpNet::from(core::net::IpAddr::from([127, 0, 0, 1]));
        assert!(networks.iter().any(|net| net.contains(&loopback)), "{networks:?}");
    }
}
