//! Compares the forward table with a model that keeps plain lists and applies the RFC's checks one
//! by one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::super::policy::PolicyConfig;
use super::super::types::Link;
use super::*;
use crate::base::address::Transport;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * SECOND)
}

fn policy(denied: &[&str]) -> Arc<PeerPolicy> {
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().expect("a network")).collect();
    let config = PolicyConfig {
        allow: nets(&["192.0.2.0/24", "2001:db8::/32"]),
        deny: nets(denied),
        relay_ips: vec![RELAY_V4.parse().expect("an address")],
        relay_ports: 50_000..=50_999,
        ..PolicyConfig::default()
    };
    Arc::new(PeerPolicy::new(config).expect("a policy"))
}

const RELAY_V4: &str = "198.51.100.7";
const RELAY_V6: &str = "2001:db8:ffff::7";

fn client(n: u8) -> Client {
    let transport = if n.is_multiple_of(2) {
        Transport::Udp
    } else {
        Transport::Tcp
    };
    let five_tuple = FiveTuple {
        client: ([192, 0, 2, 100], 1000 + u16::from(n)).into(),
        server: ([198, 51, 100, 1], 3478).into(),
        transport,
    };
    Client {
        five_tuple,
        link: Link(n.into()),
    }
}

fn relayed(n: u8, family: Family) -> RelayedAddr {
    let ip = if family == Family::V4 { RELAY_V4 } else { RELAY_V6 };
    RelayedAddr(SocketAddr::new(ip.parse().expect("an address"), 50_000 + u16::from(n)))
}

/// Few addresses, so that packets meet permissions and channels.
fn peer_ip(n: u8) -> IpAddr {
    if n < 3 {
        IpAddr::from([192, 0, 2, n])
    } else {
        format!("2001:db8::{n}").parse().expect("an address")
    }
}

fn table(denied: &[&str]) -> ForwardTable {
    ForwardTable::new(99, policy(denied), Arc::default(), Arc::default())
}

const DATA: DataRange = DataRange { start: 4, end: 104 };

#[derive(Clone, Debug)]
enum Op {
    Insert(u8),
    Remove(u8),
    Open(u8, Family, u64),
    Until(u8, Family, u64),
    Close(u8, Family),
    Permit(u8, Vec<u8>),
    Bind(u8, u16, u8, u16),
    Policy(bool),
    Advance(u64),
    Channel(u8, u16),
    Send(u8, u8, u16),
    Peer(u8, u8, u16),
}

fn op() -> impl Strategy<Value = Op> {
    let family = || prop_oneof![Just(Family::V4), Just(Family::V6)];
    let (who, ip, port, number) = (|| 0u8..4, || 0u8..6, || 7000u16..7003, || 0x4000u16..0x4006);
    prop_oneof![
        2 => who().prop_map(Op::Insert),
        1 => who().prop_map(Op::Remove),
        3 => (who(), family(), 1u64..1200).prop_map(|(c, f, s)| Op::Open(c, f, s)),
        1 => (who(), family(), 0u64..1200).prop_map(|(c, f, s)| Op::Until(c, f, s)),
        1 => (who(), family()).prop_map(|(c, f)| Op::Close(c, f)),
        4 => (who(), proptest::collection::vec(ip(), 1..4)).prop_map(|(c, ips)| Op::Permit(c, ips)),
        6 => (who(), number(), ip(), port()).prop_map(|(c, n, i, p)| Op::Bind(c, n, i, p)),
        1 => any::<bool>().prop_map(Op::Policy),
        3 => (1u64..400).prop_map(Op::Advance),
        6 => (who(), number()).prop_map(|(c, n)| Op::Channel(c, n)),
        6 => (who(), ip(), port()).prop_map(|(c, i, p)| Op::Send(c, i, p)),
        6 => (who(), ip(), port()).prop_map(|(c, i, p)| Op::Peer(c, i, p)),
    ]
}

#[derive(Default)]
struct Model {
    until: [Option<u64>; 2],
    permissions: BTreeMap<IpAddr, u64>,
    channels: BTreeMap<u16, (SocketAddr, u64)>,
}

impl Model {
    fn live(&self, now: u64, family: Family) -> bool {
        self.until[family as usize].is_some_and(|until| until > now)
    }

    fn permitted(&self, now: u64, ip: IpAddr) -> bool {
        self.permissions.get(&ip).is_some_and(|&until| until > now)
    }

    fn channel_to(&self, now: u64, peer: SocketAddr) -> Option<u16> {
        let bound = |(&number, &(to, until)): (&u16, &(SocketAddr, u64))| (to == peer && until > now).then_some(number);
        self.channels.iter().find_map(bound)
    }
}

const MOST: BindMost = BindMost {
    channels: 4,
    permissions: 4,
};

/// A verdict as text, without the random transaction id.
fn plain(verdict: Verdict) -> String {
    match verdict {
        Verdict::ToClient {
            allocation,
            frame: Frame::Data { peer, .. },
        } => format!("{allocation:?} data {peer:?}"),
        other => format!("{other:?}"),
    }
}

struct Pair {
    table: ForwardTable,
    model: BTreeMap<u8, Model>,
    ids: BTreeMap<u8, AllocationId>,
    now: u64,
    deny: bool,
    rng: Rng,
}

impl Pair {
    fn denied(&self, ip: IpAddr) -> bool {
        self.deny && (ip == peer_ip(1) || ip == peer_ip(4))
    }

    fn change(&mut self, op: Op) {
        let now = at(self.now);
        match op {
            Op::Insert(c) if !self.ids.contains_key(&c) => {
                self.ids.insert(c, self.table.insert(client(c), Path::Other));
                self.model.insert(c, Model::default());
            }
            Op::Remove(c) => {
                if let Some(id) = self.ids.remove(&c) {
                    assert_eq!(self.table.remove(id).map(|(client, _)| client), Some(client(c)));
                    self.model.remove(&c);
                }
            }
            Op::Open(c, family, seconds) => {
                let Some(model) = self.model.get_mut(&c) else { return };
                if model.until[family as usize].is_none() {
                    self.table
                        .open(self.ids[&c], 0, relayed(c, family), at(self.now + seconds));
                    model.until[family as usize] = Some(self.now + seconds);
                }
            }
            Op::Until(c, family, seconds) => {
                let Some(model) = self.model.get_mut(&c) else { return };
                self.table.set_until(self.ids[&c], family, at(self.now + seconds));
                if let Some(until) = &mut model.until[family as usize] {
                    *until = self.now + seconds;
                }
            }
            Op::Close(c, family) => {
                let Some(model) = self.model.get_mut(&c) else { return };
                self.table.close(self.ids[&c], family);
                model.until[family as usize] = None;
                model.permissions.retain(|&ip, _| Family::of(ip) != family);
                model.channels.retain(|_, (peer, _)| Family::of(peer.ip()) != family);
            }
            Op::Permit(c, ips) => {
                let Some(model) = self.model.get_mut(&c) else { return };
                let ips: Vec<IpAddr> = ips.into_iter().map(peer_ip).collect();
                model
                    .permissions
                    .retain(|ip, until| *until > self.now || ips.contains(ip));
                let mut after = model.permissions.clone();
                after.extend(ips.iter().map(|&ip| (ip, self.now + 300)));
                let fits = after.len() <= MOST.permissions;
                let done = self
                    .table
                    .permit(now, self.ids[&c], &ips, at(self.now + 300), MOST.permissions);
                assert_eq!(done.is_ok(), fits);
                if fits {
                    model.permissions = after;
                }
            }
            Op::Bind(c, number, ip, port) => self.bind(c, number, (peer_ip(ip), port).into()),
            Op::Policy(deny) => {
                self.deny = deny;
                self.table.set_policy(policy(if deny {
                    &["192.0.2.1/32", "2001:db8::4/128"]
                } else {
                    &[]
                }));
            }
            Op::Advance(seconds) => self.now += seconds,
            _ => {}
        }
    }

    fn bind(&mut self, c: u8, number: u16, peer: SocketAddr) {
        let now = self.now;
        let Some(model) = self.model.get_mut(&c) else { return };
        let until = BindUntil {
            channel: at(now + 600),
            permission: at(now + 300),
        };
        let done = self.table.bind(
            at(now),
            self.ids[&c],
            ChannelNumber(number),
            PeerAddr(peer),
            until,
            MOST,
        );
        model.channels.retain(|_, (_, until)| *until > now);
        model.permissions.retain(|_, until| *until > now);
        let conflict = model
            .channels
            .iter()
            .any(|(&n, &(to, _))| (n == number) != (to == peer));
        let full = !model.channels.contains_key(&number) && model.channels.len() >= MOST.channels
            || !model.permissions.contains_key(&peer.ip()) && model.permissions.len() >= MOST.permissions;
        let expected = match (conflict, full) {
            (true, _) => Err(BindError::Conflict),
            (false, true) => Err(BindError::Full),
            (false, false) => {
                model.channels.insert(number, (peer, now + 600));
                model.permissions.insert(peer.ip(), now + 300);
                Ok(())
            }
        };
        assert_eq!(done, expected);
    }

    /// The model's verdict for a packet, in the form of [`plain`].
    fn expect_up(&self, c: u8, peer: Option<SocketAddr>, missing: DropReason) -> String {
        let drop = |reason| plain(Verdict::Drop(reason));
        let Some(model) = self.model.get(&c) else {
            return drop(DropReason::NoAllocation);
        };
        if !model.live(self.now, Family::V4) && !model.live(self.now, Family::V6) {
            return drop(DropReason::NoAllocation);
        }
        let Some(peer) = peer else { return drop(missing) };
        if self.denied(peer.ip()) {
            return drop(DropReason::PeerDenied);
        }
        let relay = RelayId {
            allocation: self.ids[&c],
            family: Family::of(peer.ip()),
        };
        plain(Verdict::ToPeer {
            relay,
            peer: PeerAddr(peer),
            data: DATA,
            dont_fragment: false,
        })
    }

    fn expect_down(&self, c: u8, peer: SocketAddr) -> String {
        let drop = |reason| plain(Verdict::Drop(reason));
        let Some(model) = self.model.get(&c) else {
            return drop(DropReason::Gone);
        };
        if !model.live(self.now, Family::of(peer.ip())) {
            return drop(DropReason::NoAllocation);
        }
        if !model.permitted(self.now, peer.ip()) {
            return drop(DropReason::NoPermission);
        }
        if self.denied(peer.ip()) {
            return drop(DropReason::PeerDenied);
        }
        let allocation = self.ids[&c];
        let frame = match model.channel_to(self.now, peer) {
            Some(number) => Frame::Channel(ChannelNumber(number)),
            None => Frame::Data {
                peer: PeerAddr(peer),
                transaction_id: TransactionId([0; 12]),
            },
        };
        plain(Verdict::ToClient { allocation, frame })
    }

    /// The verdicts of the table and of the model for a packet.
    fn probe(&mut self, op: &Op) -> Option<(String, String)> {
        let now = at(self.now);
        match *op {
            Op::Channel(c, number) => {
                let bound = self
                    .model
                    .get(&c)
                    .and_then(|model| model.channels.get(&number).copied());
                let bound = bound.filter(|&(_, until)| until > self.now).map(|(peer, _)| peer);
                let half = |peer: &SocketAddr| self.model[&c].live(self.now, Family::of(peer.ip()));
                let expected = match bound {
                    Some(peer) if !half(&peer) => self.expect_up(c, None, DropReason::FamilyMismatch),
                    bound => self.expect_up(c, bound, DropReason::NoChannel),
                };
                Some((
                    plain(self.table.relay_channel_data(now, &client(c).five_tuple, number, DATA)),
                    expected,
                ))
            }
            Op::Send(c, ip, port) => {
                let peer = SocketAddr::new(peer_ip(ip), port);
                let family = Family::of(peer.ip());
                let model = self.model.get(&c);
                let missing = if model.is_some_and(|model| model.live(self.now, family)) {
                    DropReason::NoPermission
                } else {
                    DropReason::FamilyMismatch
                };
                let open = missing == DropReason::NoPermission;
                let to = model
                    .filter(|model| open && model.permitted(self.now, peer.ip()))
                    .map(|_| peer);
                let expected = self.expect_up(c, to, missing);
                let verdict = self
                    .table
                    .relay_send(now, &client(c).five_tuple, PeerAddr(peer), DATA, false);
                Some((plain(verdict), expected))
            }
            Op::Peer(c, ip, port) => {
                let peer = SocketAddr::new(peer_ip(ip), port);
                let stale = AllocationId {
                    index: 0,
                    generation: u32::MAX,
                };
                let allocation = self.ids.get(&c).copied().unwrap_or(stale);
                let relay = RelayId {
                    allocation,
                    family: Family::of(peer.ip()),
                };
                let expected = self.expect_down(c, peer);
                Some((
                    plain(
                        self.table
                            .relay_datagram(now, relay, PeerAddr(peer), 100, &mut self.rng),
                    ),
                    expected,
                ))
            }
            _ => None,
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_plain_lists(ops in proptest::collection::vec(op(), 1..300)) {
        let mut pair = Pair {
            table: table(&[]),
            model: BTreeMap::new(),
            ids: BTreeMap::new(),
            now: 1000,
            deny: false,
            rng: Rng::new([1; 32]),
        };
        for op in ops {
            if let Some((actual, expected)) = pair.probe(&op) {
                prop_assert_eq!(actual, expected, "{:?} at {}", op, pair.now);
            }
            pair.change(op);
            prop_assert_eq!(pair.table.len(), pair.model.len());
            for (&c, model) in &pair.model {
                prop_assert_eq!(pair.table.allocation_of(&client(c).five_tuple), Some(pair.ids[&c]));
                for family in [Family::V4, Family::V6] {
                    let there = pair.table.relay_at(relayed(c, family));
                    prop_assert_eq!(there.is_some(), model.until[family as usize].is_some());
                    let owned = pair.table.directory.owner(relayed(c, family));
                    prop_assert_eq!(owned.is_some(), there.is_some());
                }
            }
        }
        for (_, id) in pair.ids {
            pair.table.remove(id);
        }
        let table = &pair.table;
        prop_assert!(table.flows.is_empty() && table.by_client.is_empty() && table.by_relayed.is_empty());
    }
}

/// One client with a relayed IPv4 address, open for 600 s from second 0.
fn one() -> (ForwardTable, AllocationId) {
    let mut table = table(&[]);
    let id = table.insert(client(0), Path::Other);
    table.open(id, 3, relayed(0, Family::V4), at(600));
    (table, id)
}

fn bind(table: &mut ForwardTable, id: AllocationId, number: u16, peer: SocketAddr) -> Result<(), BindError> {
    let until = BindUntil {
        channel: at(600),
        permission: at(300),
    };
    let most = BindMost {
        channels: 4096,
        permissions: 4096,
    };
    table.bind(at(0), id, ChannelNumber(number), PeerAddr(peer), until, most)
}

//= TURN-CHAN-17
#[test]
fn all_4096_channels_can_be_bound_in_any_order() {
    let (mut table, id) = one();
    let peer = |number: u16| SocketAddr::from(([192, 0, 2, (number % 250) as u8], number));
    for n in 0..4096u16 {
        let number = 0x4000 + n.wrapping_mul(1567) % 4096;
        bind(&mut table, id, number, peer(number)).expect("there is room");
    }
    for number in 0x4000..0x5000 {
        let up = table.relay_channel_data(at(1), &client(0).five_tuple, number, DATA);
        assert!(
            matches!(up, Verdict::ToPeer { peer: to, .. } if to.0 == peer(number)),
            "{number:#x}: {up:?}"
        );
        let relay = RelayId {
            allocation: id,
            family: Family::V4,
        };
        let down = table.relay_datagram(at(1), relay, PeerAddr(peer(number)), 1, &mut Rng::new([0; 32]));
        assert_eq!(
            down,
            Verdict::ToClient {
                allocation: id,
                frame: Frame::Channel(ChannelNumber(number))
            }
        );
    }
}

#[test]
fn a_stale_allocation_id_names_nothing_after_its_slot_was_reused() {
    let (mut table, old) = one();
    table.remove(old);
    let new = table.insert(client(0), Path::Other);
    table.open(new, 0, relayed(0, Family::V4), at(600));
    assert_eq!(new.index, old.index);
    let relay = RelayId {
        allocation: old,
        family: Family::V4,
    };
    let peer = PeerAddr(([192, 0, 2, 1], 7000).into());
    table
        .permit(at(0), new, &[peer.0.ip()], at(300), 9)
        .expect("there is room");
    assert_eq!(
        table.relay_datagram(at(0), relay, peer, 1, &mut Rng::new([0; 32])),
        Verdict::Drop(DropReason::Gone)
    );
    assert_eq!(table.remove(old), None);
    assert_eq!(table.client(old), None);
}

#[test]
fn a_relayed_address_is_found_by_address_and_port() {
    let (table, id) = one();
    let RelayedAddr(own) = relayed(0, Family::V4);
    assert_eq!(table.relay_at(RelayedAddr(own)).map(|relay| relay.allocation), Some(id));
    for other in [(peer_ip(0), own.port()), (own.ip(), own.port() + 1)] {
        assert_eq!(table.relay_at(RelayedAddr(other.into())), None);
    }
}

#[test]
fn room_is_made_by_four_and_later_by_half_of_what_there_is() {
    let (mut array, mut sizes) = (Vec::new(), Vec::new());
    for n in 0..50u8 {
        flow::make_room(&mut array);
        array.push(n);
        sizes.push(array.capacity());
    }
    sizes.dedup();
    assert_eq!(sizes, [4, 8, 12, 18, 27, 40, 60]);
}

#[test]
fn a_peer_that_is_a_relayed_address_of_ours_is_reached_in_memory() {
    let (mut table, id) = one();
    let (other, nobody) = (relayed(1, Family::V4), relayed(9, Family::V4));
    table.directory.set(other, Some(5));
    table
        .permit(at(0), id, &[other.0.ip()], at(300), 9)
        .expect("there is room");
    let send = |table: &mut ForwardTable, to: RelayedAddr| {
        table.relay_send(at(1), &client(0).five_tuple, PeerAddr(to.0), DATA, false)
    };
    let expected = Verdict::ToAllocation {
        shard: 5,
        to: other,
        from: PeerAddr(relayed(0, Family::V4).0),
        data: DATA,
    };
    assert_eq!(send(&mut table, other), expected);
    assert_eq!(send(&mut table, nobody), Verdict::Drop(DropReason::NoSuchRelay));
    assert_eq!(
        send(&mut table, relayed(0, Family::V4)),
        Verdict::Drop(DropReason::PeerDenied),
        "to itself"
    );
}

//= TURN-DATA-09
#[test]
fn data_that_does_not_fit_the_way_to_the_client_is_dropped() {
    const CASES: [(Transport, bool, usize); 6] = [
        (Transport::Udp, true, 65_507 - 4),
        (Transport::Udp, false, 65_507 - 36 - 3),
        (Transport::Tcp, true, 65_535),
        (Transport::Tcp, false, 65_532 - 16),
        (Transport::Tls, true, 65_535),
        (Transport::Tls, false, 65_532 - 16),
    ];
    for (transport, channel, most) in CASES {
        let to = FiveTuple {
            transport,
            ..client(0).five_tuple
        };
        let peer = PeerAddr(([192, 0, 2, 1], 7000).into());
        let frame = if channel {
            Frame::Channel(ChannelNumber(0x4000))
        } else {
            Frame::Data {
                peer,
                transaction_id: TransactionId([0; 12]),
            }
        };
        assert!(fits(frame, most, &to), "{transport} {channel} {most}");
        assert!(!fits(frame, most + 1, &to), "{transport} {channel} {}", most + 1);
    }
}

#[test]
fn addresses_that_differ_in_one_bit_hash_differently() {
    let hasher = AddressHasher::new(0x1234_5678_9ABC_DEF1);
    let mut hashes = std::collections::BTreeSet::new();
    let base = client(0).five_tuple;
    for bit in 0..32 {
        for port_bit in 0..16 {
            let SocketAddr::V4(addr) = base.client else { continue };
            let ip = core::net::Ipv4Addr::from_bits(addr.ip().to_bits() ^ 1 << bit);
            let client = SocketAddr::from((ip, addr.port() ^ 1 << port_bit));
            hashes.insert(hasher.five_tuple(&FiveTuple { client, ..base }));
        }
    }
    assert_eq!(hashes.len(), 32 * 16);
    let ports = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| (0..16).map(move |bit| (family, 1 << bit)));
    hashes.extend(ports.map(|(family, port)| hasher.relayed(family, port)));
    assert_eq!(hashes.len(), 32 * 16 + 2 * 16);
}

#[test]
fn idle_routes_are_small() {
    assert!(size_of::<Flow>() <= 320, "{} bytes", size_of::<Flow>());
    assert!(size_of::<Channel>() <= 56, "{} bytes", size_of::<Channel>());
    assert!(
        size_of::<flow::Permission>() <= 40,
        "{} bytes",
        size_of::<flow::Permission>()
    );
}
