//! What is wrong, or unwise, although each value by itself is well written. Looks at the configuration alone: files,
//! names and addresses of the machine come in `build`.

mod acme;
mod api;
mod credentials;
mod external;
mod forced;
mod front_door;
mod origin;

use core::time::Duration;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::reader::diagnostic::{Diagnostic, Diagnostics};
use super::reader::section::Located;
use super::reader::value::{Auto, Bytes, External, Host, OffOr, OneOf, is_host_name, quoted};
use super::sections::Raw;
use super::sections::limits::RawLimits;
use super::sections::listener::Protocol;
use super::sections::peers::RawPeers;
use super::sections::secret::SecretOrFile;
use super::sections::turn::{RawRedirect, RawTurn};
use crate::config::log_level::{WrongLevel, check as check_level};
use crate::machine::network::is_private;
use crate::turn::reflection::LONGEST_REALM;

pub(super) use credentials::{api_key, password, secret};
pub(super) use forced::against_listeners as forced_against_listeners;

const DAY: Duration = Duration::from_secs(86_400);

/// Checks everything; mistakes go to `d`.
pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    top(raw, d);
    credentials::check(&raw.credentials, d);
    tls(raw, d);
    acme::check(raw, d);
    addresses(raw, d);
    ports(raw, d);
    external::check(raw, d);
    peers(&raw.peers, d);
    turn(&raw.turn, d);
    redirect(&raw.turn.redirect, d);
    tcp_allocations(raw, d);
    forced::check(raw, d);
    limits(&raw.limits, d);
    listeners(raw, d);
    front_door::check(raw, d);
    api::check(raw, d);
    admin_and_log(raw, d);
}

/// Whether any listener speaks plain UDP, where sources can be forged.
fn speaks_udp(raw: &Raw) -> bool {
    let mut listeners = raw.listeners.value.iter();
    listeners.any(|listener| listener.protocols.value.contains(&OneOf(Protocol::Udp)))
}

fn top(raw: &Raw, d: &mut Diagnostics) {
    let realm = &raw.top.realm;
    let spoiled = |c: char| c.is_whitespace() || "/:?#@[]".contains(c);
    if realm.value.contains(spoiled) {
        let host = host_in(&realm.value);
        let help = match is_host_name(host) {
            true => format!("write the name alone: {}", quoted(host)),
            false => "use the server's host name alone: no scheme, port, path or space".to_owned(),
        };
        let message = format!("`realm`: {:?} is not a host name", realm.value);
        d.push(Diagnostic::error(message).at(realm.place).help(help));
    } else if realm.value.is_empty() {
        d.push(
            Diagnostic::error("`realm` is empty")
                .at(realm.place)
                .help("use the server's host name"),
        );
    } else if realm.value.chars().count() > 127 || realm.value.len() > 763 {
        let diagnostic = Diagnostic::error("`realm` has more than 127 characters (RFC 8489 §14.9)").at(realm.place);
        d.push(diagnostic.help("use the server's host name"));
    } else if realm.value.contains(|c: char| c.is_control() || c == '"' || c == '\\') {
        let diagnostic = Diagnostic::error("`realm` holds a quote, a backslash or a control character").at(realm.place);
        d.push(diagnostic.help("use the server's host name"));
    } else if realm.value.len() > LONGEST_REALM && speaks_udp(raw) {
        let message = format!(
            "`realm` has {} bytes, and an answer over UDP to somebody who may have forged his address has room for \
             {LONGEST_REALM}",
            realm.value.len()
        );
        let help = "use a shorter one, your domain for example: clients learn it from the server, and `api.host` names the \
                    host in URIs";
        d.push(Diagnostic::error(message).at(realm.place).help(help));
    }
    if let Auto::Given(workers) = raw.top.workers.value
        && !(1..=1024).contains(&workers)
    {
        let diagnostic = Diagnostic::error(format!("`workers`: {workers} is out of range")).at(raw.top.workers.place);
        d.push(diagnostic.help("from 1 to 1024, or \"auto\" for one per core"));
    }
}

/// The host in what may be a URL, or a name with a port or a path.
fn host_in(text: &str) -> &str {
    let rest = text.trim();
    let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
    let rest = ["turns:", "turn:", "stuns:", "stun:"]
        .iter()
        .fold(rest, |rest, scheme| rest.strip_prefix(scheme).unwrap_or(rest));
    let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    rest.split(':').next().unwrap_or(rest).trim()
}

fn tls(raw: &Raw, d: &mut Diagnostics) {
    let lone = |d: &mut Diagnostics, there: &str, missing: &str, place| {
        let diagnostic = Diagnostic::error(format!("`tls.{there}` is set, `tls.{missing}` is not")).at(place);
        d.push(diagnostic.help("set both; without both, a self-signed certificate is made"));
    };
    match (&raw.tls.certificate, &raw.tls.private_key) {
        (Some(certificate), None) => lone(d, "certificate", "private_key", certificate.place),
        (None, Some(key)) => lone(d, "private_key", "certificate", key.place),
        _ => {}
    }
}

fn addresses(raw: &Raw, d: &mut Diagnostics) {
    let families = [
        (
            "ipv4",
            "IPv4",
            &raw.external.ipv4,
            &raw.relay.ipv4,
            IpAddr::is_ipv4 as fn(&IpAddr) -> bool,
        ),
        ("ipv6", "IPv6", &raw.external.ipv6, &raw.relay.ipv6, IpAddr::is_ipv6),
    ];
    for (key, family, external, relay, is_family) in families {
        let wrong = |d: &mut Diagnostics, section: &str, ip: IpAddr, place| {
            let diagnostic = Diagnostic::error(format!("`{section}.{key}`: {ip} is not an {family} address")).at(place);
            let other = if key == "ipv4" { "ipv6" } else { "ipv4" };
            d.push(diagnostic.help(format!("set `{section}.{other}` instead")));
        };
        match external.value {
            External::Fixed(ip) if !is_family(&ip) => wrong(d, "external", ip, external.place),
            External::Fixed(ip) if ip.is_unspecified() || ip.is_multicast() => {
                let message = format!("`external.{key}`: nobody can send to {ip}");
                d.push(
                    Diagnostic::error(message)
                        .at(external.place)
                        .help("set the address clients reach, or \"auto\""),
                );
            }
            External::Off if relay.is_given() && !matches!(relay.value, Auto::Auto) => {
                let message = format!("`relay.{key}` is set, but {family} is switched off");
                let diagnostic = Diagnostic::error(message).at(relay.place).also(external.place, "here");
                d.push(diagnostic.help(format!("remove `relay.{key}`, or set `external.{key} = \"auto\"`")));
            }
            _ => {}
        }
        match relay.value {
            Auto::Given(Host::Ip(ip)) if !is_family(&ip) => wrong(d, "relay", ip, relay.place),
            Auto::Given(Host::Ip(ip)) if ip.is_multicast() => {
                let diagnostic = Diagnostic::error(format!("`relay.{key}`: {ip} is a multicast address"));
                d.push(
                    diagnostic
                        .at(relay.place)
                        .help("set an address of this machine, or \"auto\""),
                );
            }
            _ => {}
        }
    }
    if raw.external.ipv4.value == External::Off && raw.external.ipv6.value == External::Off {
        let diagnostic =
            Diagnostic::error("both `external.ipv4` and `external.ipv6` are off: nothing could be relayed");
        let diagnostic = diagnostic
            .at(raw.external.ipv6.place)
            .also(raw.external.ipv4.place, "the other");
        d.push(diagnostic.help("set one of them to \"auto\""));
    }
}

fn ports(raw: &Raw, d: &mut Diagnostics) {
    let ports = &raw.relay.ports;
    let (first, last) = (*ports.value.0.start(), *ports.value.0.end());
    if first < 1024 {
        let message = format!("`relay.ports`: {first} is below 1024, where well-known services are (RFC 8656 §7.2)");
        let last = last.max(2047);
        d.push(
            Diagnostic::error(message)
                .at(ports.place)
                .help(format!("begin at 1024 or above: \"1024-{last}\"")),
        );
    }
    let count = ports.value.count();
    if count < 64 && first >= 1024 {
        let message = format!("`relay.ports`: {count} ports serve at most {count} allocations at a time");
        d.push(
            Diagnostic::warning(message)
                .at(ports.place)
                .help("the default is \"49152-65535\""),
        );
    }
    if let Auto::Given(allocations) = raw.limits.allocations.value {
        if !(1..=16_777_216).contains(&allocations) {
            let message = format!("`limits.allocations`: {allocations} is out of range");
            let diagnostic = Diagnostic::error(message).at(raw.limits.allocations.place);
            d.push(diagnostic.help("from 1 to 16777216, or \"auto\" for one per relay port"));
        } else if allocations > i128::from(count) {
            let message = format!("`limits.allocations` is {allocations}, but there are only {count} relay ports");
            let diagnostic = Diagnostic::warning(message).at(raw.limits.allocations.place);
            d.push(
                diagnostic
                    .also(ports.place, "the ports")
                    .help("widen `relay.ports`, or leave `limits.allocations` away"),
            );
        }
    }
}

fn peers(peers: &RawPeers, d: &mut Diagnostics) {
    for allow in &peers.allow.value {
        if let Some(deny) = peers.deny.value.iter().find(|deny| deny.value == allow.value) {
            let net = allow.value.0;
            let diagnostic = Diagnostic::error(format!("{net} is both allowed and denied")).at(deny.place);
            d.push(
                diagnostic
                    .also(allow.place, "allowed here")
                    .help("remove one; of different lengths the longer prefix wins"),
            );
        }
        if let Some(what) = opened_by(allow.value.0) {
            let message = format!("`peers.allow`: {} opens {what} to every client", allow.value.0);
            d.push(
                Diagnostic::warning(message)
                    .at(allow.place)
                    .help("allow the SFU's own addresses alone, as /32 or /128"),
            );
        }
    }
    if peers.only_allowed.value && peers.allow.value.is_empty() {
        let diagnostic =
            Diagnostic::error("`peers.only_allowed` is set and `peers.allow` is empty: no peer could be reached");
        d.push(
            diagnostic
                .at(peers.only_allowed.place)
                .help("list the SFU's networks in `peers.allow`"),
        );
    }
    for prefix in &peers.nat64.value {
        let message = match prefix.value.0 {
            IpNet::V4(net) => format!("`peers.nat64`: {net} is not an IPv6 prefix"),
            IpNet::V6(net) if ![32, 40, 48, 56, 64, 96].contains(&net.prefix_len()) => {
                format!("`peers.nat64`: {net} is none of the lengths of RFC 6052 §2.2")
            }
            IpNet::V6(_) => continue,
        };
        let help = "a NAT64 prefix is 32, 40, 48, 56, 64 or 96 bits long, for example \"2001:db8:64::/96\"";
        d.push(Diagnostic::error(message).at(prefix.place).help(help));
    }
    local_nat64(peers, d);
}

/// RFC 8215 leaves the length of the prefixes in there to the network.
fn local_nat64(peers: &RawPeers, d: &mut Diagnostics) {
    let local = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48));
    let named = |net: &IpNet| peers.nat64.value.iter().any(|one| one.value.0.contains(net));
    let opened = |net: &IpNet| local.contains(net) || net.contains(&local);
    let unnamed = peers.allow.value.iter().find(|one| {
        let net = &one.value.0;
        net.prefix_len() > 0 && opened(net) && !named(net)
    });
    if let Some(net) = unnamed {
        let message = format!(
            "`peers.allow`: the length of the NAT64 prefix in {} is not known",
            net.value.0
        );
        let help = "name it in `peers.nat64`; until then a peer is refused if any length would hide a refused address";
        d.push(Diagnostic::warning(message).at(net.place).help(help));
    }
}

/// What no client should reach, and `net` would let it.
fn opened_by(net: IpNet) -> Option<&'static str> {
    if net.prefix_len() == 0 {
        return Some("every address, private networks included,");
    }
    let holds = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip));
    if holds("169.254.169.254") || holds("fd00:ec2::254") || holds("100.100.100.200") {
        Some("the cloud's metadata service, which hands out credentials,")
    } else if (holds("127.0.0.1") && net.prefix_len() >= 8) || (holds("::1") && net.prefix_len() == 128) {
        Some("every service of this machine that listens on loopback")
    } else {
        None
    }
}

fn turn(turn: &RawTurn, d: &mut Diagnostics) {
    if turn.max_lifetime.value < turn.default_lifetime.value {
        let place = turn.max_lifetime.place.or(turn.default_lifetime.place);
        let diagnostic = Diagnostic::error("`turn.max_lifetime` is shorter than `turn.default_lifetime`").at(place);
        d.push(diagnostic.help("make it at least as long; the default is \"1h\""));
    }
    if let OffOr(Some(cap)) = turn.max_session.value
        && cap < turn.default_lifetime.value
    {
        let diagnostic = Diagnostic::error("`turn.max_session` is shorter than one `turn.default_lifetime`");
        d.push(
            diagnostic
                .at(turn.max_session.place)
                .help("make it several hours, or \"off\""),
        );
    }
    if let Some(SecretOrFile::Text(text)) = &turn.nonce_secret {
        secret(text.value.0.as_bytes(), "`turn.nonce_secret`", text.place, d);
    }
    if turn.compat.rfc3489_binding.value && !turn.binding.value {
        let message = "`turn.compat.rfc3489_binding` has no effect while `turn.binding` is off";
        let diagnostic = Diagnostic::warning(message).at(turn.compat.rfc3489_binding.place);
        d.push(diagnostic.also(turn.binding.place, "here").help("keep one of the two"));
    }
    if turn.software.value.chars().count() > 127 {
        let diagnostic = Diagnostic::error("`turn.software` has more than 127 characters (RFC 8489 §14.14)");
        d.push(
            diagnostic
                .at(turn.software.place)
                .help("shorten it, or write \"\" to send none"),
        );
    }
}

fn redirect(redirect: &RawRedirect, d: &mut Diagnostics) {
    let families = [
        ("ipv4", "IPv4", &redirect.ipv4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        ("ipv6", "IPv6", &redirect.ipv6, IpAddr::is_ipv6),
    ];
    for (key, family, address, is_family) in families {
        let Some(given) = address.value.0 else { continue };
        let ip = given.ip();
        if !is_family(&ip) {
            let message = format!("`turn.redirect.{key}`: {ip} is not an {family} address");
            let other = if key == "ipv4" { "ipv6" } else { "ipv4" };
            d.push(
                Diagnostic::error(message)
                    .at(address.place)
                    .help(format!("set `turn.redirect.{other}` instead")),
            );
        } else if ip.is_unspecified() || ip.is_multicast() {
            let message = format!("`turn.redirect.{key}`: nobody can allocate at {ip}");
            d.push(
                Diagnostic::error(message)
                    .at(address.place)
                    .help("set the address clients reach the other server at"),
            );
        }
    }
    let somewhere = redirect.ipv4.value.0.is_some() || redirect.ipv6.value.0.is_some();
    if somewhere && redirect.transports.value.is_empty() && redirect.serve_others.value.0.is_none() {
        let message = "`turn.redirect`: there is another server, but no client is ever sent to it";
        let diagnostic = Diagnostic::warning(message).at(redirect.transports.place);
        d.push(
            diagnostic
                .also(redirect.serve_others.place, "and here")
                .help("name a transport in `transports`, or set `serve_others` to a duration"),
        );
    }
    let domain = &redirect.domain;
    if domain.value.is_empty() {
        return;
    }
    if !is_host_name(&domain.value) || domain.value.len() > 127 {
        let message = format!("`turn.redirect.domain`: {:?} is not a host name", domain.value);
        d.push(
            Diagnostic::error(message)
                .at(domain.place)
                .help("write the name in the other server's certificate, or \"\""),
        );
    }
    if !somewhere {
        let diagnostic = Diagnostic::error("`turn.redirect.domain` is set, but there is no address to redirect to");
        d.push(
            diagnostic
                .at(domain.place)
                .help("set `turn.redirect.ipv4` or `turn.redirect.ipv6`: names are not looked up by clients"),
        );
    }
}

fn tcp_allocations(raw: &Raw, d: &mut Diagnostics) {
    let tcp = &raw.turn.tcp;
    if tcp.enabled.value && tcp.peer_ports.value.is_empty() {
        let diagnostic = Diagnostic::error("`turn.tcp_allocations.peer_ports` is empty: no peer could be reached");
        let help = "name the ports of your peers, or switch TCP allocations off";
        d.push(diagnostic.at(tcp.peer_ports.place).help(help));
    }
    if tcp.max_bytes.value == OffOr(Some(Bytes(0))) {
        let diagnostic = Diagnostic::error("`turn.tcp_allocations.max_bytes` is 0: nothing would be relayed");
        let help = "for example \"1GiB\", or \"off\" for no bound";
        d.push(diagnostic.at(tcp.max_bytes.place).help(help));
    }
    let mut protocols = raw
        .listeners
        .value
        .iter()
        .flat_map(|listener| &listener.protocols.value);
    if tcp.enabled.value
        && !raw.lacks_listeners
        && !protocols.any(|protocol| matches!(protocol.0, Protocol::Tcp | Protocol::Tls))
    {
        let message = "TCP allocations are on, and no listener speaks TCP or TLS: no client can ask for one (RFC 6062)";
        let help = "add \"tcp\" or \"tls\" to the protocols of a listener";
        d.push(Diagnostic::warning(message).at(tcp.enabled.place).help(help));
    }
}

fn limits(limits: &RawLimits, d: &mut Diagnostics) {
    if limits.connections_per_ip.value > limits.connections.value {
        let place = limits.connections_per_ip.place.or(limits.connections.place);
        let diagnostic = Diagnostic::warning("`limits.connections_per_ip` is more than `limits.connections`").at(place);
        d.push(diagnostic.help("one address alone can then take every connection"));
    }
    let core = &limits.core;
    if core.challenge_burst < core.challenges_per_second {
        let message = "`limits.challenge_burst` is less than `limits.challenges_per_second`: the rate is never reached";
        d.push(Diagnostic::warning(message).help("the burst is usually three times the rate"));
    }
}

fn listeners(raw: &Raw, d: &mut Diagnostics) {
    let list = &raw.listeners;
    if list.value.is_empty() && list.is_given() && !raw.lacks_listeners {
        let diagnostic = Diagnostic::error("the list of listeners is empty: nothing would be served").at(list.place);
        d.push(diagnostic.help("remove it for the default listeners, or add `[[listener]]` with a `bind`"));
    }
    for listener in &list.value {
        let protocols = &listener.protocols;
        if protocols.value.is_empty() {
            let diagnostic = Diagnostic::error(format!("the listener on {} has no protocols", listener.bind.value));
            d.push(
                diagnostic
                    .at(protocols.place)
                    .help("it can have \"udp\", \"dtls\", \"tcp\", \"tls\", \"https\""),
            );
        }
        if !cfg!(feature = "dtls") && protocols.value.contains(&OneOf(Protocol::Dtls)) {
            let diagnostic = Diagnostic::error(format!(
                "the listener on {} shall speak DTLS, and this program was built without it",
                listener.bind.value
            ));
            d.push(
                diagnostic
                    .at(protocols.place)
                    .help("remove \"dtls\" here, or build with `--features dtls`"),
            );
        }
        for (index, protocol) in protocols.value.iter().enumerate() {
            if protocols.value[..index].contains(protocol) {
                let diagnostic = Diagnostic::warning(format!(
                    "the listener on {} names a protocol twice",
                    listener.bind.value
                ));
                d.push(diagnostic.at(protocols.place));
            }
        }
    }
    let serves_turn = |protocols: &Located<Vec<OneOf<Protocol>>>| {
        protocols.value.iter().any(|protocol| protocol.0 != Protocol::Https)
    };
    if !list.value.is_empty()
        && !raw.lacks_listeners
        && !list.value.iter().any(|listener| serves_turn(&listener.protocols))
    {
        let diagnostic = Diagnostic::error("no listener speaks TURN").at(list.value[0].protocols.place);
        d.push(diagnostic.help("add \"udp\", \"dtls\", \"tcp\" or \"tls\" to its protocols"));
    }
}

fn admin_and_log(raw: &Raw, d: &mut Diagnostics) {
    if let Some(address) = raw.admin.address.value.0
        && (address.ip().is_unspecified() || !is_private(address.ip()))
    {
        let message =
            format!("`admin.address`: {address} can be reached from outside; metrics and health ask for no password");
        d.push(
            Diagnostic::warning(message)
                .at(raw.admin.address.place)
                .help("bind it to 127.0.0.1, or fence it with a firewall"),
        );
    }
    for host in &raw.admin.hosts.value {
        if host.value.parse::<IpAddr>().is_err() && !is_host_name(&host.value) {
            let message = format!("`admin.hosts`: {:?} is neither a host name nor an address", host.value);
            let help = "without scheme, port and path: \"metrics.example.org\"";
            d.push(Diagnostic::error(message).at(host.place).help(help));
        }
    }
    let level = &raw.log.level;
    if let Err(WrongLevel { message, help }) = check_level(&level.value) {
        let diagnostic = Diagnostic::error(format!("`log.level`: {message}")).at(level.place);
        d.push(diagnostic.help(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_opens_what_no_client_should_reach_is_told_by_what_it_holds() {
        let metadata = Some("the cloud's metadata service, which hands out credentials,");
        let loopback = Some("every service of this machine that listens on loopback");
        for (net, opened) in [
            ("0.0.0.0/0", Some("every address, private networks included,")),
            ("169.254.169.254/32", metadata),
            ("100.64.0.0/10", metadata),
            ("fd00:ec2::/64", metadata),
            ("127.0.0.0/8", loopback),
            ("127.0.0.1/32", loopback),
            ("::1/128", loopback),
            // Somebody names half of all addresses, or a network; no program is meant.
            ("112.0.0.0/4", None),
            ("::/64", None),
            ("127.0.0.2/32", None),
            ("10.0.0.0/8", None),
        ] {
            assert_eq!(opened_by(net.parse().expect("a network")), opened, "{net}");
        }
    }
}
