//! Changes of the table, for a mirror of it: an offload that relays packets for which it has a
//! route.
//!
//! The table reports channels between a client over plain UDP and a peer on the network. Everything
//! else needs the core for each packet: streams and DTLS, because the shard frames them; peers on
//! this machine, because the directory is asked for each packet which shard serves them; clients
//! that are away. The policy is evaluated when a route is reported. A route carries its deadlines,
//! so a mirror that gets no further updates soon stops relaying.
//!
//! Without a listener nothing is kept and nothing is queued (decision 0048).

use std::collections::VecDeque;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use super::ForwardTable;
use super::flow::Flow;
use crate::base::address::{FiveTuple, Transport};
use crate::base::queue::take_first;
use crate::base::time::Instant;
use crate::turn::policy::{PeerClass, PeerPolicy};
use crate::turn::types::{AllocationId, ChannelNumber, PeerAddr, RelayId, RelayedAddr};

/// Identifies a route: a channel of the allocation that owns a relay socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The relay socket.
    pub relay: RelayId,
    /// The channel.
    pub number: ChannelNumber,
}

/// A channel that can be relayed without the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelRoute {
    /// Its key.
    pub key: RouteKey,
    /// The client. Its channel messages, from its address to the server's, go to the peer.
    pub client: FiveTuple,
    /// The relayed transport address, as peers see it.
    pub relayed: RelayedAddr,
    /// The peer.
    pub peer: PeerAddr,
    /// Deadline of the direction to the peer.
    pub to_peer_until: Instant,
    /// Deadline of the direction to the client as ChannelData. Later packets from the peer go to
    /// the core.
    pub to_client_until: Instant,
}

/// A change of the routes that can be relayed without the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// This route exists from now on and replaces one with the same key.
    Install(ChannelRoute),
    /// The route with this key no longer exists.
    Remove(RouteKey),
}

/// What the listener has received, and what it has still to receive.
#[derive(Debug)]
pub(super) struct RouteQueue {
    reported: HashMap<AllocationId, Vec<ChannelRoute>, FixedState>,
    queue: VecDeque<RouteChange>,
}

impl ForwardTable {
    /// With `on`, reports changes from now on, beginning with the existing routes. Otherwise
    /// discards pending changes; the owner of the mirror must empty it.
    pub(in crate::turn) fn report_routes(&mut self, on: bool) {
        self.changes = on.then(|| {
            Box::new(RouteQueue {
                reported: HashMap::with_hasher(FixedState::with_seed(0)),
                queue: VecDeque::new(),
            })
        });
        self.sweep();
    }

    /// The next change, in order.
    pub(in crate::turn) fn poll_route_change(&mut self) -> Option<RouteChange> {
        take_first(&mut self.changes.as_deref_mut()?.queue)
    }

    /// Marks an allocation whose change may affect a route. Every writer calls this last.
    pub(super) fn changed(&mut self, id: AllocationId) {
        let Self {
            flows,
            policy,
            epoch,
            changes: Some(changes),
            ..
        } = self
        else {
            return;
        };
        let flow = flows.get_mut(id.index as usize).filter(|flow| flow.id == id);
        let routes = flow.map(|flow| flow.channel_routes(policy, *epoch));
        changes.report(id, routes.unwrap_or_default());
    }

    /// Marks all allocations.
    pub(super) fn sweep(&mut self) {
        if self.changes.is_none() {
            return;
        }
        let ids: Vec<AllocationId> = self.flows.iter().map(|(_, flow)| flow.id).collect();
        ids.into_iter().for_each(|id| self.changed(id));
    }
}

impl RouteQueue {
    /// Queues the differences from what the listener has received.
    fn report(&mut self, id: AllocationId, routes: Vec<ChannelRoute>) {
        let reported = self.reported.get(&id).map_or(&[][..], Vec::as_slice);
        let gone = reported
            .iter()
            .filter(|old| !routes.iter().any(|route| route.key == old.key));
        self.queue.extend(gone.map(|old| RouteChange::Remove(old.key)));
        let new = routes.iter().filter(|route| !reported.contains(route));
        self.queue.extend(new.map(|route| RouteChange::Install(*route)));
        if routes.is_empty() {
            self.reported.remove(&id);
        } else {
            self.reported.insert(id, routes);
        }
    }
}

impl Flow {
    /// The channels that can be relayed without the core and that the policy allows.
    fn channel_routes(&mut self, policy: &PeerPolicy, epoch: u32) -> Vec<ChannelRoute> {
        let client = self.client.five_tuple;
        if self.away || client.transport != Transport::Udp {
            return Vec::new();
        }
        let Self {
            id,
            relayed,
            until,
            channels,
            ..
        } = self;
        let route = |channel: &mut super::Channel| {
            let family = channel.ip.family();
            let relayed = relayed[family as usize]?;
            let peer = PeerAddr(channel.ip.with_port(channel.port));
            let class = channel.checked.class(policy, epoch, peer)?;
            let to_peer_until = channel.until.min(until[family as usize]);
            (class == PeerClass::Peer).then_some(ChannelRoute {
                key: RouteKey {
                    relay: RelayId {
                        allocation: *id,
                        family,
                    },
                    number: ChannelNumber(channel.number),
                },
                client,
                relayed,
                peer,
                to_peer_until,
                to_client_until: to_peer_until.min(channel.permitted_until),
            })
        };
        channels.iter_mut().filter_map(route).collect()
    }
}
