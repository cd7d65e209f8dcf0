//! Families of the core: sums of the shards' counters.

use std::sync::Arc;

use super::exposition::{Exposition, Sample};
use crate::base::address::Transport;
use crate::base::cell::Cell;
use crate::turn::PortGauges;
use crate::turn::counters::{Counters, Direction, ERROR_CODES, METHODS};
use crate::turn::output::{ConnectionEnd, DropReason, EndReason, PeerRefusal};
use crate::turn::policy::Denied;
use crate::turn::refusal::RefusalReason;
use crate::turn::types::Path;

/// Adds them to `out`.
pub(super) fn collect(shards: &[Arc<Counters>], ports: &PortGauges, out: &mut Exposition) {
    let sum = |cell: &dyn Fn(&Counters) -> &Cell| shards.iter().map(|shard| cell(shard).get()).sum::<u64>();

    packets(&sum, out);
    traffic(&sum, out);
    out.counter(
        "relay_requests_total",
        "STUN and TURN requests, by method.",
        METHODS
            .iter()
            .enumerate()
            .map(|(i, method)| Sample::with([("method", method)], sum(&|c| &c.requests[i]))),
    );
    out.counter(
        "relay_error_responses_total",
        "STUN error responses sent, by error code.",
        ERROR_CODES
            .iter()
            .enumerate()
            .map(|(i, code)| Sample::with([("code", &code.to_string())], sum(&|c| &c.errors[i]))),
    );
    refusals(&sum, out);
    out.counter(
        "relay_forced_refused_total",
        "Allocate requests of forced logins refused because they arrived on another listener, by the client's transport.",
        Transport::ALL.iter().map(|transport| {
            Sample::with(
                [("transport", transport.as_str())],
                sum(&|c| &c.forced_refused[*transport as usize]),
            )
        }),
    );
    allocations(&sum, out);
    tcp(&sum, out);
    out.gauge(
        "relay_ports_in_use",
        "Relay ports in use or reserved.",
        Sample::plain(ports.used()),
    );
    out.gauge(
        "relay_ports_limit",
        "Relay ports available.",
        Sample::plain(ports.total()),
    );
}

type Sum<'a> = dyn Fn(&dyn Fn(&Counters) -> &Cell) -> u64 + 'a;

fn refusals(sum: &Sum<'_>, out: &mut Exposition) {
    out.counter(
        "relay_refusals_total",
        "Refused logins, allocations and requests about allocations, by reason.",
        RefusalReason::ALL.iter().map(|reason| {
            Sample::with(
                [("reason", reason.as_str())],
                sum(&|c| &c.refusals.reasons[*reason as usize]),
            )
        }),
    );
    out.counter(
        "relay_peers_refused_total",
        "The subset of these for a peer that the policy forbids (peer_denied), by its rule.",
        Denied::ALL.iter().map(|rule| {
            Sample::with(
                [("rule", rule.as_str())],
                sum(&|c| &c.refusals.peer_rules[*rule as usize]),
            )
        }),
    );
}

fn packets(sum: &Sum<'_>, out: &mut Exposition) {
    out.counter(
        "relay_received_packets_total",
        "Packets and stream messages from clients and peers. Each has one verdict.",
        Sample::plain(sum(&|c| &c.received)),
    );
    let dropped = (0..DropReason::ALL.len()).map(|i| sum(&|c| &c.dropped[i])).sum::<u64>();
    out.counter(
        "relay_verdicts_total",
        "Outcome of packets: relayed, answered, waiting for a relay socket, or dropped.",
        [
            Sample::with([("verdict", "relayed")], sum(&|c| &c.relayed)),
            Sample::with([("verdict", "answered")], sum(&|c| &c.answered)),
            Sample::with([("verdict", "waiting")], sum(&|c| &c.waiting)),
            Sample::with([("verdict", "dropped")], dropped),
        ],
    );
    out.counter(
        "relay_dropped_packets_total",
        "Packets dropped, by reason.",
        DropReason::ALL
            .iter()
            .map(|reason| Sample::with([("reason", reason.as_str())], sum(&|c| &c.dropped[*reason as usize]))),
    );
}

fn traffic(sum: &Sum<'_>, out: &mut Exposition) {
    let samples = |pick: fn(&Direction) -> &Cell| {
        let legs = Path::ALL
            .into_iter()
            .flat_map(|path| Transport::ALL.map(|transport| (path, transport)));
        legs.flat_map(move |(path, transport)| {
            let labels = |direction| {
                [
                    ("direction", direction),
                    ("path", path.as_str()),
                    ("transport", transport.as_str()),
                ]
            };
            let (path, transport) = (path as usize, transport as usize);
            [
                Sample::with(labels("up"), sum(&|c| pick(&c.up[path][transport]))),
                Sample::with(labels("down"), sum(&|c| pick(&c.down[path][transport]))),
            ]
        })
    };
    out.counter(
        "relay_traffic_packets_total",
        "Packets relayed: up is client to peer, down is peer to client; by the client's path and transport.",
        samples(|direction| &direction.packets),
    );
    out.counter(
        "relay_traffic_bytes_total",
        "Bytes of application data relayed: up is client to peer, down is peer to client; by the client's path and transport.",
        samples(|direction| &direction.bytes),
    );
}

fn allocations(sum: &Sum<'_>, out: &mut Exposition) {
    let by_transport = |pick: fn(&Counters) -> &[Cell; Transport::ALL.len()]| {
        Transport::ALL
            .iter()
            .enumerate()
            .map(move |(i, transport)| Sample::with([("transport", transport.as_str())], sum(&|c| &pick(c)[i])))
    };
    out.gauge(
        "relay_allocations",
        "Live allocations, by the client's transport.",
        by_transport(|c| &c.allocations),
    );
    out.counter(
        "relay_allocations_began_total",
        "Allocations that began, by the client's transport.",
        by_transport(|c| &c.allocations_started),
    );
    out.counter(
        "relay_mobility_granted_total",
        "Refreshes with a mobility ticket that were granted (RFC 8016).",
        Sample::plain(sum(&|c| &c.migrations_granted)),
    );
    out.counter(
        "relay_allocations_moved_total",
        "Allocations that moved to another five-tuple of their client (RFC 8016).",
        Sample::plain(sum(&|c| &c.allocations_arrived)),
    );
    out.gauge(
        "relay_allocations_away",
        "Live allocations whose client's connection is closed and which wait for the client (RFC 8016).",
        Sample::plain(sum(&|c| &c.away)),
    );
    out.counter(
        "relay_allocations_ended_total",
        "Allocations that ended, by why.",
        EndReason::ALL
            .iter()
            .map(|why| Sample::with([("why", why.as_str())], sum(&|c| &c.allocations_ended[*why as usize]))),
    );
}

/// TCP allocations (RFC 6062).
fn tcp(sum: &Sum<'_>, out: &mut Exposition) {
    out.gauge(
        "relay_tcp_peer_connections",
        "TCP connections with peers (RFC 6062): connecting, waiting for their ConnectionBind, and bound.",
        Sample::plain(sum(&|c| &c.tcp.connections)),
    );
    out.counter(
        "relay_tcp_peer_connections_began_total",
        "TCP connections with peers that began, by the side that connects: client (Connect request) or peer.",
        [
            Sample::with([("by", "client")], sum(&|c| &c.tcp.connecting)),
            Sample::with([("by", "peer")], sum(&|c| &c.tcp.accepted)),
        ],
    );
    out.counter(
        "relay_tcp_peer_connections_bound_total",
        "TCP connections with peers that a client has bound to a connection of its own.",
        Sample::plain(sum(&|c| &c.tcp.bound)),
    );
    out.counter(
        "relay_tcp_peer_connections_ended_total",
        "TCP connections with peers that ended, by why.",
        ConnectionEnd::ALL
            .iter()
            .map(|why| Sample::with([("why", why.as_str())], sum(&|c| &c.tcp.ended[*why as usize]))),
    );
    out.counter(
        "relay_tcp_peers_refused_total",
        "TCP connections from peers that were closed immediately after accept, by reason.",
        PeerRefusal::ALL
            .iter()
            .map(|why| Sample::with([("reason", why.as_str())], sum(&|c| &c.tcp.refused[*why as usize]))),
    );
    out.counter(
        "relay_tcp_bytes_total",
        "Bytes relayed over TCP connections with peers: up is client to peer, down is peer to client.",
        [
            Sample::with([("direction", "up")], sum(&|c| &c.tcp.up_bytes)),
            Sample::with([("direction", "down")], sum(&|c| &c.tcp.down_bytes)),
        ],
    );
}
