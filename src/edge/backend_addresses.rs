//! The addresses of the servers behind this one, as found by name. None of them may be a peer: a
//! lookup registers them here before a connection goes there, and the peer policy follows.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Duration, sleep, timeout};

use crate::config::settings::{BackendAddress, FrontDoorSettings};

use crate::base::lock::lock;

/// Addresses remembered per name, and refused as peers: a name may resolve to others at each
/// lookup.
const KNOWN: usize = 64;
/// Interval of lookups without a client's request.
const AGAIN: Duration = Duration::from_secs(60);
/// The interval while a name does not resolve.
const SOON: Duration = Duration::from_secs(5);

/// The addresses that names have resolved to since the start, the latest ones of each.
#[derive(Clone, Debug, Default)]
pub struct BackendAddresses(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The addresses when the configuration was loaded.
    first: Vec<SocketAddr>,
    known: Mutex<BTreeMap<BackendAddress, Vec<IpAddr>>>,
    told: Notify,
}

impl BackendAddresses {
    /// `first` were found before.
    pub fn new(first: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Inner {
            first,
            ..Inner::default()
        }))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<BackendAddress, Vec<IpAddr>>> {
        lock(&self.0.known)
    }

    /// Looks a backend up, and registers its addresses.
    ///
    /// # Errors
    /// When the name does not resolve.
    pub async fn look_up(&self, backend: &BackendAddress) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = lookup_host((backend.host.as_str(), backend.port)).await?.collect();
        self.note(backend, found.iter().map(SocketAddr::ip));
        Ok(found)
    }

    fn note(&self, backend: &BackendAddress, found: impl Iterator<Item = IpAddr>) {
        let mut all = self.known();
        let known = all.entry(backend.clone()).or_default();
        let mut is_news = false;
        for ip in found.map(|ip| ip.to_canonical()) {
            if !known.contains(&ip) {
                known.insert(0, ip);
                is_news = true;
            }
        }
        known.truncate(KNOWN);
        drop(all);
        if is_news {
            self.0.told.notify_one();
        }
    }

    /// All of them, sorted.
    pub fn all(&self) -> Vec<SocketAddr> {
        let known = self.known();
        let each = known
            .iter()
            .flat_map(|(backend, ips)| ips.iter().map(|ip| SocketAddr::new(*ip, backend.port)));
        let mut all: Vec<_> = each.chain(self.0.first.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Waits for a new address. For one waiter.
    pub async fn changed(&self) {
        self.0.told.notified().await;
    }

    /// Starts to look up all names of `settings`, each for `connect_timeout` at most, so that an
    /// address is refused as a peer before the first client is forwarded to it.
    pub fn follow(&self, settings: &FrontDoorSettings) {
        for backend in settings
            .backends()
            .filter(|backend| backend.host.parse::<IpAddr>().is_err())
        {
            let (all, backend, patience) = (self.clone(), backend.clone(), settings.connect_timeout);
            tokio::spawn(async move {
                loop {
                    let found = timeout(patience, all.look_up(&backend)).await;
                    sleep(if matches!(found, Ok(Ok(_))) { AGAIN } else { SOON }).await;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(host: &str) -> BackendAddress {
        BackendAddress {
            host: host.to_owned(),
            port: 8443,
        }
    }

    #[tokio::test]
    async fn where_a_name_leads_is_known_once_it_was_looked_up_and_told_once() {
        let all = BackendAddresses::default();
        let found = all.look_up(&backend("localhost")).await.expect("a name");
        timeout(Duration::from_secs(5), all.changed()).await.expect("news");
        let known = all.all();
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(known, found);
        all.look_up(&backend("localhost")).await.expect("a name");
        assert!(
            timeout(Duration::from_millis(20), all.changed()).await.is_err(),
            "no news"
        );
    }

    #[test]
    fn those_that_were_written_down_stay_known_beside_what_is_found() {
        let first = vec![SocketAddr::from(([192, 0, 2, 1], 443))];
        let all = BackendAddresses::new(first.clone());
        assert_eq!(all.all(), first);
        all.note(&backend("cdn"), [IpAddr::from([198, 18, 0, 1])].into_iter());
        assert_eq!(all.all(), [first[0], SocketAddr::from(([198, 18, 0, 1], 8443))]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_each_time_is_known_within_a_bound() {
        let all = BackendAddresses::default();
        for n in 0..200 {
            all.note(&backend("cdn"), [IpAddr::from([198, 18, 0, n])].into_iter());
        }
        let known = all.all();
        assert_eq!(known.len(), KNOWN);
        assert!(known.contains(&SocketAddr::from(([198, 18, 0, 199], 8443))));
    }
}
