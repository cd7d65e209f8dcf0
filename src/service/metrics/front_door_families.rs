//! Families of the front door: connections and what became of them.

use super::exposition::{Exposition, Sample};
use crate::service::front_door::{AcceptError, FrontDoor, Outcome};

/// Adds them to `out`.
pub(super) fn collect(door: &FrontDoor, out: &mut Exposition) {
    let counters = door.counters();
    out.gauge(
        "relay_connections",
        "Open TCP connections of clients, those of the workers included.",
        Sample::plain(door.open_connections()),
    );
    out.gauge(
        "relay_connections_unproven",
        "Connections that have not shown yet what they want.",
        Sample::plain(door.unproven_connections()),
    );
    out.counter(
        "relay_connections_accepted_total",
        "TCP connections accepted.",
        Sample::plain(counters.accepted()),
    );
    out.counter(
        "relay_connections_total",
        "What became of accepted connections at the front door.",
        Outcome::ALL.map(|outcome| Sample::with([("outcome", outcome.as_str())], counters.outcome(outcome))),
    );
    out.counter(
        "relay_accept_errors_total",
        "Connections that could not be accepted, by reason.",
        AcceptError::ALL.map(|error| Sample::with([("reason", error.as_str())], counters.accept_errors(error))),
    );
    out.counter(
        "relay_connections_shed_total",
        "Connections closed unseen because no file descriptor was left for them.",
        Sample::plain(counters.shed()),
    );
}
