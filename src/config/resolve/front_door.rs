//! Servers behind the front door, and that none of them is this one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::Purpose;
use super::super::cross_checks::own_names;
use super::super::reader::diagnostic::{Diagnostic, SourceSpan};
use super::super::sections::Raw;
use super::super::settings::{BackendAddress, FrontDoorSettings, Http3Settings, ListenerSettings, RouteSettings};
use super::Context;
use super::capacity::{Capacity, per_network};
use super::listeners::{Resolved, is_stream, is_udp};
use crate::shard::Http3Limits;

/// What is written, within what the open files allow.
pub(super) fn bounded(raw: &Raw, capacity: &Capacity, cx: &mut Context<'_>) -> FrontDoorSettings {
    let settings = settings(raw);
    let http3 = &raw.front_door.http3;
    FrontDoorSettings {
        http3: Http3Settings {
            limits: Http3Limits {
                flows: capacity.flows,
                flows_per_network: per_network(
                    "front_door.http3.flows_per_network",
                    &http3.flows_per_network,
                    http3.limits.flows_per_ip,
                    Some(capacity.flows),
                    cx,
                ),
                ..settings.http3.limits
            },
            ..settings.http3
        },
        connections: capacity.backends,
        ..settings
    }
}

/// What is written.
pub(super) fn settings(raw: &Raw) -> FrontDoorSettings {
    let front_door = &raw.front_door;
    FrontDoorSettings {
        routes: front_door
            .routes
            .value
            .iter()
            .map(|route| RouteSettings {
                names: route.names.value.iter().map(|name| name.value.0.clone()).collect(),
                backend: route.backend.value.clone(),
                proxy_header: route.proxy_header.value,
            })
            .collect(),
        // Without routes nobody asks for them, and they are nothing a reload would have to wait for.
        own_names: if front_door.routes.value.is_empty() {
            Vec::new()
        } else {
            own_names(raw)
        },
        http_upstream: front_door.http_upstream.value.0.clone(),
        http3: Http3Settings {
            backend: front_door.http3.backend.value.0.clone(),
            limits: front_door.http3.limits.clone(),
        },
        connections: front_door.connections.value,
        connect_timeout: front_door.connect_timeout.value,
        answer_timeout: front_door.answer_timeout.value,
        first_bytes_timeout: front_door.first_bytes_timeout.value,
        body_rate: front_door.body_rate.value.0 as u64,
        body_pause: front_door.body_pause.value,
        body_timeout: front_door.body_timeout.value,
        idle_timeout: front_door.idle_timeout.value,
    }
}

/// Where the servers behind this one are now. A name that leads nowhere is looked up again while the server runs.
pub(super) fn resolve(raw: &Raw, cx: &Context<'_>) -> Vec<SocketAddr> {
    if cx.purpose == Purpose::Mint {
        return Vec::new();
    }
    let settings = settings(raw);
    let all = settings
        .backends()
        .filter_map(|backend| cx.env.resolve(&backend.host, backend.port).ok());
    let mut all: Vec<_> = all.flatten().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is passed on to this server itself would come back for ever, or show strangers what is for operators.
pub(super) fn check(raw: &Raw, all: &[Resolved<'_>], cx: &mut Context<'_>) {
    let routes = raw.front_door.routes.value.iter();
    let backends = routes.map(|route| ("front_door.route.backend", &route.backend.value, route.backend.place));
    let upstream = &raw.front_door.http_upstream;
    let upstream = upstream
        .value
        .0
        .as_ref()
        .map(|address| ("front_door.http_upstream", address, upstream.place));
    for (key, backend, place) in backends.chain(upstream) {
        if let Some(what) = own(raw.admin.address.value.0, all, is_stream, backend, cx) {
            report(key, backend, place, what, cx);
        }
    }
    let http3 = &raw.front_door.http3.backend;
    if let Some(backend) = &http3.value.0
        && let Some(what) = own(None, all, is_udp, backend, cx)
    {
        report("front_door.http3.backend", backend, http3.place, what, cx);
    }
}

fn report(key: &str, backend: &BackendAddress, place: Option<SourceSpan>, what: &str, cx: &mut Context<'_>) {
    let diagnostic = Diagnostic::error(format!("`{key}`: {backend} is {what}")).at(place);
    cx.d.push(diagnostic.help("write the address of the other server"));
}

/// Which of our own `backend` is: `admin`, or one of the listeners that are `alike`.
fn own(
    admin: Option<SocketAddr>,
    all: &[Resolved<'_>],
    alike: fn(&ListenerSettings) -> bool,
    backend: &BackendAddress,
    cx: &Context<'_>,
) -> Option<&'static str> {
    let ip = match backend.host.as_str() {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().ok()?,
    };
    let here = cx.machine.has(ip);
    let leads_to = |bound: &SocketAddr| {
        let same = bound.ip() == ip || (here && bound.ip().is_unspecified() && bound.is_ipv4() == ip.is_ipv4());
        same && bound.port() == backend.port
    };
    let listener = |resolved: &Resolved<'_>| alike(&resolved.1) && resolved.1.addresses.iter().any(leads_to);
    if admin.as_ref().is_some_and(leads_to) {
        Some("the admin listener, which is not for clients")
    } else if all.iter().any(listener) {
        Some("a listener of this server itself")
    } else {
        None
    }
}
