//! HTTP/3 as the workers pass it on: its bounds, and where the backend is.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::{sleep, timeout};

use super::backends::Backends;
use super::config::settings::{BackendAddress, Settings};
use crate::shard::{Http3Config, SharedBackend};

/// How often the backend's name is looked up again: no packet waits for it, and flows begun stay where they are.
const AGAIN: Duration = Duration::from_secs(60);
/// The same while it leads nowhere.
const SOON: Duration = Duration::from_secs(5);

/// `None`: there is no backend. From here on, workers know by themselves where its name leads.
pub(super) fn config(settings: &Settings, backends: &Backends) -> Option<Http3Config> {
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
        flows: http3.flows,
        flows_per_ip: http3.flows_per_ip,
        flows_per_network: http3.flows_per_network,
        new_flows_per_second: http3.new_flows_per_second,
        handshake_timeout: settings.stream.handshake_timeout,
        idle_timeout: http3.idle_timeout,
        ..Http3Config::new(backend)
    })
}

/// Looks up the backend's name, for ever.
struct Follow {
    address: BackendAddress,
    patience: Duration,
    ours: Ours,
    told: Backends,
    backend: SharedBackend,
}

impl Follow {
    async fn run(self) {
        let mut told = None;
        loop {
            let found = self.look_up().await;
            // Told once, until it changes.
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

/// Where datagrams for this server itself go: passed on there, they would come back for ever.
struct Ours {
    at: Vec<SocketAddr>,
    /// Ports that are listened on at every address of this machine.
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

    #[tokio::test]
    async fn a_name_leads_to_its_address_unless_that_is_this_server() {
        let leads_to = async |port, ours: &[&str]| {
            let follow = Follow {
                address: BackendAddress {
                    host: "localhost".into(),
                    port,
                },
                patience: Duration::from_secs(10),
                ours: Ours {
                    at: ours.iter().map(|address| address.parse().unwrap()).collect(),
                    everywhere: Vec::new(),
                    local: Vec::new(),
                },
                told: Backends::default(),
                backend: SharedBackend::default(),
            };
            follow.look_up().await
        };
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
}
