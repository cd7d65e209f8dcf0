//! The forward table: the only state a relayed packet touches (RFC 8656 §9, §11.2, §11.3, §12.6,
//! §12.7).
//!
//! Allocations, permissions and channels are *compiled* into it: for each allocation a [`Flow`]
//! with small sorted arrays. Every lookup tests the deadlines, so a late sweep never relays what
//! the RFC forbids. A packet from a client costs one hash lookup of its five-tuple (none if the
//! previous packet came from the same client). A packet from a peer costs none. Neither path
//! allocates, locks or computes an HMAC.
//!
//! The checks of a packet, by direction:
//!
//! | packet                  | allocation | permission | channel | peer policy |
//! |-------------------------|------------|------------|---------|-------------|
//! | ChannelData from client | yes        | no (§12.6) | yes     | yes         |
//! | Send indication         | yes        | yes        | -       | yes         |
//! | datagram from a peer    | yes        | yes (§9)   | if bound: ChannelData, else Data indication | yes |
//!
//! The verdict of the peer policy is cached with the epoch of the policy. A reload starts a new
//! epoch. The location of a peer on this machine is looked up for each packet; the cached verdict
//! only says that a lookup is needed.
//!
//! All route changes go through the writers in the second `impl ForwardTable`, in `moving` and in
//! `record`. Each of them ends in `changed`, which informs a mirror of the table (`changes`).

mod address;
pub(super) mod changes;
mod flow;
mod index;
mod moving;
mod record;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use address::{AddressHasher, PeerIp};
use changes::RouteQueue;
pub(super) use flow::Flow;
use flow::{CLOSED, Channel, Checked};

use super::counters::Counters;
use super::output::{DataRange, DropReason, Frame, Traffic, Verdict};
use super::policy::{PeerClass, PeerPolicy};
use super::shared::directory::RelayDirectory;
use super::types::{AllocationId, ChannelNumber, Client, Link, Path, PeerAddr, RelayId, RelayedAddr};
use crate::base::address::{Family, FiveTuple};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::wire::message::TransactionId;

/// Largest UDP payload by the family of its IP header.
const MAX_DATAGRAM: [usize; 2] = [65_507, 65_527];
/// Largest length in a STUN header: a multiple of four in 16 bits.
const MAX_STUN_LEN: usize = 65_532;

/// Every live allocation, with the state that packets need.
#[derive(Debug)]
pub(super) struct ForwardTable {
    flows: Slab<Box<Flow>>,
    hasher: AddressHasher,
    by_client: HashTable<u32>,
    /// Relayed transport addresses, for packets between two allocations of this server.
    by_relayed: HashTable<(u32, Family)>,
    /// The client of the previous packet, which most likely also sent the next.
    last: u32,
    /// Generation of the newest allocation.
    generation: u32,
    policy: Arc<PeerPolicy>,
    /// Counts policies. Cached verdicts of other epochs are invalid.
    epoch: u32,
    directory: Arc<RelayDirectory>,
    counters: Arc<Counters>,
    /// Present while there is a listener.
    changes: Option<Box<RouteQueue>>,
}

/// A table of one allocation is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Why a channel could not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindError {
    /// The number is bound to another peer, or the peer to another number.
    Conflict,
    /// Too many channels or permissions.
    Full,
}

// The packet path.
impl ForwardTable {
    /// ChannelData from a client (§12.6).
    pub(super) fn relay_channel_data(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        number: u16,
        data: DataRange,
    ) -> Verdict {
        let Some(index) = self.find(from) else {
            return Verdict::Drop(DropReason::NoAllocation);
        };
        let Some(flow) = self.flows.get_mut(index as usize) else {
            return Verdict::Drop(DropReason::NoAllocation);
        };
        let Some(position) = flow.position_of(number) else {
            return flow.nothing(now, DropReason::NoChannel);
        };
        let channel = &mut flow.channels[position];
        let family = channel.ip.family();
        if channel.until <= now {
            return flow.nothing(now, DropReason::NoChannel);
        }
        if flow.until[family as usize] <= now {
            return flow.nothing(now, DropReason::FamilyMismatch);
        }
        let peer = PeerAddr(channel.ip.with_port(channel.port));
        let class = channel.checked.class(&self.policy, self.epoch, peer);
        self.send(index, family, peer, class, data, false)
    }

    /// A Send indication from a client (§11.2).
    pub(super) fn relay_send(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        peer: PeerAddr,
        data: DataRange,
        dont_fragment: bool,
    ) -> Verdict {
        let Some(index) = self.find(from) else {
            return Verdict::Drop(DropReason::NoAllocation);
        };
        let Some(flow) = self.flows.get_mut(index as usize) else {
            return Verdict::Drop(DropReason::NoAllocation);
        };
        let family = Family::of(peer.0.ip());
        if flow.until[family as usize] <= now {
            return flow.nothing(now, DropReason::FamilyMismatch);
        }
        let Some(permission) = flow
            .permission(PeerIp::new(peer.0.ip()))
            .filter(|permission| permission.until > now)
        else {
            return Verdict::Drop(DropReason::NoPermission);
        };
        let class = permission.class(&self.policy, self.epoch, peer);
        self.send(index, family, peer, class, data, dont_fragment)
    }

    /// The last steps of every packet to a peer. Only this function returns [`Verdict::ToPeer`].
    fn send(
        &mut self,
        index: u32,
        family: Family,
        peer: PeerAddr,
        class: Option<PeerClass>,
        data: DataRange,
        dont_fragment: bool,
    ) -> Verdict {
        let flow = &mut self.flows[index as usize];
        // The allocation lives, but has no address that datagrams could leave from.
        let Some(relayed) = flow.relayed[family as usize] else {
            return Verdict::Drop(DropReason::TcpAllocation);
        };
        let verdict = match class {
            None => return Verdict::Drop(DropReason::PeerDenied),
            // A client may not relay to itself: that is the shortest loop (§21.1.7).
            Some(_) if relayed.0 == peer.0 => return Verdict::Drop(DropReason::PeerDenied),
            Some(_) if data.len() > MAX_DATAGRAM[family as usize] => return Verdict::Drop(DropReason::TooLong),
            Some(class) => match self.directory.way(class, peer) {
                Err(reason) => return Verdict::Drop(reason),
                Ok(None) => Verdict::ToPeer {
                    relay: RelayId {
                        allocation: flow.id,
                        family,
                    },
                    peer,
                    data,
                    dont_fragment: dont_fragment && flow.keeps_family(family),
                },
                Ok(Some(shard)) => Verdict::ToAllocation {
                    shard,
                    to: RelayedAddr(peer.0),
                    from: PeerAddr(relayed.0),
                    data,
                },
            },
        };
        flow.traffic.up_packets += 1;
        flow.traffic.up_bytes += data.len() as u64;
        let counters = &self.counters.up[flow.path as usize][flow.client.five_tuple.transport as usize];
        counters.packets.add(1);
        counters.bytes.add(data.len() as u64);
        verdict
    }

    /// A datagram from a peer at a relay socket (§11.3, §12.7) with `len` bytes of application
    /// data.
    pub(super) fn relay_datagram(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: PeerAddr,
        len: usize,
        rng: &mut Rng,
    ) -> Verdict {
        let family = relay.family as usize;
        let Some(flow) = self
            .flows
            .get_mut(relay.allocation.index as usize)
            .filter(|f| f.id == relay.allocation)
        else {
            return Verdict::Drop(DropReason::Gone);
        };
        if flow.until[family] <= now {
            return Verdict::Drop(DropReason::NoAllocation);
        }
        let ip = PeerIp::new(from.0.ip());
        let channel = flow.channel_of(ip, from.0.port()).filter(|channel| channel.until > now);
        let (class, frame) = if let Some(channel) = channel {
            if channel.permitted_until <= now {
                return Verdict::Drop(DropReason::NoPermission);
            }
            let class = channel.checked.class(&self.policy, self.epoch, from);
            (class, Frame::Channel(ChannelNumber(channel.number)))
        } else {
            let Some(permission) = flow.permission(ip).filter(|permission| permission.until > now) else {
                return Verdict::Drop(DropReason::NoPermission);
            };
            let class = permission.class(&self.policy, self.epoch, from);
            let mut id = [0; 12];
            rng.fill(&mut id);
            (
                class,
                Frame::Data {
                    peer: from,
                    transaction_id: TransactionId(id),
                },
            )
        };
        if class.is_none() {
            return Verdict::Drop(DropReason::PeerDenied);
        }
        if flow.away {
            return Verdict::Drop(DropReason::ClientAway);
        }
        if !fits(frame, len, &flow.client.five_tuple) {
            return Verdict::Drop(DropReason::TooLong);
        }
        flow.traffic.down_packets += 1;
        flow.traffic.down_bytes += len as u64;
        let counters = &self.counters.down[flow.path as usize][flow.client.five_tuple.transport as usize];
        counters.packets.add(1);
        counters.bytes.add(len as u64);
        Verdict::ToClient {
            allocation: flow.id,
            frame,
        }
    }

    /// The relay socket with this relayed transport address.
    pub(super) fn relay_at(&self, to: RelayedAddr) -> Option<RelayId> {
        let family = Family::of(to.0.ip());
        let hash = self.hasher.relayed(family, to.0.port());
        let same =
            |&(index, f): &(u32, Family)| f == family && self.flows[index as usize].relayed[f as usize] == Some(to);
        let &(index, family) = self.by_relayed.find(hash, same)?;
        Some(RelayId {
            allocation: self.flows[index as usize].id,
            family,
        })
    }

    /// Whether the client of `relay` has a permission for `peer`, and so may learn about it
    /// (§11.5).
    pub(super) fn is_permitted(&self, now: Instant, relay: RelayId, peer: PeerAddr) -> bool {
        let ip = PeerIp::new(peer.0.ip());
        self.flow(relay.allocation).is_some_and(|flow| {
            let permission = flow.position_of_permission(ip).map(|at| &flow.permissions[at]);
            !flow.away
                && flow.until[relay.family as usize] > now
                && permission.is_ok_and(|permission| permission.until > now)
                && self.policy.permission(peer.0.ip()).is_ok()
        })
    }

    /// The index of the allocation of a client that has sent a packet. Cached for its next packet.
    pub(super) fn find(&mut self, five_tuple: &FiveTuple) -> Option<u32> {
        let same = |&index: &u32| {
            self.flows
                .get(index as usize)
                .is_some_and(|f| f.client.five_tuple == *five_tuple)
        };
        if same(&self.last) {
            return Some(self.last);
        }
        let index = *self.by_client.find(self.hasher.five_tuple(five_tuple), same)?;
        self.last = index;
        Some(index)
    }
}

// Everything that changes a route, and what the rest of the core needs to know about allocations.
impl ForwardTable {
    /// An empty table.
    pub(super) fn new(
        seed: u64,
        policy: Arc<PeerPolicy>,
        directory: Arc<RelayDirectory>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            flows: Slab::new(),
            hasher: AddressHasher::new(seed),
            by_client: HashTable::new(),
            by_relayed: HashTable::new(),
            last: u32::MAX,
            generation: 0,
            policy,
            epoch: 0,
            directory,
            counters,
            changes: None,
        }
    }

    /// Replaces the policy, also for peers that the old one allowed.
    pub(super) fn set_policy(&mut self, policy: Arc<PeerPolicy>) {
        self.policy = policy;
        self.epoch = self.epoch.wrapping_add(1);
        self.sweep();
    }

    /// Number of allocations.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The allocation of a client.
    pub(super) fn allocation_of(&self, five_tuple: &FiveTuple) -> Option<AllocationId> {
        let same = |&index: &u32| self.flows[index as usize].client.five_tuple == *five_tuple;
        let &index = self.by_client.find(self.hasher.five_tuple(five_tuple), same)?;
        Some(self.flows[index as usize].id)
    }

    /// The client of an allocation.
    pub(super) fn client(&self, id: AllocationId) -> Option<&Client> {
        self.flow(id).map(|flow| &flow.client)
    }

    /// The client's socket has changed, but the client is the same.
    pub(super) fn set_link(&mut self, id: AllocationId, link: Link) {
        if let Some(flow) = self.flow_mut(id) {
            flow.client.link = link;
        }
    }

    /// Expiry of a relayed transport address; in the past if there is none of this family.
    pub(super) fn until(&self, id: AllocationId, family: Family) -> Instant {
        self.flow(id).map_or(CLOSED, |flow| flow.until[family as usize])
    }

    /// Adds an allocation for a client that has none. It relays nothing before [`Self::open`].
    pub(super) fn insert(&mut self, client: Client, path: Path) -> AllocationId {
        debug_assert!(
            self.allocation_of(&client.five_tuple).is_none(),
            "one allocation per five-tuple"
        );
        let id = self.next_id();
        self.flows.insert(Box::new(Flow {
            id,
            client,
            away: false,
            path,
            relayed: [None; 2],
            until: [CLOSED; 2],
            traffic: Traffic::default(),
            channels: Vec::new(),
            by_peer: Vec::new(),
            permissions: Vec::new(),
        }));
        self.index_client(id.index);
        id
    }

    /// Gives an allocation a relayed transport address that is bound and valid until `until`.
    pub(super) fn open(&mut self, id: AllocationId, shard: usize, relayed: RelayedAddr, until: Instant) {
        let family = Family::of(relayed.0.ip());
        let Some(flow) = self.flow_mut(id) else { return };
        flow.relayed[family as usize] = Some(relayed);
        flow.until[family as usize] = until;
        self.directory.set(relayed, Some(shard));
        self.index_relayed(id.index, relayed);
        self.changed(id);
    }

    /// Changes the expiry of a relayed transport address (§8.2). Permissions and channels keep
    /// theirs.
    pub(super) fn set_until(&mut self, id: AllocationId, family: Family, until: Instant) {
        if let Some(flow) = self.flow_mut(id)
            && flow.until[family as usize] != CLOSED
        {
            flow.until[family as usize] = until;
            self.changed(id);
        }
    }

    /// Removes a relayed transport address, with the channels and permissions of its family.
    pub(super) fn close(&mut self, id: AllocationId, family: Family) -> Option<RelayedAddr> {
        let flow = self.flow_mut(id)?;
        flow.until[family as usize] = CLOSED;
        flow.permissions.retain(|permission| permission.ip.family() != family);
        flow.retain_channels(|channel| channel.ip.family() != family);
        let relayed = flow.relayed[family as usize]?;
        self.directory.set(relayed, None);
        self.unindex_relayed(id.index, family);
        // Only now: finding the entry above needs the hash of this address.
        if let Some(flow) = self.flow_mut(id) {
            flow.relayed[family as usize] = None;
        }
        self.changed(id);
        Some(relayed)
    }

    /// Removes an allocation and returns what it has relayed.
    pub(super) fn remove(&mut self, id: AllocationId) -> Option<(Client, Traffic)> {
        self.flow(id)?;
        self.close(id, Family::V4);
        self.close(id, Family::V6);
        self.unindex_client(id.index);
        let flow = self.flows.remove(id.index as usize);
        self.changed(id);
        self.shrink();
        Some((flow.client, flow.traffic))
    }

    /// Installs or refreshes permissions (§9): all of them, or none if there would be more than
    /// `most`.
    pub(super) fn permit(
        &mut self,
        now: Instant,
        id: AllocationId,
        ips: &[IpAddr],
        until: Instant,
        most: usize,
    ) -> Result<(), Full> {
        let Some(flow) = self.flow_mut(id) else { return Ok(()) };
        let mut wanted: Vec<PeerIp> = ips.iter().copied().map(PeerIp::new).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Expired permissions do not count.
        flow.permissions.retain(|permission| permission.until > now);
        let added = wanted
            .iter()
            .filter(|&&ip| flow.position_of_permission(ip).is_err())
            .count();
        // Permissions granted before a reload lowered the bound may still be refreshed.
        if added > 0 && flow.permissions.len() + added > most {
            return Err(Full);
        }
        for ip in wanted {
            flow.permit(ip, until);
        }
        self.changed(id);
        Ok(())
    }

    /// Whether the number is bound to another peer, or the peer to another number.
    pub(super) fn conflicts(&self, now: Instant, id: AllocationId, number: ChannelNumber, peer: PeerAddr) -> bool {
        let peer = (PeerIp::new(peer.0.ip()), peer.0.port());
        self.flow(id).is_some_and(|flow| {
            let mut live = flow.channels.iter().filter(|channel| channel.until > now);
            live.any(|channel| (channel.number == number.0) != ((channel.ip, channel.port) == peer))
        })
    }

    /// Binds or refreshes a channel and the permission of its peer (§12.2): both or neither.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        id: AllocationId,
        number: ChannelNumber,
        peer: PeerAddr,
        until: BindUntil,
        most: BindMost,
    ) -> Result<(), BindError> {
        if self.conflicts(now, id, number, peer) {
            return Err(BindError::Conflict);
        }
        let Some(flow) = self.flow_mut(id) else { return Ok(()) };
        let refreshed = flow
            .position_of(number.0)
            .is_some_and(|position| flow.channels[position].until > now);
        if !refreshed {
            flow.retain_channels(|channel| channel.until > now);
            if flow.channels.len() >= most.channels {
                return Err(BindError::Full);
            }
        }
        self.permit(now, id, &[peer.0.ip()], until.permission, most.permissions)
            .map_err(|Full| BindError::Full)?;
        let Some(flow) = self.flow_mut(id) else { return Ok(()) };
        match flow.position_of(number.0) {
            Some(position) => flow.channels[position].until = until.channel,
            None => flow.add_channel(Channel {
                ip: PeerIp::new(peer.0.ip()),
                port: peer.0.port(),
                number: number.0,
                checked: Checked::NEVER,
                until: until.channel,
                permitted_until: until.permission,
            }),
        }
        self.changed(id);
        Ok(())
    }

    /// The id of the next allocation.
    fn next_id(&mut self) -> AllocationId {
        self.generation = self.generation.wrapping_add(1);
        AllocationId {
            index: self.flows.vacant_key() as u32,
            generation: self.generation,
        }
    }

    /// The routes of an allocation.
    pub(in crate::turn) fn flow(&self, id: AllocationId) -> Option<&Flow> {
        self.flows
            .get(id.index as usize)
            .map(|flow| &**flow)
            .filter(|flow| flow.id == id)
    }

    fn flow_mut(&mut self, id: AllocationId) -> Option<&mut Flow> {
        self.flows
            .get_mut(id.index as usize)
            .map(|flow| &mut **flow)
            .filter(|flow| flow.id == id)
    }
}

/// Deadlines of a channel binding and the permission it installs.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindUntil {
    pub(super) channel: Instant,
    pub(super) permission: Instant,
}

/// Bounds on the channels and permissions of one allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindMost {
    pub(super) channels: usize,
    pub(super) permissions: usize,
}

/// Whether application data from a peer, with its header, can be sent to the client at all.
fn fits(frame: Frame, len: usize, to: &FiveTuple) -> bool {
    let stream = to.transport.is_stream();
    let padded = len + frame.padding(len, to.transport);
    let header = match frame {
        Frame::Channel(_) => 4,
        Frame::Data { peer, .. } if peer.0.is_ipv4() => 36,
        Frame::Data { .. } => 48,
    };
    if stream {
        match frame {
            Frame::Channel(_) => len <= usize::from(u16::MAX),
            Frame::Data { .. } => header - 20 + padded <= MAX_STUN_LEN,
        }
    } else {
        header + padded <= MAX_DATAGRAM[Family::of(to.client.ip()) as usize]
    }
}
