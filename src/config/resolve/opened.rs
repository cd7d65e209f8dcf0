//! What `peers.allow` opens of this machine, and what it does not although somebody may think so.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::value::{NetworkOrAddress, Placed};
use super::super::sections::Raw;
use super::Context;
use crate::turn::config::RelayConfig;
use crate::turn::policy::{PeerPolicy, PolicyConfig};

/// Addresses that one warning names.
const TOLD: usize = 4;

/// Warns of both.
pub(super) fn warn(raw: &Raw, policy: &PeerPolicy, config: &PolicyConfig, relay: &RelayConfig, cx: &mut Context<'_>) {
    let interfaces = cx.machine.interfaces.iter().map(|interface| interface.ip);
    let mut own: Vec<IpAddr> = interfaces.chain(relay.own_ips()).collect();
    // That loopback is opened is told by the checks already.
    own.retain(|ip| !ip.is_loopback());
    own.sort_unstable();
    own.dedup();
    for allow in &raw.peers.allow.value {
        let net = allow.value.0;
        if is_single(net) {
            opened(allow, &own, relay, cx);
        } else {
            stays_closed(allow, &own, policy, config, cx);
        }
    }
}

fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// A media server on this machine needs its address opened; everything else that listens there is opened with it.
fn opened(allow: &Placed<NetworkOrAddress>, own: &[IpAddr], relay: &RelayConfig, cx: &mut Context<'_>) {
    let ip = allow.value.0.addr();
    if !own.contains(&ip) {
        return;
    }
    let message = format!("`peers.allow` opens {ip}, an address of this machine: clients reach the programs there");
    let mut help = "needed for a media server on this machine (docs/recipes/livekit.md, \"On one machine\"); \
                    what the relay listens on stays closed"
        .to_owned();
    if relay.own_ips().any(|own| own == ip) {
        let (first, last) = relay.announced_ports().into_inner();
        help.push_str(&format!(
            ", and a port of {first}-{last} is a client's relayed address while one has it: give the media server others"
        ));
    }
    cx.d.push(Diagnostic::warning(message).at(allow.place).help(help));
}

/// A network opens nothing of ours. Who meant to open it has to name it.
fn stays_closed(
    allow: &Placed<NetworkOrAddress>,
    own: &[IpAddr],
    policy: &PeerPolicy,
    config: &PolicyConfig,
    cx: &mut Context<'_>,
) {
    let net = allow.value.0;
    let wide = cx
        .machine
        .networks
        .iter()
        .copied()
        .filter(|it| !is_single(*it) && !it.addr().is_loopback());
    let elsewhere = config
        .backends
        .iter()
        .chain(&config.redirects)
        .map(|at| at.ip())
        .filter(|ip| !ip.is_loopback());
    let own = own.iter().copied().map(IpNet::from).chain(wide);
    let all = own.map(|own| (own, "of this machine"));
    let all = all.chain(elsewhere.map(|ip| (ip.into(), "of a server that clients are passed on or sent to")));
    let held = all.filter(|(own, _)| net.contains(own) || own.contains(&net));
    let mut closed: Vec<(IpNet, &str)> = held.filter(|(own, _)| !policy.opens(own.addr())).collect();
    closed.sort_unstable_by_key(|(own, _)| *own);
    closed.dedup_by_key(|(own, _)| *own);
    let Some(&(first, whose)) = closed.first() else { return };
    let names: Vec<String> = closed.iter().take(TOLD).map(|(own, _)| name(*own)).collect();
    let more = closed.len().saturating_sub(TOLD);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let whose = if closed.iter().all(|(_, it)| *it == whose) {
        whose
    } else {
        "of this machine or servers behind it"
    };
    let message = format!("`peers.allow`: {net} does not open {}{more}, {whose}", names.join(", "));
    let example = first.addr();
    cx.d.push(Diagnostic::warning(message).at(allow.place).help(format!(
        "if a media server for clients is there, write its address as well: \"{example}/{}\"; else all is well",
        first.max_prefix_len()
    )));
}

/// A network of one address is that address.
fn name(net: IpNet) -> String {
    if is_single(net) {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}
