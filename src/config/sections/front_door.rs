//! `[front_door]`.

use core::time::Duration;

use super::{DAY, HOUR, MINUTE, SECOND};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Bytes, OffOr, Placed, ServerName};
use crate::config::settings::{BackendAddress, FrontDoorSettings};
use crate::shard::Http3Config;

pub(in crate::config) struct RawFrontDoor {
    pub(in crate::config) http_upstream: Located<OffOr<BackendAddress>>,
    pub(in crate::config) connections: Located<usize>,
    pub(in crate::config) connect_timeout: Located<Duration>,
    pub(in crate::config) answer_timeout: Located<Duration>,
    pub(in crate::config) first_bytes_timeout: Located<Duration>,
    pub(in crate::config) body_rate: Located<Bytes>,
    pub(in crate::config) body_pause: Located<Duration>,
    pub(in crate::config) body_timeout: Located<Duration>,
    pub(in crate::config) idle_timeout: Located<Duration>,
    pub(in crate::config) routes: Located<Vec<RawRoute>>,
    pub(in crate::config) http3: RawHttp3,
}

pub(in crate::config) struct RawHttp3 {
    pub(in crate::config) backend: Located<OffOr<BackendAddress>>,
    pub(in crate::config) flows: Located<u32>,
    pub(in crate::config) flows_per_ip: Located<u32>,
    pub(in crate::config) flows_per_network: Located<Auto<u32>>,
    pub(in crate::config) new_flows_per_second: Located<u32>,
    pub(in crate::config) idle_timeout: Located<Duration>,
}

pub(in crate::config) struct RawRoute {
    pub(in crate::config) names: Located<Vec<Placed<ServerName>>>,
    pub(in crate::config) backend: Located<BackendAddress>,
    pub(in crate::config) proxy_header: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawFrontDoor {
    let d = FrontDoorSettings::default();
    RawFrontDoor {
        http_upstream: s.value("http_upstream", OffOr(d.http_upstream)),
        connections: s.number("connections", d.connections, 1..=16_777_216),
        connect_timeout: s.within("connect_timeout", d.connect_timeout, SECOND..=MINUTE),
        answer_timeout: s.within("answer_timeout", d.answer_timeout, SECOND..=HOUR),
        first_bytes_timeout: s.within("first_bytes_timeout", d.first_bytes_timeout, SECOND..=HOUR),
        body_rate: s.within("body_rate", Bytes(1 << 10), Bytes(1)..=Bytes(1 << 30)),
        body_pause: s.within("body_pause", d.body_pause, SECOND..=HOUR),
        body_timeout: s.within("body_timeout", d.body_timeout, SECOND..=DAY),
        idle_timeout: s.within("idle_timeout", d.idle_timeout, SECOND..=DAY),
        routes: s.tables("route", Vec::new(), |route, place| {
            let names = route.required("names", "[\"www.example.org\"]", place);
            let backend = route.required("backend", "\"127.0.0.1:8443\"", place);
            let proxy_header = route.value("proxy_header", false);
            Some(RawRoute {
                names: names?,
                backend: backend?,
                proxy_header,
            })
        }),
        http3: s.section("http3", |s| RawHttp3 {
            backend: s.value("backend", OffOr(d.http3.backend)),
            flows: s.number("flows", d.http3.flows, 1..=Http3Config::MOST_FLOWS),
            flows_per_ip: s.number("flows_per_ip", d.http3.flows_per_ip, 1..=Http3Config::MOST_FLOWS),
            flows_per_network: s.auto_number("flows_per_network", 1..=Http3Config::MOST_FLOWS),
            new_flows_per_second: s.number("new_flows_per_second", d.http3.new_flows_per_second, 1..=1_000_000),
            idle_timeout: s.within("idle_timeout", d.http3.idle_timeout, SECOND..=HOUR),
        }),
    }
}
