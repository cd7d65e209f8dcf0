//! Families of the workers' HTTP/3 flows.

use super::exposition::{Exposition, Sample, ShardSum};
use crate::shard::counters::{Http3Drop, Http3End};

/// In the order of the counters.
const DIRECTIONS: [&str; 2] = ["to_backend", "to_client"];

/// Adds them to `out`.
pub(super) fn collect(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.gauge(
        "relay_http3_flows",
        "HTTP/3 flows between clients and the backend of the front door.",
        Sample::plain(sum(&|c| &c.http3_flows)),
    );
    out.gauge(
        "relay_http3_flows_unproven",
        "The subset of these whose client has not yet proved that it receives from the backend.",
        Sample::plain(sum(&|c| &c.http3_unproven)),
    );
    out.counter(
        "relay_http3_flows_began_total",
        "HTTP/3 flows that began.",
        Sample::plain(sum(&|c| &c.http3_began)),
    );
    out.counter(
        "relay_http3_flows_ended_total",
        "HTTP/3 flows that ended, by why.",
        Http3End::ALL
            .iter()
            .enumerate()
            .map(|(i, why)| Sample::with([("why", why.as_str())], sum(&|c| &c.http3_ended[i]))),
    );
    let directions = || DIRECTIONS.into_iter().enumerate();
    out.counter(
        "relay_http3_datagrams_total",
        "HTTP/3 datagrams forwarded.",
        directions().map(|(i, direction)| Sample::with([("direction", direction)], sum(&|c| &c.http3_datagrams[i]))),
    );
    out.counter(
        "relay_http3_bytes_total",
        "HTTP/3 bytes forwarded.",
        directions().map(|(i, direction)| Sample::with([("direction", direction)], sum(&|c| &c.http3_bytes[i]))),
    );
    out.counter(
        "relay_http3_dropped_datagrams_total",
        "HTTP/3 datagrams dropped, by reason.",
        Http3Drop::ALL
            .iter()
            .enumerate()
            .map(|(i, reason)| Sample::with([("reason", reason.as_str())], sum(&|c| &c.http3_dropped[i]))),
    );
    out.counter(
        "relay_http3_backend_errors_total",
        "ICMP errors from the address of the HTTP/3 backend.",
        Sample::plain(sum(&|c| &c.http3_backend_errors)),
    );
}
