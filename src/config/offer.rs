//! Which URIs clients are told, and which of them a forced login is good for (RFC 7064, RFC 7065).

use std::net::{IpAddr, Ipv6Addr};

use super::settings::{ApiSettings, ListenerSettings, ProxyProtocol};
use crate::base::address::Transport;
use crate::turn::config::forced::ForcedRelay;

/// Sets the URIs of `api`: made from `listeners` unless the operator wrote them. Where everyone is forced, no other than
/// those of the forced path are left.
pub fn offer(api: &mut ApiSettings, listeners: &[ListenerSettings], forced: &ForcedRelay) {
    if api.uris_from_listeners {
        let on_path: Vec<_> = listeners.iter().map(|listener| on_path(listener, forced)).collect();
        api.uris = uris(&api.host, listeners, api.relay_only);
        api.forced_uris = uris(&api.host, &on_path, true);
    } else {
        api.forced_uris = api.uris.iter().filter(|uri| is_on_path(uri, forced)).cloned().collect();
    }
    if forced.everyone {
        api.uris.clone_from(&api.forced_uris);
    }
}

/// The part of `listener` that forced logins are good on.
fn on_path(listener: &ListenerSettings, forced: &ForcedRelay) -> ListenerSettings {
    // All addresses of a listener have its one port.
    let port = listener
        .addresses
        .iter()
        .any(|address| forced.ports.contains(&address.port()));
    let has = |transport: Transport| port && forced.transports[transport as usize];
    ListenerSettings {
        udp: listener.udp && has(Transport::Udp),
        tcp: listener.tcp && has(Transport::Tcp),
        tls: listener.tls && has(Transport::Tls),
        dtls: listener.dtls && has(Transport::Dtls),
        https: false,
        ..listener.clone()
    }
}

/// Whether forced clients can come by `listener`: on its own port, or on that of a proxy that tells which one it was.
pub fn serves_path(listener: &ListenerSettings, forced: &ForcedRelay) -> bool {
    let proxied = through_proxy(listener);
    on_path(listener, forced).carries_turn()
        || (proxied.tcp && forced.transports[Transport::Tcp as usize])
        || (proxied.tls && forced.transports[Transport::Tls as usize])
}

/// The part of `listener` that carries TURN beside the forced path. What comes through a proxy is judged by the proxy's port.
pub fn beside_path(listener: &ListenerSettings, forced: &ForcedRelay) -> ListenerSettings {
    let (on_path, proxied) = (on_path(listener, forced), through_proxy(listener));
    ListenerSettings {
        udp: listener.udp && !on_path.udp,
        tcp: listener.tcp && !on_path.tcp && !proxied.tcp,
        tls: listener.tls && !on_path.tls && !proxied.tls,
        dtls: listener.dtls && !on_path.dtls,
        https: false,
        ..listener.clone()
    }
}

/// The part of `listener` that clients reach through proxies that tell where they were connected to.
fn through_proxy(listener: &ListenerSettings) -> ListenerSettings {
    let proxied = listener.proxy_protocol != ProxyProtocol::Off;
    ListenerSettings {
        udp: false,
        tcp: listener.tcp && proxied,
        tls: listener.tls && proxied,
        dtls: false,
        https: false,
        ..listener.clone()
    }
}

/// Whether `uri` leads a TURN client to the forced path.
pub fn is_on_path(uri: &str, forced: &ForcedRelay) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return false;
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (transport, usual) = match (scheme, query) {
        ("turn", "transport=tcp") => (Transport::Tcp, 3478),
        ("turn", _) => (Transport::Udp, 3478),
        ("turns", "transport=udp") => (Transport::Dtls, 5349),
        ("turns", _) => (Transport::Tls, 5349),
        _ => return false,
    };
    let port = match address.rsplit_once(':') {
        Some((_, port)) if !address.ends_with(']') => port.parse().unwrap_or(usual),
        _ => usual,
    };
    forced.transports[transport as usize] && forced.ports.contains(&port)
}

/// The TURN URIs of `listeners`, for clients that reach the server as `host`. Three, because browsers allocate on every
/// one of them, for each peer connection and network interface: UDP, which media likes best, then TLS and plain TCP, each
/// on port 443 if that is served. With `relay_only` first what gets through firewalls: TLS.
///
/// DTLS is offered only where nothing else is: browsers take `turns:` over UDP for one more TLS server over TCP.
pub fn uris(host: &str, listeners: &[ListenerSettings], relay_only: bool) -> Vec<String> {
    let in_uri = match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => host.to_owned(),
    };
    // A listener that only this machine reaches is of no use to others.
    let local_host = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let ports = |speaks: fn(&ListenerSettings) -> bool| {
        let mut ports: Vec<u16> = Vec::new();
        for listener in listeners.iter().filter(|listener| speaks(listener)) {
            let reached = listener
                .addresses
                .iter()
                .find(|address| local_host || !address.ip().is_loopback());
            ports.extend(
                reached
                    .map(|address| address.port())
                    .filter(|port| !ports.contains(port)),
            );
        }
        ports
    };
    let best = |ports: Vec<u16>| {
        ports
            .iter()
            .copied()
            .find(|port| *port == 443)
            .or(ports.first().copied())
    };
    let uri = |scheme: &str, transport: &str, port: u16| format!("{scheme}:{in_uri}:{port}?transport={transport}");

    let udp = best(ports(|listener| listener.udp)).map(|port| uri("turn", "udp", port));
    let tls = best(ports(|listener| listener.tls)).map(|port| uri("turns", "tcp", port));
    let tcp = best(ports(|listener| listener.tcp)).map(|port| uri("turn", "tcp", port));
    let in_order = if relay_only { [tls, udp, tcp] } else { [udp, tls, tcp] };
    let uris: Vec<_> = in_order.into_iter().flatten().collect();
    if !uris.is_empty() {
        return uris;
    }
    let dtls = best(ports(|listener| listener.dtls)).map(|port| uri("turns", "udp", port));
    dtls.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    #[test]
    fn a_uri_is_on_the_path_by_its_port_and_by_how_it_is_spoken() {
        let on = |transport: Transport, ports: &[u16]| {
            let mut forced = ForcedRelay {
                ports: ports.to_vec(),
                ..ForcedRelay::default()
            };
            forced.transports = [false; Transport::ALL.len()];
            forced.transports[transport as usize] = true;
            forced
        };
        for (uri, transport, port) in [
            ("turn:a.test:443?transport=udp", Transport::Udp, 443),
            ("turn:a.test:443", Transport::Udp, 443),
            ("turn:a.test", Transport::Udp, 3478),
            ("turn:[2001:db8::1]", Transport::Udp, 3478),
            ("turn:a.test:443?transport=tcp", Transport::Tcp, 443),
            ("turn:a.test?transport=tcp", Transport::Tcp, 3478),
            ("turns:a.test:443?transport=tcp", Transport::Tls, 443),
            ("turns:[2001:db8::1]:443", Transport::Tls, 443),
            ("turns:a.test", Transport::Tls, 5349),
            ("turns:a.test:443?transport=udp", Transport::Dtls, 443),
        ] {
            for other in Transport::ALL {
                assert_eq!(
                    is_on_path(uri, &on(other, &[port])),
                    other == transport,
                    "{uri} {other:?}"
                );
            }
            assert!(!is_on_path(uri, &on(transport, &[1])), "{uri}");
        }
        for uri in ["stun:a.test", "a.test", "http:a.test:443"] {
            assert!(!is_on_path(uri, &ForcedRelay::default()), "{uri}");
        }
    }

    #[test]
    fn through_a_proxy_come_those_over_tcp_alone() {
        let everything = ListenerSettings {
            tcp: true,
            tls: true,
            dtls: true,
            https: true,
            ..sample::settings(sample::BASE).listeners[0].clone()
        };
        let spoken = |listener: ListenerSettings| {
            let ListenerSettings {
                udp,
                tcp,
                tls,
                dtls,
                https,
                ..
            } = listener;
            [udp, tcp, tls, dtls, https]
        };
        assert_eq!(spoken(through_proxy(&everything)), [false; 5]);
        let proxied = ListenerSettings {
            proxy_protocol: ProxyProtocol::Optional,
            ..everything
        };
        assert_eq!(spoken(through_proxy(&proxied)), [false, true, true, false, false]);
        let beside = beside_path(&proxied, &ForcedRelay::default());
        assert_eq!(spoken(beside), [true, false, false, true, false]);
    }
}
