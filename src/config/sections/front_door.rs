//! `[front_door]`.

use core::time::Duration;

use super::{DAY, HOUR, MINUTE, SECOND};
use crate::config::reader::key::{ConfigKey, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Bytes, OffOr, Placed, ServerName};
use crate::config::settings::{BackendAddress, FrontDoorSettings};
use crate::shard::Http3Limits;

const HTTP_UPSTREAM: ConfigKey = restart(
    "http_upstream",
    "A web server that receives, over plain HTTP/1.1, every request for the server's own names that is \
     not for the API.",
);

const CONNECTIONS: ConfigKey = restart(
    "connections",
    "Connections and requests with backends at a time, so that a busy site leaves room for calls.\n\n\
     When the limit is reached, the source with the most (IPv4 address, IPv6 /64; networks of many \
     likewise) loses one to a client with fewer. They count in `limits.connections` and \
     `limits.connections_per_ip` as well.",
);

const CONNECT_TIMEOUT: ConfigKey = restart(
    "connect_timeout",
    "Time to connect to a backend, including its name lookup.",
);

const ANSWER_TIMEOUT: ConfigKey = restart(
    "answer_timeout",
    "Time until an HTTP response begins, from the last byte of the request.\n\n\
     Raise it for long polls.",
);

const FIRST_BYTES_TIMEOUT: ConfigKey = restart(
    "first_bytes_timeout",
    "Time until both ends of a forwarded TLS connection have sent something, until the body of a request \
     begins, until the web server agrees to WebSocket, and until one end of that sends something.\n\n\
     Raise it for WebSocket on which neither end sends first.",
);

const BODY_RATE: ConfigKey = restart(
    "body_rate",
    "Bytes per second that the body of a request must reach while the relay waits for it.\n\n\
     A slower body is answered with 408.",
);

const BODY_PAUSE: ConfigKey = restart(
    "body_pause",
    "How far a body may fall behind `body_rate`: the longest pause in an upload.",
);

const BODY_TIMEOUT: ConfigKey = restart(
    "body_timeout",
    "Time for the whole body of a request.\n\n\
     Raise it for uploads that take longer.",
);

const IDLE_TIMEOUT: ConfigKey = restart(
    "idle_timeout",
    "A connection to a backend without traffic, WebSocket included, is closed after this time.",
);

const ROUTE: ConfigKey = restart("route", "Names that belong to another server.");

const ROUTE_NAMES: ConfigKey = restart(
    "names",
    "Names in the ClientHello (SNI): `\"www.example.org\"`; `\"*.example.org\"` matches every name one \
     label below, as in certificates.",
);

const ROUTE_BACKEND: ConfigKey = restart(
    "backend",
    "Where their connections go, still encrypted.\n\n\
     The name is resolved for each connection.",
);

const ROUTE_PROXY_HEADER: ConfigKey = restart(
    "proxy_header",
    "Send the backend a PROXY header, version 2, with the client's address.\n\n\
     It must expect one.",
);

const HTTP3_BACKEND: ConfigKey = restart(
    "backend",
    "A web server that receives QUIC from the UDP sockets of these listeners, for HTTP/3 beside TURN on \
     UDP 443.\n\n\
     [How to set it up](operations.md#http3-on-the-same-port). One backend for all names. Its name is \
     resolved every minute.",
);

const HTTP3_FLOWS: ConfigKey = restart(
    "flows",
    "Clients (five-tuples) it may have at a time; each takes a file descriptor.\n\n\
     At the limit, among clients that have not yet shown that they receive the backend's packets, the \
     source with the most loses its oldest.",
);

const HTTP3_FLOWS_PER_IP: ConfigKey = restart(
    "flows_per_ip",
    "The same from one IPv4 address or IPv6 /64.\n\n\
     Raise it if many clients share a NAT.",
);

const HTTP3_FLOWS_PER_NETWORK: ConfigKey = restart("flows_per_network", "The same from one network.");

const HTTP3_NEW_FLOWS_PER_SECOND: ConfigKey = restart(
    "new_flows_per_second",
    "New clients per second, all sources together: this bounds what a flood from forged addresses can \
     cost.\n\n\
     Sources that already have a flow leave half of the burst to those without. A refused client uses \
     HTTP over TCP.",
);

const HTTP3_IDLE_TIMEOUT: ConfigKey = restart(
    "idle_timeout",
    "A client is removed when no packet arrives for this time in either direction.\n\n\
     Keep it longer than the idle time of the backend's QUIC. A client that has not shown that it \
     receives the backend's packets is removed after `limits.handshake_timeout`.",
);

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
    /// All but `flows_per_network`.
    pub(in crate::config) limits: Http3Limits,
    pub(in crate::config) flows_per_network: Located<Auto<u32>>,
}

pub(in crate::config) struct RawRoute {
    pub(in crate::config) names: Located<Vec<Placed<ServerName>>>,
    pub(in crate::config) backend: Located<BackendAddress>,
    pub(in crate::config) proxy_header: Located<bool>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawFrontDoor {
    let d = FrontDoorSettings::default();
    RawFrontDoor {
        http_upstream: s.value(HTTP_UPSTREAM, OffOr(d.http_upstream)),
        connections: s.number(CONNECTIONS, d.connections, 1..=16_777_216),
        connect_timeout: s.within(CONNECT_TIMEOUT, d.connect_timeout, SECOND..=MINUTE),
        answer_timeout: s.within(ANSWER_TIMEOUT, d.answer_timeout, SECOND..=HOUR),
        first_bytes_timeout: s.within(FIRST_BYTES_TIMEOUT, d.first_bytes_timeout, SECOND..=HOUR),
        body_rate: s.within(BODY_RATE, Bytes(1 << 10), Bytes(1)..=Bytes(1 << 30)),
        body_pause: s.within(BODY_PAUSE, d.body_pause, SECOND..=HOUR),
        body_timeout: s.within(BODY_TIMEOUT, d.body_timeout, SECOND..=DAY),
        idle_timeout: s.within(IDLE_TIMEOUT, d.idle_timeout, SECOND..=DAY),
        routes: s.tables(ROUTE, Vec::new(), |route, place| {
            let names = route.required(ROUTE_NAMES, "[\"www.example.org\"]", place);
            let backend = route.required(ROUTE_BACKEND, "\"127.0.0.1:8443\"", place);
            let proxy_header = route.value(ROUTE_PROXY_HEADER, false);
            Some(RawRoute {
                names: names?,
                backend: backend?,
                proxy_header,
            })
        }),
        http3: s.section("http3", http3),
    }
}

fn http3(s: &mut Section<'_, '_>) -> RawHttp3 {
    let (d, most) = (Http3Limits::default(), Http3Limits::MOST_FLOWS);
    let backend = s.value(HTTP3_BACKEND, OffOr(None));
    let flows = s.number(HTTP3_FLOWS, d.flows, 1..=most).value;
    let flows_per_ip = s.number(HTTP3_FLOWS_PER_IP, d.flows_per_ip, 1..=most).value;
    let flows_per_network = s.auto_number(HTTP3_FLOWS_PER_NETWORK, 1..=most);
    let new_flows = s.number(HTTP3_NEW_FLOWS_PER_SECOND, d.new_flows_per_second, 1..=1_000_000);
    RawHttp3 {
        backend,
        limits: Http3Limits {
            flows,
            flows_per_ip,
            new_flows_per_second: new_flows.value,
            idle_timeout: s.within(HTTP3_IDLE_TIMEOUT, d.idle_timeout, SECOND..=HOUR).value,
            ..d
        },
        flows_per_network,
    }
}
