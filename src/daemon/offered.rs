//! What clients are offered: only what is bound.

use core::net::SocketAddr;

use crate::config::offer::{offer, serves_path};
use crate::config::settings::{ListenerSettings, Settings};
use crate::edge::listeners::ListenAddresses;

/// Keeps listeners out of minted URIs that are not bound, or that a reload would add.
pub(super) fn offer_only_what_is_bound(settings: &mut Settings, places: &ListenAddresses) {
    let listeners = bound_listeners(settings, places);
    offer(&mut settings.api, &listeners, &settings.turn.forced);
}

/// The listeners, without those that are not bound.
fn bound_listeners(settings: &Settings, places: &ListenAddresses) -> Vec<ListenerSettings> {
    let udp = |address: &SocketAddr| places.udp.contains(address);
    let dtls = |address: &SocketAddr| places.dtls.contains(address);
    let tcp = |address: &SocketAddr| places.tcp.iter().any(|(bound, _)| bound == address);
    let really = |listener: &ListenerSettings| ListenerSettings {
        udp: listener.udp && listener.addresses.iter().any(udp),
        dtls: listener.dtls && listener.addresses.iter().any(dtls),
        tcp: listener.tcp && listener.addresses.iter().any(tcp),
        tls: listener.tls && listener.addresses.iter().any(tcp),
        https: listener.https && listener.addresses.iter().any(tcp),
        ..listener.clone()
    };
    settings.listeners.iter().map(really).collect()
}

/// The error if no listener of the forced path is bound although a configured client must use it.
pub(super) fn forced_path_missing(settings: &Settings, places: &ListenAddresses) -> Option<String> {
    let forced = &settings.turn.forced;
    let served = bound_listeners(settings, places)
        .iter()
        .any(|listener| serves_path(listener, forced));
    (!served && settings.forces_somebody()).then(|| {
        format!(
            "forced relay: no listener of forced_relay.ports {:?} is bound, so forced clients are not served",
            forced.ports
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::address::Transport;
    use crate::config::sample;
    use crate::config::settings::ApiKey;

    fn settings() -> Settings {
        sample::settings(sample::BASE)
    }

    /// A listener without a protocol.
    pub(in crate::daemon) fn silent(address: &str) -> ListenerSettings {
        ListenerSettings {
            addresses: vec![address.parse().expect("an address")],
            udp: false,
            ..settings().listeners[0].clone()
        }
    }

    /// Enables one protocol, and shows whether it is enabled.
    pub(in crate::daemon) type Speaks = (fn(&mut ListenerSettings), fn(&ListenerSettings) -> bool);

    pub(in crate::daemon) const EACH: [Speaks; 5] = [
        (|l| l.udp = true, |l| l.udp),
        (|l| l.dtls = true, |l| l.dtls),
        (|l| l.tcp = true, |l| l.tcp),
        (|l| l.tls = true, |l| l.tls),
        (|l| l.https = true, |l| l.https),
    ];

    /// The addresses of `listener` if all of it is bound.
    fn bound(listener: &ListenerSettings) -> ListenAddresses {
        let address = listener.addresses[0];
        let over_tcp = listener.tcp || listener.tls || listener.https;
        ListenAddresses {
            udp: listener.udp.then_some(address).into_iter().collect(),
            dtls: listener.dtls.then_some(address).into_iter().collect(),
            tcp: over_tcp.then(|| (address, listener.clone())).into_iter().collect(),
            admin: None,
        }
    }

    #[test]
    fn what_could_not_be_bound_is_not_offered() {
        let settings = |listener: &ListenerSettings| Settings {
            listeners: vec![listener.clone()],
            ..settings()
        };
        let all: ListenAddresses =
            EACH.iter()
                .map(|(speak, _)| speak)
                .fold(ListenAddresses::default(), |mut all, speak| {
                    let mut listener = silent("127.0.0.1:3478");
                    speak(&mut listener);
                    let places = bound(&listener);
                    all.udp.extend(places.udp);
                    all.dtls.extend(places.dtls);
                    all.tcp.extend(places.tcp);
                    all
                });
        for (row, (speak, speaks)) in EACH.iter().enumerate() {
            let mut listener = silent("127.0.0.1:3478");
            speak(&mut listener);
            let served = |places: &ListenAddresses| bound_listeners(&settings(&listener), places).remove(0);
            assert_eq!(served(&bound(&listener)), listener, "row {row}: bound");
            // A protocol of another listener on the same address does not count.
            assert_eq!(served(&all), listener, "row {row}: others as well");
            assert!(!speaks(&served(&ListenAddresses::default())), "row {row}: not bound");
            let mut elsewhere = listener.clone();
            elsewhere.addresses[0].set_port(3479);
            assert!(!speaks(&served(&bound(&elsewhere))), "row {row}: bound elsewhere");
        }
    }

    #[test]
    fn uris_name_only_what_is_bound() {
        let mut settings = settings();
        let mut udp = silent("192.0.2.1:3478");
        udp.udp = true;
        let mut tcp = silent("192.0.2.1:3479");
        tcp.tcp = true;
        settings.listeners = vec![udp.clone(), tcp];
        offer_only_what_is_bound(&mut settings, &bound(&udp));
        assert_eq!(settings.api.uris, ["turn:192.0.2.1:3478?transport=udp"]);
    }

    #[test]
    fn a_forced_path_that_is_not_bound_is_told_where_somebody_must_take_it() {
        let mut listener = silent("127.0.0.1:443");
        listener.tls = true;
        let mut settings = settings();
        settings.listeners = vec![listener.clone()];
        let nowhere = ListenAddresses::default();
        assert_eq!(forced_path_missing(&settings, &nowhere), None, "nobody is forced");
        settings.turn.forced.everyone = true;
        let told = forced_path_missing(&settings, &nowhere).expect("it is missing");
        assert!(told.contains("[443]"), "{told}");
        assert_eq!(forced_path_missing(&settings, &bound(&listener)), None);
        // One key that mints for forced clients is enough, as long as minting is possible.
        settings.turn.forced.everyone = false;
        settings.api.enabled = true;
        for forced in [false, true] {
            settings.api.keys.push(ApiKey {
                name: "app".into(),
                key: "key-of-the-application-0123456789".into(),
                choose_username: false,
                forced,
            });
            assert_eq!(forced_path_missing(&settings, &nowhere).is_some(), forced);
        }
        settings.api.enabled = false;
        assert_eq!(forced_path_missing(&settings, &nowhere), None);
        settings.turn.forced.everyone = true;
        settings.turn.forced.transports[Transport::Tls as usize] = false;
        assert!(forced_path_missing(&settings, &bound(&listener)).is_some());
    }
}
