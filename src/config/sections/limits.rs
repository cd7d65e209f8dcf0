//! `[limits]`.

use core::time::Duration;

use super::{HOUR, MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Bytes};
use crate::turn::config::limits::Limits;

/// No more can be configured.
pub(in crate::config) const MOST_ALLOCATIONS: i128 = 16_777_216;

pub(in crate::config) struct RawLimits {
    pub(in crate::config) allocations: Located<Auto<i128>>,
    pub(in crate::config) allocations_per_network: Located<Auto<u32>>,
    /// All but those, which depend on the relay ports.
    pub(in crate::config) core: Limits,
    pub(in crate::config) connections: Located<usize>,
    pub(in crate::config) connections_per_ip: Located<usize>,
    pub(in crate::config) connections_per_network: Located<Auto<usize>>,
    pub(in crate::config) new_connections_per_second: Located<u32>,
    pub(in crate::config) handshakes: Located<usize>,
    pub(in crate::config) handshake_timeout: Located<Duration>,
    pub(in crate::config) idle_timeout: Located<Duration>,
    pub(in crate::config) unauthenticated_requests: Located<u32>,
    pub(in crate::config) frame_timeout: Located<Duration>,
    pub(in crate::config) write_timeout: Located<Duration>,
    pub(in crate::config) queue_bytes: Located<Bytes>,
    pub(in crate::config) queue_age: Located<Duration>,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawLimits {
    let d = Limits::default();
    let most = 16_777_216;
    let allocations = s.value("allocations", Auto::Auto);
    let core = Limits {
        allocations: d.allocations,
        allocations_per_user: s.number("allocations_per_user", d.allocations_per_user, 1..=most).value,
        allocations_per_ip: s.number("allocations_per_ip", d.allocations_per_ip, 1..=most).value,
        allocations_per_network: d.allocations_per_network,
        permissions: s.number("permissions", d.permissions, 1..=4096).value,
        channels: s.number("channels", d.channels, 1..=4096).value,
        reservations_per_user: s
            .number("reservations_per_user", d.reservations_per_user, 0..=most)
            .value,
        challenges_per_second: s
            .number("challenges_per_second", d.challenges_per_second, 1..=most)
            .value,
        challenge_burst: s.number("challenge_burst", d.challenge_burst, 1..=most).value,
        all_challenges_per_second: s
            .number("all_challenges_per_second", d.all_challenges_per_second, 1..=most)
            .value,
        bindings_per_second: s.number("bindings_per_second", d.bindings_per_second, 1..=most).value,
        login_failures_per_second: s
            .number("login_failures_per_second", d.login_failures_per_second, 1..=most)
            .value,
        permission_requests_per_second: s
            .number(
                "permission_requests_per_second",
                d.permission_requests_per_second,
                1..=most,
            )
            .value,
        allocation_requests_per_second: s
            .number(
                "allocation_requests_per_second",
                d.allocation_requests_per_second,
                1..=most,
            )
            .value,
        user_requests_per_second: s
            .number("user_requests_per_second", d.user_requests_per_second, 1..=most)
            .value,
    };
    RawLimits {
        allocations,
        allocations_per_network: s.auto_number("allocations_per_network", 1..=most),
        core,
        connections: s.number("connections", 16_384, 1..=16_777_216),
        connections_per_ip: s.number("connections_per_ip", 256, 1..=16_777_216),
        connections_per_network: s.auto_number("connections_per_network", 1..=16_777_216),
        new_connections_per_second: s.number("new_connections_per_second", 20, 1..=16_777_216),
        handshakes: s.number("handshakes", 1024, 1..=65_536),
        handshake_timeout: s.within("handshake_timeout", 10 * SECOND, SECOND..=2 * MINUTE),
        idle_timeout: s.within("idle_timeout", 10 * SECOND, SECOND..=HOUR),
        unauthenticated_requests: s.number("unauthenticated_requests", 16, 2..=1_000_000),
        frame_timeout: s.within("frame_timeout", 10 * SECOND, SECOND..=2 * MINUTE),
        write_timeout: s.within("write_timeout", 30 * SECOND, SECOND..=10 * MINUTE),
        queue_bytes: s.within("queue_bytes", Bytes(256 << 10), Bytes(80 << 10)..=Bytes(64 << 20)),
        queue_age: s.within(
            "queue_age",
            Duration::from_millis(150),
            Duration::from_millis(10)..=10 * SECOND,
        ),
    }
}

/// Reports limits that contradict each other.
pub(in crate::config) fn check(limits: &RawLimits, d: &mut Diagnostics) {
    let allocations = &limits.allocations;
    if let Auto::Given(given) = allocations.value
        && !(1..=MOST_ALLOCATIONS).contains(&given)
    {
        let diagnostic = Diagnostic::error(format!("`limits.allocations`: {given} is out of range"));
        let help = "from 1 to 16777216, or \"auto\" for one per relay port";
        d.push(diagnostic.at(allocations.place).help(help));
    }
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
