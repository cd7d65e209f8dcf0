//! Follows external addresses that change while the server runs: it probes at an interval, and new
//! allocations use the result. Live allocations keep their address.

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, Instant, sleep_until};

use super::peer_policy::keep_former;
use crate::config::settings::Settings;
use crate::control::process_counters::ProbeOutcome;
use crate::machine::external::{FoundAddress, NotFound, Plan, announced_host, key};
use crate::machine::{Machine, ThisMachine};
use crate::turn::config::RelayConfig;

/// When nothing has to be probed.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// The interval while only this machine can be relayed, which should not last.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// The result of a probe for each plan.
pub(super) type ProbeResults = Vec<(Plan, Result<Option<FoundAddress>, NotFound>)>;

/// When to probe again, and which results are missing.
pub(super) struct ExternalAddressMonitor {
    machine: ThisMachine,
    next: Instant,
    probing: Option<JoinHandle<ProbeResults>>,
    /// Logged once, not at every probe.
    last_reported: Vec<NotFound>,
}

impl ExternalAddressMonitor {
    pub(super) fn new(settings: &Settings, machine: ThisMachine) -> Self {
        Self {
            machine,
            next: Instant::now() + pause(settings),
            probing: None,
            last_reported: Vec::new(),
        }
    }

    /// Waits for the time of the next probe, and probes: resolves names and asks servers on a
    /// thread that may block. Cancel-safe.
    pub(super) async fn probe(&mut self, settings: &Settings) -> ProbeResults {
        let probing = match &mut self.probing {
            Some(probing) => probing,
            none => {
                sleep_until(self.next).await;
                let plans: Vec<Plan> = settings
                    .external
                    .plans
                    .iter()
                    .filter(|plan| plan.follows())
                    .cloned()
                    .collect();
                let machine = self.machine.clone();
                none.insert(spawn_blocking(move || probe_all(plans, &machine)))
            }
        };
        let results = probing.await;
        self.probing = None;
        self.next = Instant::now() + pause(settings);
        results.unwrap_or_default()
    }

    /// Applies the results, and counts each. `true`: an address in `settings` has changed.
    pub(super) fn apply(
        &mut self,
        results: ProbeResults,
        settings: &mut Settings,
        mut count: impl FnMut(ProbeOutcome),
    ) -> bool {
        let mut relay = settings.turn.relay.clone();
        for (plan, outcome) in results {
            // A reload came in between, and has probed itself.
            if !settings.external.plans.contains(&plan) {
                continue;
            }
            let before = relay.of(plan.family);
            match outcome {
                Ok(Some(found)) if before != Some(found.address) => {
                    tracing::info!(
                        key = format!("external.{}", key(plan.family)),
                        ip = %found.address.announced,
                        how = found.how,
                        before = before.map(|before| before.announced.to_string()),
                        "external address changed; new allocations use it, existing ones keep the old one"
                    );
                    relay.set(plan.family, Some(found.address));
                    count(ProbeOutcome::Changed);
                }
                Ok(None) if before.is_some() => {
                    let why = NotFound {
                        message: format!("`external.{}`: this machine has lost its address", key(plan.family)),
                        help: "bring its network up again, or set the address itself".to_owned(),
                    };
                    self.missed(why);
                    count(ProbeOutcome::Failed);
                }
                Ok(_) => {
                    let told = self.last_reported.len();
                    self.last_reported
                        .retain(|told| !told.message.contains(key(plan.family)));
                    if self.last_reported.len() < told {
                        tracing::info!("`external.{}` is found again, unchanged", key(plan.family));
                    }
                    count(ProbeOutcome::Same);
                }
                Err(why) => {
                    self.missed(why);
                    count(ProbeOutcome::Failed);
                }
            }
        }
        let (now, before) = (&relay, &settings.turn.relay);
        let moved = (now.ipv4, now.ipv6) != (before.ipv4, before.ipv6);
        moved && announce(settings, relay)
    }

    fn missed(&mut self, why: NotFound) {
        if !self.last_reported.contains(&why) {
            tracing::warn!("{why}. The previous address stays in use");
            self.last_reported.push(why);
        }
    }
}

fn pause(settings: &Settings) -> Duration {
    let external = &settings.external;
    let follows = external.plans.iter().any(Plan::follows);
    let Some(recheck) = external.recheck.filter(|_| follows) else {
        return NEVER;
    };
    // A machine without a network: its network may be starting.
    let unreachable = settings.turn.relay.own_ips().all(|ip| ip.is_loopback());
    if unreachable { recheck.min(UNREACHABLE) } else { recheck }
}

fn probe_all(plans: Vec<Plan>, machine: &dyn Machine) -> ProbeResults {
    let all = plans.into_iter();
    all.map(|plan| {
        let found = plan.find(machine);
        (plan, found)
    })
    .collect()
}

/// Sets the addresses of `relay` in `settings`.
fn announce(settings: &mut Settings, relay: RelayConfig) -> bool {
    let former = settings.peers.relay_ips.clone();
    settings.peers.relay_ips = relay.own_ips().collect();
    if !keep_former(settings, &former) {
        return false;
    }
    if settings.api.host_from_address {
        settings.api.host = announced_host(&relay);
    }
    settings.turn.relay = relay;
    true
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::timeout;

    use super::*;
    use crate::base::address::Family;
    use crate::config::sample;
    use crate::machine::external::AddressSource;
    use crate::turn::config::RelayAddress;
    use crate::turn::policy::PeerClass;
    use crate::turn::types::PeerAddr;

    /// Announces 192.0.2.1; from now on a STUN server gives the address.
    fn settings() -> (Settings, Plan) {
        let mut settings = sample::settings(sample::BASE);
        let source = AddressSource::Name("turn.example.org".to_owned());
        settings.external.plans[0].source = source;
        let plan = settings.external.plans[0].clone();
        (settings, plan)
    }

    fn found(announced: &str) -> Result<Option<FoundAddress>, NotFound> {
        found_behind("127.0.0.1", announced)
    }

    fn found_behind(bind: &str, announced: &str) -> Result<Option<FoundAddress>, NotFound> {
        Ok(Some(FoundAddress {
            address: RelayAddress {
                bind: bind.parse().expect("an address"),
                announced: announced.parse().expect("an address"),
            },
            how: "as told".to_owned(),
            private: false,
        }))
    }

    fn missing() -> Result<Option<FoundAddress>, NotFound> {
        Err(NotFound {
            message: "`external.ipv4`: cannot look up turn.example.org".to_owned(),
            help: "correct it".to_owned(),
        })
    }

    fn announced(settings: &Settings) -> Option<String> {
        settings.turn.relay.of(Family::V4).map(|it| it.announced.to_string())
    }

    #[tokio::test]
    async fn another_address_is_announced_and_the_policy_knows_the_one_before() {
        let (mut settings, plan) = settings();
        assert!(settings.api.host_from_address);
        let mut monitor = ExternalAddressMonitor::new(&settings, ThisMachine::default());
        let mut outcomes = Vec::new();
        let mut take = |outcome, settings: &mut Settings| {
            monitor.apply(vec![(plan.clone(), outcome)], settings, |outcome| {
                outcomes.push(outcome)
            })
        };
        assert!(!take(found("192.0.2.1"), &mut settings));
        assert!(take(found("192.0.2.2"), &mut settings));
        assert_eq!(announced(&settings).as_deref(), Some("192.0.2.2"));
        assert_eq!(settings.api.host, "192.0.2.2");
        for ip in ["192.0.2.1", "192.0.2.2"] {
            let peer = |port: u16| {
                settings
                    .turn
                    .policy
                    .peer(PeerAddr((ip.parse::<IpAddr>().expect("an address"), port).into()))
            };
            assert_eq!(peer(50_000), Ok(PeerClass::Relayed), "{ip}");
            assert!(peer(3478).is_err(), "the listener behind {ip}");
        }
        assert_eq!(outcomes, [ProbeOutcome::Same, ProbeOutcome::Changed]);
    }

    /// A machine whose own address changes behind a NAT that keeps its own.
    #[tokio::test]
    async fn another_local_address_behind_the_same_external_one_is_relayed_from() {
        let (mut settings, plan) = settings();
        let mut monitor = ExternalAddressMonitor::new(&settings, ThisMachine::default());
        let mut outcomes = Vec::new();
        let results = vec![(plan, found_behind("127.0.0.9", "192.0.2.1"))];
        assert!(monitor.apply(results, &mut settings, |outcome| outcomes.push(outcome)));
        let relay = settings.turn.relay.of(Family::V4).expect("as before");
        assert_eq!(relay.bind, IpAddr::from([127, 0, 0, 9]));
        assert_eq!(announced(&settings).as_deref(), Some("192.0.2.1"));
        assert_eq!(outcomes, [ProbeOutcome::Changed]);
        // The address bound before leads to this machine as well.
        let peer = |ip: &str| {
            settings
                .turn
                .policy
                .peer(PeerAddr((ip.parse::<IpAddr>().expect("an address"), 50_000).into()))
        };
        for ip in ["127.0.0.1", "127.0.0.9", "192.0.2.1"] {
            assert_eq!(peer(ip), Ok(PeerClass::Relayed), "{ip}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_not_found_again_stays() {
        let (mut settings, plan) = settings();
        let mut monitor = ExternalAddressMonitor::new(&settings, ThisMachine::default());
        let (mut outcomes, mut told) = (Vec::new(), Vec::new());
        for outcome in [missing(), missing(), Ok(None), found("192.0.2.1")] {
            let moved = monitor.apply(vec![(plan.clone(), outcome)], &mut settings, |outcome| {
                outcomes.push(outcome)
            });
            assert!(!moved);
            assert_eq!(announced(&settings).as_deref(), Some("192.0.2.1"));
            told.push(monitor.last_reported.len());
        }
        assert_eq!(told, [1, 1, 2, 0], "each once, until it is found again");
        assert_eq!(
            outcomes,
            [
                ProbeOutcome::Failed,
                ProbeOutcome::Failed,
                ProbeOutcome::Failed,
                ProbeOutcome::Same
            ]
        );
    }

    #[tokio::test]
    async fn what_was_looked_for_before_a_reload_changed_the_question_is_not_taken() {
        let (mut settings, plan) = settings();
        let mut monitor = ExternalAddressMonitor::new(&settings, ThisMachine::default());
        settings.external.plans[0].source = AddressSource::Auto;
        assert!(
            !monitor.apply(vec![(plan, found("192.0.2.9"))], &mut settings, |_| panic!(
                "not counted"
            ))
        );
        assert_eq!(announced(&settings).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn a_machine_without_a_network_is_looked_at_often_unless_that_is_switched_off() {
        let (mut settings, _) = settings();
        assert_eq!(pause(&settings), settings.external.recheck.expect("by default"));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        settings.turn.relay.set(
            Family::V4,
            Some(RelayAddress {
                bind: loopback,
                announced: loopback,
            }),
        );
        settings.turn.relay.set(Family::V6, None);
        assert_eq!(pause(&settings), UNREACHABLE);
        settings.external.plans.clear();
        assert_eq!(pause(&settings), NEVER);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_change_is_looked_for_again_each_time_the_pause_is_over() {
        let (mut settings, _) = settings();
        let pause = Duration::from_secs(60);
        settings.external.recheck = Some(pause);
        let mut fixed = settings.external.plans[0].clone();
        settings.external.plans[0].source = AddressSource::Name("localhost".to_owned());
        fixed.source = AddressSource::Fixed(IpAddr::from([192, 0, 2, 7]));
        settings.external.plans.push(fixed);
        let begin = Instant::now();
        let mut monitor = ExternalAddressMonitor::new(&settings, ThisMachine::default());
        for round in 1..=2 {
            // As the server does whenever another event comes first.
            let shortly = timeout(pause / 2, monitor.probe(&settings)).await;
            assert!(shortly.is_err(), "round {round}");
            let results = monitor.probe(&settings).await;
            let late = begin.elapsed().checked_sub(pause * round);
            assert!(late.is_some_and(|late| late < Duration::from_secs(1)), "{late:?}");
            let [(plan, Ok(Some(found)))] = &results[..] else {
                panic!("{results:?}");
            };
            assert_eq!(*plan, settings.external.plans[0]);
            assert_eq!(found.address.announced, IpAddr::from([127, 0, 0, 1]));
        }
    }
}
