//! The workers' HTTP/3 configuration: its limits, and the backend's address.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::{sleep, timeout};

use super::backend_addresses::BackendAddresses;
use crate::config::settings::{BackendAddress, Settings};
use crate::shard::{Http3Config, SharedBackend};

/// Interval of lookups of the backend's name. No packet waits for a lookup, and existing flows keep
/// their address.
const AGAIN: Duration = Duration::from_secs(60);
/// The interval while the name does not resolve.
const SOON: Duration = Duration::from_secs(5);

/// `None`: there is no backend. Otherwise workers receive the address of its name from now on.
pub(crate) fn config(settings: &Settings, backends: &BackendAddresses) -> Option<Http3Config> {
    let http3 = &settings.front_door.http3;
    let address = http3.backend.as_ref()?;
    let backend = SharedBackend::default();
    match address.host.parse() {
        Ok(ip) => backend.store(Some(Arc::new(SocketAddr::new(ip, address.port)))),
        Err(_) => {
            let follow = Follow {
                address: address.clone(),
                patience: settings.front_door.connect_timeout,
                ours: Ours::new(settings),
                told: backends.clone(),
                backend: Arc::clone(&backend),
            };
            tokio::spawn(follow.run());
        }
    }
    Some(Http3Config {
        backend,
        limits: http3.limits.clone(),
        handshake_timeout: settings.stream.handshake_timeout,
    })
}

/// Looks up the backend's name until the process ends.
struct Follow {
    address: BackendAddress,
    patience: Duration,
    ours: Ours,
    told: BackendAddresses,
    backend: SharedBackend,
}

impl Follow {
    async fn run(self) {
        let mut told = None;
        loop {
            let found = self.look_up().await;
            // Logged once, until it changes.
            match &found {
                Ok(address) if self.backend.load().as_deref() != Some(address) => {
                    tracing::info!(backend = %self.address, %address, "HTTP/3 is passed on");
                    self.backend.store(Some(Arc::new(*address)));
                    told = None;
                }
                Ok(_) => told = None,
                Err(error) if told.as_ref() != Some(error) => {
                    tracing::warn!(
                        backend = %self.address,
                        error,
                        "the name of the HTTP/3 backend leads nowhere; what it led to before stays"
                    );
                    told = Some(error.clone());
                }
                Err(_) => {}
            }
            sleep(if found.is_ok() { AGAIN } else { SOON }).await;
        }
    }

    async fn look_up(&self) -> Result<SocketAddr, String> {
        let found = timeout(self.patience, self.told.look_up(&self.address)).await;
        let found = found
            .map_err(|_| "no answer in time")?
            .map_err(|error| error.to_string())?;
        let first = *found.first().ok_or("it has no address")?;
        if self.ours.contains(first) {
            return Err(format!("{first} is this server itself"));
        }
        Ok(first)
    }
}

/// The addresses where this server receives datagrams: forwarding to them would loop.
struct Ours {
    at: Vec<SocketAddr>,
    /// Ports with a listener on every address of this machine.
    everywhere: Vec<u16>,
    local: Vec<IpNet>,
}

impl Ours {
    fn new(settings: &Settings) -> Self {
        let listeners = settings
            .listeners
            .iter()
            .filter(|listener| listener.udp || listener.dtls);
        let relay = [settings.turn.relay.ipv4, settings.turn.relay.ipv6];
        let (mut all, mut everywhere) = (Vec::new(), Vec::new());
        for bound in listeners.flat_map(|listener| &listener.addresses) {
            let at = |ip| SocketAddr::new(ip, bound.port());
            all.push(*bound);
            all.extend(relay.iter().flatten().map(|relay| at(relay.announced)));
            if bound.ip().is_unspecified() {
                everywhere.push(bound.port());
            }
        }
        Self {
            at: all,
            everywhere,
            local: settings.peers.local.clone(),
        }
    }

    fn contains(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_here = || ip.is_loopback() || self.local.iter().any(|net| net.contains(&ip));
        self.at.contains(&SocketAddr::new(ip, address.port()))
            || (self.everywhere.contains(&address.port()) && is_here())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;
    use crate::config::settings::ListenerSettings;
    use crate::edge::capture::LogCapture;
    use crate::turn::config::RelayAddress;

    const SECOND: Duration = Duration::from_secs(1);

    fn backend(host: &str, port: u16) -> BackendAddress {
        BackendAddress {
            host: host.into(),
            port,
        }
    }

    fn follow(backend: BackendAddress, ours: &[&str]) -> Follow {
        Follow {
            address: backend,
            patience: 10 * SECOND,
            ours: Ours {
                at: ours.iter().map(|address| address.parse().unwrap()).collect(),
                everywhere: Vec::new(),
                local: Vec::new(),
            },
            told: BackendAddresses::default(),
            backend: SharedBackend::default(),
        }
    }

    #[tokio::test]
    async fn a_name_leads_to_its_address_unless_that_is_this_server() {
        let leads_to = async |port, ours: &[&str]| follow(backend("localhost", port), ours).look_up().await;
        let ours = ["127.0.0.1:443", "[::1]:443"];
        assert!(
            leads_to(8443, &ours)
                .await
                .is_ok_and(|address| address.ip().is_loopback())
        );
        assert!(
            leads_to(443, &ours)
                .await
                .unwrap_err()
                .ends_with("is this server itself")
        );
    }

    #[tokio::test]
    async fn workers_learn_where_a_name_leads_and_keep_what_they_know_when_it_leads_nowhere() {
        let follow = follow(backend("localhost", 8443), &[]);
        let shared = Arc::clone(&follow.backend);
        let looking = tokio::spawn(follow.run());
        let found = timeout(20 * SECOND, async {
            loop {
                if let Some(found) = shared.load_full() {
                    return *found;
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        let found = found.await.expect("the name is looked up");
        assert!(found.ip().is_loopback() && found.port() == 8443, "{found}");
        looking.abort();
    }

    #[tokio::test]
    async fn each_key_of_http3_reaches_the_workers() {
        let mut settings = sample::settings(sample::BASE);
        assert!(config(&settings, &BackendAddresses::default()).is_none());
        settings.stream.handshake_timeout = 11 * SECOND;
        let http3 = &mut settings.front_door.http3;
        http3.backend = Some(backend("2001:db8::7", 8443));
        http3.limits.flows = 12;
        let limits = http3.limits.clone();
        let made = config(&settings, &BackendAddresses::default()).expect("there is a backend");
        assert_eq!(made.limits, limits);
        assert_eq!(made.handshake_timeout, 11 * SECOND);
        let at = made.backend.load_full().expect("no name to look up");
        assert_eq!(at.to_string(), "[2001:db8::7]:8443");
        settings.front_door.http3.backend = Some(backend("localhost", 8443));
        let made = config(&settings, &BackendAddresses::default()).expect("there is a backend");
        assert_eq!(made.backend.load_full(), None, "the name has not been looked up yet");
    }

    #[test]
    fn this_server_is_where_it_listens_for_datagrams_by_whatever_address() {
        let mut settings = sample::settings(sample::BASE);
        settings.turn.relay.ipv4 = Some(RelayAddress {
            bind: "10.0.8.2".parse().unwrap(),
            announced: "203.0.113.9".parse().unwrap(),
        });
        settings.peers.local = vec!["10.9.0.0/16".parse().unwrap()];
        let listener = |address: &str, change: fn(&mut ListenerSettings)| {
            let mut listener = settings.listeners[0].clone();
            listener.addresses = vec![address.parse().unwrap()];
            listener.udp = false;
            change(&mut listener);
            listener
        };
        settings.listeners = vec![
            listener("192.0.2.1:3478", |l| l.udp = true),
            listener("192.0.2.1:5349", |l| l.dtls = true),
            listener("192.0.2.1:80", |l| l.tcp = true),
            listener("0.0.0.0:443", |l| l.udp = true),
        ];
        let ours = Ours::new(&settings);
        let is_ours = |address: &str| ours.contains(address.parse().unwrap());
        for here in [
            "192.0.2.1:3478",
            "192.0.2.1:5349",
            "[::ffff:192.0.2.1]:3478",
            // Behind the announced address.
            "203.0.113.9:3478",
            "203.0.113.9:443",
            // On every address of this machine.
            "127.0.0.1:443",
            "[::1]:443",
            "10.9.8.7:443",
        ] {
            assert!(is_ours(here), "{here}");
        }
        for elsewhere in [
            "192.0.2.1:80",
            "203.0.113.9:80",
            "192.0.2.2:3478",
            "127.0.0.1:3478",
            "10.9.8.7:3478",
            "10.8.8.7:443",
            "192.0.2.1:443",
        ] {
            assert!(!is_ours(elsewhere), "{elsewhere}");
        }
    }

    /// The paused clock advances by itself when nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn where_a_name_leads_and_that_it_leads_nowhere_is_told_once_until_it_changes() {
        let heard = LogCapture::new();
        let looking = tokio::spawn(follow(backend("localhost", 8443), &[]).run());
        sleep(5 * AGAIN).await;
        looking.abort();
        assert_eq!(heard.count(&["HTTP/3 is passed on", "localhost:8443"]), 1);
        let ours = ["127.0.0.1:443", "[::1]:443"];
        let looking = tokio::spawn(follow(backend("localhost", 443), &ours).run());
        sleep(5 * AGAIN).await;
        looking.abort();
        assert_eq!(heard.count(&["leads nowhere", "is this server itself"]), 1);
    }
}
