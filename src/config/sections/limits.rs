//! `[limits]`.

use core::time::Duration;

use super::{HOUR, MINUTE, SECOND};
use crate::config::reader::diagnostic::{Diagnostic, Diagnostics};
use crate::config::reader::key::{ConfigKey, live, restart};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::{Auto, Bytes};
use crate::net::stream::StreamLimits;
use crate::shard::{self, ShardConfig};
use crate::turn::config::limits::Limits;

const ALLOCATIONS: ConfigKey = live(
    "allocations",
    "Allocations in total. Auto: one per relay port.\n\n\
     Like `connections`, it is reduced to [what the open files of this process \
     allow](operations.md#open-files).",
)
.kind("1–16777216 or `\"auto\"`");

const ALLOCATIONS_PER_USER: ConfigKey = live(
    "allocations_per_user",
    "Allocations per user id.\n\n\
     A page takes one for each URI, peer connection and network interface: 6 with two connections on one \
     interface. Raise it if [all clients share one name](recipes/README.md#who-shares-a-name).",
);

const ALLOCATIONS_PER_IP: ConfigKey = live(
    "allocations_per_ip",
    "Allocations per client address (an IPv6 client counts by its /64): enough for about 160 such pages.\n\n\
     Raise it for large offices behind one address.",
);

const ALLOCATIONS_PER_NETWORK: ConfigKey = live(
    "allocations_per_network",
    "Allocations per network of client addresses.",
);

const PERMISSIONS: ConfigKey = live(
    "permissions",
    "Per allocation: peer addresses with a permission at a time.",
);

const CHANNELS: ConfigKey = live("channels", "Per allocation: channel bindings.");

const RESERVATIONS_PER_USER: ConfigKey = live(
    "reservations_per_user",
    "Ports reserved with EVEN-PORT; 0 refuses them.",
);

const CHALLENGES_PER_SECOND: ConfigKey = live(
    "challenges_per_second",
    "Responses over UDP to unauthenticated clients, per second and source (an IPv4 address, an IPv6 /64).",
);

const CHALLENGE_BURST: ConfigKey = live(
    "challenge_burst",
    "Burst of these responses.\n\n\
     Raise both for many clients behind one address.",
);

const ALL_CHALLENGES_PER_SECOND: ConfigKey = live(
    "all_challenges_per_second",
    "The same for all sources together, against floods from forged ones.\n\n\
     Beyond it, no new client can log in over UDP for the moment; TCP and TLS are not affected. 20000 are \
     about 20 Mbit/s.",
);

const BINDINGS_PER_SECOND: ConfigKey = live(
    "bindings_per_second",
    "Binding responses over UDP, per second and source.\n\n\
     A client with an allocation has the same rate for itself, on every transport.",
);

const LOGIN_FAILURES_PER_SECOND: ConfigKey = live(
    "login_failures_per_second",
    "Failed logins, per second and source address, on every transport.\n\n\
     The same rate, per second and allocation, limits how often a request with an unknown nonce is \
     checked because it may belong to a live allocation.",
);

const PERMISSION_REQUESTS_PER_SECOND: ConfigKey = live(
    "permission_requests_per_second",
    "CreatePermission and ChannelBind requests, per second and allocation.",
);

const ALLOCATION_REQUESTS_PER_SECOND: ConfigKey = live(
    "allocation_requests_per_second",
    "Requests of any kind about an allocation, signed by its client, per second and allocation.\n\n\
     The burst is this number plus twice what renews all permissions and channels the allocation may \
     have. A 438 response to such a request counts here, and not among the responses to unauthenticated \
     clients.",
);

const USER_REQUESTS_PER_SECOND: ConfigKey = live(
    "user_requests_per_second",
    "Other authenticated requests, Allocates above all, per second and user.\n\n\
     The burst is this number plus what replaces all of `allocations_per_user`. Raise both if very many \
     clients share one name.",
);

const CONNECTIONS: ConfigKey = restart(
    "connections",
    "TCP and TLS connections in total.\n\n\
     Memory: up to `queue_bytes` each, if all are slow.",
);

const CONNECTIONS_PER_IP: ConfigKey = restart("connections_per_ip", "The same per client address.");

const CONNECTIONS_PER_NETWORK: ConfigKey =
    restart("connections_per_network", "The same per network of client addresses.");

const NEW_CONNECTIONS_PER_SECOND: ConfigKey = restart(
    "new_connections_per_second",
    "New connections per second and client address, after a burst of `connections_per_ip`.\n\n\
     For a network the burst is `connections_per_network`, and the rate is larger in the same proportion. \
     The same applies to new DTLS associations, with `dtls.associations_per_ip` and `_per_network`. Raise \
     it for a minting service that opens a connection for each credential.",
);

const HANDSHAKES: ConfigKey = restart(
    "handshakes",
    "Connections that have not been classified yet, such as unfinished TLS handshakes; no more than half \
     of `connections`.\n\n\
     Beyond it, the source with the most of them loses its oldest.",
);

const HANDSHAKE_TIMEOUT: ConfigKey = restart(
    "handshake_timeout",
    "A handshake, and the first bytes after it, must be complete within this time.",
);

const IDLE_TIMEOUT: ConfigKey = restart(
    "idle_timeout",
    "A connection without an allocation is closed after this time.",
);

const UNAUTHENTICATED_REQUESTS: ConfigKey = restart(
    "unauthenticated_requests",
    "Requests without a login, including Binding, that are answered in a row on one TCP, TLS or DTLS \
     connection; then it is closed.\n\n\
     A login restarts the count. The client of an allocation is not counted.",
);

const FRAME_TIMEOUT: ConfigKey = restart(
    "frame_timeout",
    "A message must be complete within this time from its first byte.",
);

const WRITE_TIMEOUT: ConfigKey = restart(
    "write_timeout",
    "A connection that accepts no bytes for this time is closed.\n\n\
     So is a TCP connection with a peer if one direction has ended and nothing moves in the other for \
     this time.",
);

const QUEUE_BYTES: ConfigKey = restart("queue_bytes", "Most bytes waiting for one connection.");

const QUEUE_AGE: ConfigKey = restart(
    "queue_age",
    "Media that would be older than this when the client reads it is dropped, oldest first, as far as the \
     kernel can tell how long the path takes.\n\n\
     Late media is worthless. Raise it for file transfer, not for calls.",
);

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
    pub(in crate::config) stream: StreamLimits,
}

pub(super) fn read(s: &mut Section<'_, '_>) -> RawLimits {
    let d = Limits::default();
    let workers = ShardConfig::default();
    let most = 16_777_216;
    let allocations = s.value(ALLOCATIONS, Auto::Auto);
    let allocations_per_user = s.number(ALLOCATIONS_PER_USER, d.allocations_per_user, 1..=most);
    let allocations_per_ip = s.number(ALLOCATIONS_PER_IP, d.allocations_per_ip, 1..=most);
    let allocations_per_network = s.auto_number(ALLOCATIONS_PER_NETWORK, 1..=most);
    let core = Limits {
        allocations: d.allocations,
        allocations_per_user: allocations_per_user.value,
        allocations_per_ip: allocations_per_ip.value,
        allocations_per_network: d.allocations_per_network,
        permissions: s.number(PERMISSIONS, d.permissions, 1..=4096).value,
        channels: s.number(CHANNELS, d.channels, 1..=4096).value,
        reservations_per_user: s.number(RESERVATIONS_PER_USER, d.reservations_per_user, 0..=most).value,
        challenges_per_second: s.number(CHALLENGES_PER_SECOND, d.challenges_per_second, 1..=most).value,
        challenge_burst: s.number(CHALLENGE_BURST, d.challenge_burst, 1..=most).value,
        all_challenges_per_second: s
            .number(ALL_CHALLENGES_PER_SECOND, d.all_challenges_per_second, 1..=most)
            .value,
        bindings_per_second: s.number(BINDINGS_PER_SECOND, d.bindings_per_second, 1..=most).value,
        login_failures_per_second: s
            .number(LOGIN_FAILURES_PER_SECOND, d.login_failures_per_second, 1..=most)
            .value,
        permission_requests_per_second: s
            .number(
                PERMISSION_REQUESTS_PER_SECOND,
                d.permission_requests_per_second,
                1..=most,
            )
            .value,
        allocation_requests_per_second: s
            .number(
                ALLOCATION_REQUESTS_PER_SECOND,
                d.allocation_requests_per_second,
                1..=most,
            )
            .value,
        user_requests_per_second: s
            .number(USER_REQUESTS_PER_SECOND, d.user_requests_per_second, 1..=most)
            .value,
    };
    RawLimits {
        allocations,
        allocations_per_network,
        core,
        connections: s.number(CONNECTIONS, 16_384, 1..=16_777_216),
        connections_per_ip: s.number(CONNECTIONS_PER_IP, 256, 1..=16_777_216),
        connections_per_network: s.auto_number(CONNECTIONS_PER_NETWORK, 1..=16_777_216),
        new_connections_per_second: s.number(NEW_CONNECTIONS_PER_SECOND, shard::NEW_PER_SECOND, 1..=16_777_216),
        handshakes: s.number(HANDSHAKES, 1024, 1..=65_536),
        handshake_timeout: s.within(HANDSHAKE_TIMEOUT, shard::HANDSHAKE_TIMEOUT, SECOND..=2 * MINUTE),
        idle_timeout: s.within(IDLE_TIMEOUT, workers.idle_timeout, SECOND..=HOUR),
        unauthenticated_requests: s.number(
            UNAUTHENTICATED_REQUESTS,
            workers.unauthenticated_requests,
            2..=1_000_000,
        ),
        stream: stream(s),
    }
}

fn stream(s: &mut Section<'_, '_>) -> StreamLimits {
    let d = StreamLimits::default();
    let queue_bytes = Bytes(80 << 10)..=Bytes(64 << 20);
    let queue_age = Duration::from_millis(10)..=10 * SECOND;
    StreamLimits {
        frame_timeout: s.within(FRAME_TIMEOUT, d.frame_timeout, SECOND..=2 * MINUTE).value,
        write_timeout: s.within(WRITE_TIMEOUT, d.write_timeout, SECOND..=10 * MINUTE).value,
        queue_bytes: s.within(QUEUE_BYTES, Bytes(d.queue_bytes), queue_bytes).value.0,
        queue_age: s.within(QUEUE_AGE, d.queue_age, queue_age).value,
        ..d
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
