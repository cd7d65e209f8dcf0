//! Per family: where relay sockets are bound, and which address is announced for them.

use std::net::{IpAddr, Ipv4Addr};

use super::super::diagnostic::Diagnostic;
use super::super::reader::Located;
use super::super::schema::Raw;
use super::super::value::{Auto, External};
use super::Context;
use crate::service::external::is_private;
use crate::turn::config::{RelayAddress, RelayConfig};
use crate::turn::types::Family;

/// What was found.
pub(super) struct Found {
    pub(super) relay: RelayConfig,
    /// Each address with how it was found, for the log.
    pub(super) told: Vec<(IpAddr, String)>,
}

impl Found {
    /// Where a configuration is only looked at, on a machine it is not for.
    pub(super) fn none(raw: &Raw) -> Self {
        let relay = RelayConfig {
            ipv4: None,
            ipv6: None,
            ports: raw.relay.ports.value.0.clone(),
        };
        Self {
            relay,
            told: Vec::new(),
        }
    }
}

/// One family's keys.
struct Keys<'a> {
    family: Family,
    /// `ipv4`.
    key: &'static str,
    /// `IPv4`.
    name: &'static str,
    external: &'a Located<External>,
    relay: &'a Located<Auto<IpAddr>>,
}

/// `None` if something is wrong.
pub(super) fn find(raw: &Raw, cx: &mut Context<'_>) -> Option<Found> {
    let ipv4 = Keys {
        family: Family::V4,
        key: "ipv4",
        name: "IPv4",
        external: &raw.external.ipv4,
        relay: &raw.relay.ipv4,
    };
    let ipv6 = Keys {
        family: Family::V6,
        key: "ipv6",
        name: "IPv6",
        external: &raw.external.ipv6,
        relay: &raw.relay.ipv6,
    };
    let before = cx.d.counts().0;
    let mut told = Vec::new();
    let mut one = |keys: &Keys<'_>, cx: &mut Context<'_>| {
        let (address, how) = one_family(keys, raw, cx)?;
        cx.effective.note(
            &format!("external.{}", keys.key),
            format!("{}, {how}", address.announced),
        );
        cx.effective
            .note(&format!("relay.{}", keys.key), address.bind.to_string());
        told.push((address.announced, how));
        Some(address)
    };
    let mut relay = RelayConfig {
        ipv4: one(&ipv4, cx),
        ipv6: one(&ipv6, cx),
        ports: raw.relay.ports.value.0.clone(),
    };
    if cx.d.counts().0 > before {
        return None;
    }
    // Both off is reported by the checks already.
    let off = |keys: &Keys<'_>| keys.external.value == External::Off;
    if relay.ipv4.is_none() && relay.ipv6.is_none() && !(off(&ipv4) && off(&ipv6)) {
        if ipv4.external.value != External::Auto {
            let diagnostic = cx.here("this machine has no address to relay from");
            cx.d.push(
                diagnostic
                    .at(raw.external.ipv6.place)
                    .help("set `external.ipv4` and `relay.ipv4`"),
            );
            return None;
        }
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        relay.ipv4 = Some(RelayAddress {
            bind: ip,
            announced: ip,
        });
        told.push((ip, "loopback: this machine has no other".into()));
        let diagnostic = Diagnostic::warning("this machine has no address but loopback: nobody else can be relayed");
        cx.d.push(diagnostic.help("connect it to a network, or set `external.ipv4`"));
    }
    Some(Found { relay, told })
}

/// The address, and how it was found; `None` if the family is not served, or something is wrong.
fn one_family(keys: &Keys<'_>, raw: &Raw, cx: &mut Context<'_>) -> Option<(RelayAddress, String)> {
    let of_family = |ip: &IpAddr| Family::of(*ip) == keys.family;
    let given = match keys.relay.value {
        Auto::Given(ip) if of_family(&ip) => Some(ip),
        Auto::Given(_) | Auto::Auto => None,
    };
    if let Some(ip) =
        given.filter(|ip| keys.external.value != External::Off && !ip.is_multicast() && !cx.env.can_bind(*ip))
    {
        let diagnostic = cx.here(format!("`relay.{}`: {ip} is not an address of this machine", keys.key));
        cx.d.push(diagnostic.at(keys.relay.place).maybe_help(own_addresses(keys, cx)));
    }
    match &keys.external.value {
        External::Off => None,
        External::Fixed(ip) if of_family(ip) => {
            let here = cx.env.interfaces().iter().any(|interface| interface.ip == *ip);
            let bind = given
                .or_else(|| here.then_some(*ip))
                .or_else(|| own(keys, cx).map(|own| own.0));
            let Some(bind) = bind else {
                let message = format!(
                    "`external.{}` is set, but this machine has no {} address",
                    keys.key, keys.name
                );
                let diagnostic = cx.here(message).at(keys.external.place);
                cx.d.push(diagnostic.help(format!("set `relay.{}` to the local address to relay from", keys.key)));
                return None;
            };
            Some((RelayAddress { bind, announced: *ip }, "as configured".into()))
        }
        // Reported by the checks already.
        External::Fixed(_) => None,
        External::Auto => auto(keys, given, cx),
        External::Stun { host, port } => stun(keys, given, host, *port, raw, cx),
    }
}

fn auto(keys: &Keys<'_>, given: Option<IpAddr>, cx: &mut Context<'_>) -> Option<(RelayAddress, String)> {
    let specific = given.filter(|ip| !ip.is_unspecified());
    let (announced, how) = match specific {
        Some(ip) => (ip, format!("as `relay.{}`", keys.key)),
        None => own(keys, cx)?,
    };
    if is_private(announced) {
        let message = format!(
            "`external.{} = \"auto\"` found only {announced}, an address without meaning on the Internet",
            keys.key
        );
        let diagnostic = Diagnostic::warning(message).at(keys.external.place);
        cx.d.push(diagnostic.help(format!(
            "within that network all is well; else set `external.{0}` to the public address, to \"stun:host:port\", or to \"off\"",
            keys.key
        )));
    }
    Some((
        RelayAddress {
            bind: given.unwrap_or(announced),
            announced,
        },
        how,
    ))
}

/// This machine's own address: where the default route leaves, else that of any interface.
fn own(keys: &Keys<'_>, cx: &Context<'_>) -> Option<(IpAddr, String)> {
    let interfaces = cx.env.interfaces();
    let usable = |ip: IpAddr| {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        Family::of(ip) == keys.family && !ip.is_loopback() && !ip.is_unspecified() && !link_local
    };
    if let Some(ip) = cx.env.route_source(keys.family).filter(|ip| usable(*ip)) {
        let name = interfaces
            .iter()
            .find(|interface| interface.ip == ip)
            .map_or("", |interface| &interface.name);
        return Some((
            ip,
            format!("address of the default route's interface {name}")
                .trim_end()
                .to_owned(),
        ));
    }
    let interface = interfaces.into_iter().find(|interface| usable(interface.ip))?;
    Some((
        interface.ip,
        format!("address of {}; there is no default route", interface.name),
    ))
}

fn stun(
    keys: &Keys<'_>,
    given: Option<IpAddr>,
    host: &str,
    port: u16,
    raw: &Raw,
    cx: &mut Context<'_>,
) -> Option<(RelayAddress, String)> {
    let fail = |cx: &mut Context<'_>, why: String| {
        let diagnostic = cx
            .here(format!("`external.{}`: {why}", keys.key))
            .at(keys.external.place);
        cx.d.push(
            diagnostic.help("check the server's name and that UDP to it is let through, or set the address itself"),
        );
        None
    };
    let server = match cx.env.resolve(host, port) {
        Ok(all) => all.into_iter().find(|address| Family::of(address.ip()) == keys.family),
        Err(error) => return fail(cx, format!("cannot look up {host}: {error}")),
    };
    let Some(server) = server else {
        return fail(cx, format!("{host} has no {} address", keys.name));
    };
    let Some(bind) = given.or_else(|| own(keys, cx).map(|own| own.0)) else {
        return fail(cx, format!("this machine has no {} address to ask from", keys.name));
    };
    match cx.env.ask_stun(server, bind, raw.external.stun_timeout.value) {
        Ok(announced) if Family::of(announced) == keys.family => Some((
            RelayAddress { bind, announced },
            format!("as the STUN server {host}:{port} sees it"),
        )),
        Ok(other) => fail(cx, format!("{host} answered with {other}")),
        Err(error) => fail(cx, format!("the STUN server {host}:{port} ({server}): {error}")),
    }
}

fn own_addresses(keys: &Keys<'_>, cx: &Context<'_>) -> Option<String> {
    let all = cx.env.interfaces().into_iter().map(|interface| interface.ip);
    let all: Vec<String> = all
        .filter(|ip| Family::of(*ip) == keys.family)
        .map(|ip| ip.to_string())
        .collect();
    (!all.is_empty()).then(|| format!("it has {}", all.join(", ")))
}
