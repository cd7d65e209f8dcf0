//! When a draining server stops serving new clients, for readiness.

use std::net::SocketAddr;

use crate::base::time::Instant;
use crate::config::settings::ListenerSettings;
use crate::turn::config::redirect::Redirect;

/// The progress of a server that redirects its clients to another one (`turn.redirect`).
#[derive(Debug, Default)]
pub(super) struct Drain {
    since: Option<Instant>,
    /// From then on every new client is redirected. `None`: some clients are served for as long as
    /// the drain lasts.
    complete: Option<Instant>,
}

impl Drain {
    /// Takes the settings in force. The core counts from the same moment.
    pub(super) fn follow(&mut self, redirect: &Redirect, listeners: &[ListenerSettings], now: Instant) {
        let since = self.since.unwrap_or(now);
        self.since = redirect.is_on().then_some(since);
        self.complete = self.since.and_then(|since| complete(redirect, listeners, since));
    }

    /// Whether every new client is redirected.
    pub(super) fn is_complete(&self, now: Instant) -> bool {
        self.complete.is_some_and(|at| now >= at)
    }
}

fn complete(redirect: &Redirect, listeners: &[ListenerSettings], since: Instant) -> Option<Instant> {
    let another_server = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => redirect.ipv4.is_some(),
        SocketAddr::V6(_) => redirect.ipv6.is_some(),
    };
    if !listeners
        .iter()
        .flat_map(|listener| &listener.addresses)
        .all(another_server)
    {
        return None;
    }
    let [udp, tcp, tls, dtls] = redirect.transports;
    let at_once = |listener: &ListenerSettings| {
        let served_and_sent = [
            (listener.udp, udp),
            (listener.tcp, tcp),
            (listener.tls, tls),
            (listener.dtls, dtls),
        ];
        served_and_sent.iter().all(|&(served, sent)| sent || !served)
    };
    if listeners.iter().all(at_once) {
        return Some(since);
    }
    Some(since + redirect.serve_others?)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::settings::ProxyProtocol;

    const HOUR: Duration = Duration::from_secs(3600);

    fn listener(address: &str, udp_only: bool) -> ListenerSettings {
        ListenerSettings {
            label: address.to_owned(),
            addresses: vec![address.parse().expect("an address")],
            udp: true,
            dtls: false,
            tcp: !udp_only,
            tls: false,
            https: false,
            optional: false,
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: Vec::new(),
        }
    }

    fn away() -> Redirect {
        Redirect {
            ipv4: Some("203.0.113.20:443".parse().expect("an address")),
            ..Redirect::default()
        }
    }

    #[test]
    fn a_drain_is_complete_when_nobody_is_served_any_more() {
        let now = Instant::ZERO;
        let at =
            |redirect: &Redirect, listeners: &[ListenerSettings]| complete(redirect, listeners, now).map(|at| at - now);
        let (both, udp) = (listener("192.0.2.1:443", false), listener("192.0.2.1:3478", true));
        let v6 = listener("[2001:db8::1]:443", true);
        assert_eq!(
            at(&away(), std::slice::from_ref(&both)),
            Some(HOUR),
            "TCP is served for an hour"
        );
        assert_eq!(
            at(&away(), std::slice::from_ref(&udp)),
            Some(Duration::ZERO),
            "UDP is sent away at once"
        );
        assert_eq!(at(&away(), &[udp, v6]), None, "IPv6 has no other server");
        let for_ever = Redirect {
            serve_others: None,
            ..away()
        };
        assert_eq!(
            at(&for_ever, std::slice::from_ref(&both)),
            None,
            "TCP is served as long as the drain lasts"
        );
        let all = Redirect {
            transports: [true; 4],
            ..for_ever
        };
        assert_eq!(at(&all, &[both]), Some(Duration::ZERO));
    }

    #[test]
    fn a_reload_does_not_begin_a_drain_anew_and_one_without_it_ends_it() {
        let (begin, both) = (Instant::ZERO, [listener("192.0.2.1:443", false)]);
        let mut drain = Drain::default();
        drain.follow(&away(), &both, begin);
        drain.follow(&away(), &both, begin + HOUR / 2);
        assert!(!drain.is_complete(begin + (HOUR - Duration::from_secs(1))));
        assert!(drain.is_complete(begin + HOUR));
        drain.follow(&Redirect::default(), &both, begin + HOUR);
        assert!(!drain.is_complete(begin + 9 * HOUR));
        drain.follow(&away(), &both, begin + 2 * HOUR);
        assert!(!drain.is_complete(begin + (3 * HOUR - Duration::from_secs(1))));
        assert!(drain.is_complete(begin + 3 * HOUR));
    }
}
