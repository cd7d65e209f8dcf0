//! How much of everything there may be: in all, as far as the open files of this process go, and from one network.

use core::fmt::Display;

use super::super::Purpose;
use super::super::bounds::{ADMIN_CONNECTIONS, LEAVING};
use super::super::reader::diagnostic::Diagnostic;
use super::super::reader::section::Located;
use super::super::reader::value::Auto;
use super::super::sections::Raw;
use super::super::settings::ListenerSettings;
use super::Context;
use crate::turn::config::RelayConfig;
use crate::turn::config::limits::Limits;

/// Files of the process itself: its log, certificates and secrets while they are read, name look-ups, the runtime.
const OWN_FILES: u64 = 64;
/// The same of each worker, its listeners not counted.
const WORKER_FILES: u64 = 4;
/// What the systemd unit of this repository sets.
const UNIT_FILES: u64 = 1_048_576;
/// A network may have as many times what one of its addresses may.
const ADDRESSES_OF_NETWORK: u64 = 16;

/// What takes an open file each, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) allocations: u32,
    pub(super) connections: usize,
    /// With servers behind the front door.
    pub(super) backends: usize,
    /// Of HTTP/3.
    pub(super) flows: u32,
    /// With TCP peers.
    pub(super) peers: u32,
}

/// One of them: what is wanted of it, and files for it.
struct Wish {
    key: &'static str,
    wanted: u64,
    /// Files each takes; none where it is switched off.
    each: u64,
    granted: u64,
}

/// Divides the open files: some for the process, its listeners and the admin listener; then half of the rest for relay
/// sockets, or more where clients' connections want less; and the rest for those. So neither can take what the other
/// needs.
pub(super) fn divide(
    raw: &Raw,
    relay: &RelayConfig,
    listeners: &[ListenerSettings],
    workers: usize,
    cx: &mut Context<'_>,
) -> Capacity {
    let files = cx.env.open_files().unwrap_or(u64::MAX);
    let room = files.saturating_sub(kept_back(raw, listeners, workers));
    let (mut relays, mut others) = wishes(raw, relay);
    let wanted = others.iter().map(Wish::files).fold(0, u64::saturating_add);
    let needed = wanted
        .saturating_add(relays.files())
        .saturating_add(files.saturating_sub(room));
    relays.cut((room / 2).max(room.saturating_sub(wanted)), relays.files());
    let rest = room.saturating_sub(relays.granted.saturating_mul(relays.each));
    for wish in &mut others {
        wish.cut(rest, wanted);
    }
    if let Auto::Auto = raw.limits.allocations.value {
        let why = match relays.granted < relays.wanted {
            true => "as many as open files allow",
            false => "one per relay port",
        };
        cx.effective
            .note("limits.allocations", format!("{}: {why}", relays.granted));
    }
    let [connections, backends, flows, peers] = &others;
    let capacity = Capacity {
        allocations: number(relays.granted),
        connections: usize::try_from(connections.granted).unwrap_or(usize::MAX),
        backends: usize::try_from(backends.granted).unwrap_or(usize::MAX),
        flows: number(flows.granted),
        peers: number(peers.granted),
    };
    let all = [relays].into_iter().chain(others);
    let cut: Vec<Wish> = all.filter(|wish| wish.granted < wish.wanted).collect();
    tell_of_cuts(raw, files, needed, &cut, cx);
    capacity
}

/// What is wanted of each: of allocations, and of what clients have beside them.
fn wishes(raw: &Raw, relay: &RelayConfig) -> (Wish, [Wish; 4]) {
    let wish = |key, wanted: u64, each| Wish {
        key,
        wanted,
        each,
        granted: wanted,
    };
    let front_door = &raw.front_door;
    let has_backends = front_door.http_upstream.value.0.is_some() || !front_door.routes.value.is_empty();
    let has_http3 = front_door.http3.backend.value.0.is_some();
    let tcp = &raw.turn.tcp;
    let allocations = match raw.limits.allocations.value {
        Auto::Given(given) => u64::try_from(given).unwrap_or(1),
        Auto::Auto => u64::from(raw.relay.ports.value.count()),
    };
    let families = [relay.ipv4, relay.ipv6].iter().flatten().count() as u64;
    let others = [
        wish("limits.connections", raw.limits.connections.value as u64, 1),
        wish(
            "front_door.connections",
            front_door.connections.value as u64,
            has_backends.into(),
        ),
        wish(
            "front_door.http3.flows",
            front_door.http3.limits.flows.into(),
            has_http3.into(),
        ),
        wish(
            "turn.tcp_allocations.connections",
            tcp.connections.value.into(),
            tcp.enabled.value.into(),
        ),
    ];
    (wish("limits.allocations", allocations, families.max(1)), others)
}

impl Wish {
    /// Files for all that is wanted.
    fn files(&self) -> u64 {
        self.wanted.saturating_mul(self.each)
    }

    /// Leaves it its part of `files`, where all together want `wanted` of them.
    fn cut(&mut self, files: u64, wanted: u64) {
        if self.each > 0 && wanted > files {
            let part = u128::from(self.wanted) * u128::from(files) / u128::from(wanted);
            self.granted = u64::try_from(part).unwrap_or(u64::MAX).clamp(1, self.wanted);
        }
    }
}

fn number(granted: u64) -> u32 {
    u32::try_from(granted).unwrap_or(u32::MAX)
}

/// Files that are neither for relay sockets nor for clients.
fn kept_back(raw: &Raw, listeners: &[ListenerSettings], workers: usize) -> u64 {
    let count = |serves: fn(&ListenerSettings) -> bool| {
        let served = listeners.iter().filter(|listener| serves(listener));
        served.map(|listener| listener.addresses.len() as u64).sum::<u64>()
    };
    let udp = count(|listener| listener.udp || listener.dtls || listener.https);
    let tcp = count(|listener| listener.tcp || listener.tls || listener.https);
    let admin = raw.admin.address.value.0.map_or(0, |_| 1 + ADMIN_CONNECTIONS as u64);
    // Each TCP listener has a spare one, to close what cannot be served.
    OWN_FILES + (workers as u64) * (WORKER_FILES + udp) + 2 * tcp + admin + LEAVING as u64
}

/// One line, whatever was cut.
fn tell_of_cuts(raw: &Raw, files: u64, needed: u64, cut: &[Wish], cx: &mut Context<'_>) {
    if cut.is_empty() || cx.purpose == Purpose::Mint {
        return;
    }
    let cuts: Vec<String> = cut
        .iter()
        .map(|wish| format!("{} to {} (of {})", wish.key, wish.granted, wish.wanted))
        .collect();
    let message = format!("this process may open {files} files, which cuts {}", cuts.join(", "));
    let help = format!(
        "set LimitNOFILE={} in the systemd unit, or raise `ulimit -Hn` to as much; or lower these limits",
        needed.max(UNIT_FILES)
    );
    let place = raw.limits.allocations.place.or(raw.limits.connections.place);
    cx.d.push(Diagnostic::warning(message).at(place).help(help));
}

/// What a network (IPv4 /24, IPv6 /48) may have of `all`, if one of its addresses may have `per_ip`: "auto" is sixteen
/// times as much, and no more than half of all, so that nobody takes everything by a network of his own.
pub(super) fn per_network<T>(path: &str, given: &Located<Auto<T>>, per_ip: T, all: Option<T>, cx: &mut Context<'_>) -> T
where
    T: Copy + Display + TryFrom<u64> + TryInto<u64>,
{
    if let Auto::Given(given) = given.value {
        return given;
    }
    let wide = |value: T| value.try_into().unwrap_or(u64::MAX);
    let half = all.map_or(u64::MAX, |all| wide(all) / 2);
    let network = (wide(per_ip).saturating_mul(ADDRESSES_OF_NETWORK))
        .min(half)
        .max(wide(per_ip));
    let network = T::try_from(network).unwrap_or(per_ip);
    cx.effective.note(path, network.to_string());
    network
}

/// The core's limits.
pub(super) fn limits(raw: &Raw, capacity: &Capacity, cx: &mut Context<'_>) -> Limits {
    let allocations = capacity.allocations;
    let core = raw.limits.core.clone();
    let given = &raw.limits.allocations_per_network;
    Limits {
        allocations,
        allocations_per_network: per_network(
            "limits.allocations_per_network",
            given,
            core.allocations_per_ip,
            Some(allocations),
            cx,
        ),
        ..core
    }
}
