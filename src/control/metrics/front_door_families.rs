//! Families of the front door: connections and their outcome.

use super::exposition::{Exposition, Sample};
use crate::edge::front_door::{AcceptError, ConnectionOutcome, Forwarded, FrontDoor, SpliceEnd};

/// Adds them to `out`.
pub(super) fn collect(door: &FrontDoor, out: &mut Exposition) {
    let counters = door.counters();
    out.gauge(
        "relay_connections",
        "Open TCP connections of clients, including those of the workers.",
        Sample::plain(door.open_connections()),
    );
    out.gauge(
        "relay_connections_unproven",
        "Connections that have not been classified yet.",
        Sample::plain(door.unproven_connections()),
    );
    out.counter(
        "relay_connections_accepted_total",
        "TCP connections accepted.",
        Sample::plain(counters.accepted()),
    );
    out.counter(
        "relay_connections_total",
        "Outcome of accepted connections at the front door.",
        ConnectionOutcome::ALL.map(|outcome| Sample::with([("outcome", outcome.as_str())], counters.outcome(outcome))),
    );
    out.counter(
        "relay_accept_errors_total",
        "Connections that could not be accepted, by reason.",
        AcceptError::ALL.map(|error| Sample::with([("reason", error.as_str())], counters.accept_errors(error))),
    );
    out.counter(
        "relay_connections_shed_total",
        "Connections closed immediately because no file descriptor was free.",
        Sample::plain(counters.shed()),
    );
    out.counter(
        "relay_connections_displaced_total",
        "Connections closed because there were too many and their source had the most.",
        Sample::plain(door.displaced_connections()),
    );
    let backends = door.backends();
    out.gauge(
        "relay_backend_connections",
        "Connections and requests at a backend of the front door.",
        Sample::plain(backends.open()),
    );
    out.counter(
        "relay_backend_displaced_total",
        "Connections and requests that lost their place at a backend to a client with fewer.",
        Sample::plain(backends.displaced()),
    );
    out.counter(
        "relay_backend_connections_ended_total",
        "Spliced connections to backends that ended, WebSocket included, by how.",
        SpliceEnd::ALL.map(|end| Sample::with([("reason", end.as_str())], backends.counters().ends(end))),
    );
    out.counter(
        "relay_upstream_requests_total",
        "HTTP requests for the backend, by outcome.",
        Forwarded::ALL
            .map(|outcome| Sample::with([("outcome", outcome.as_str())], backends.counters().forwarded(outcome))),
    );
}
