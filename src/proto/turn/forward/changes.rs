//! What changes in the table, for whoever mirrors it: an offload that relays by itself what it has a route for.
//!
//! Reported are channels between a client over plain UDP and a peer out on the network. All else needs the core for each
//! packet: streams and DTLS, whose framing is the shard's; peers on this machine, of which the directory knows at each
//! packet which shard has them; clients that are away. A policy's verdict is taken when a route is reported, and a route
//! has its deadlines with it, so that a mirror nobody writes to any more relays nothing for long.
//!
//! With no listener nothing is kept and nothing queued (decision 0048).

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

/// Names a route: a channel of the allocation a relay socket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The relay socket.
    pub relay: RelayId,
    /// The channel.
    pub number: ChannelNumber,
}

/// A channel that may be relayed without the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelRoute {
    /// Its name.
    pub key: RouteKey,
    /// The client: what it sends on the channel, from here to there, is for the peer.
    pub client: FiveTuple,
    /// The relayed transport address, as peers see it.
    pub relayed: RelayedAddr,
    /// The peer.
    pub peer: PeerAddr,
    /// From when on nothing goes to the peer any more.
    pub to_peer_until: Instant,
    /// From when on nothing goes to the client as ChannelData any more. What a peer sends from then on is for the core.
    pub to_client_until: Instant,
}

/// A change of the routes that may be relayed without the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// There is this route from now on; one of the same name is replaced.
    Install(ChannelRoute),
    /// There is none of this name any more.
    Remove(RouteKey),
}

/// What a listener has been sent, and what is still to be sent.
#[derive(Debug)]
pub(super) struct RouteQueue {
    reported: HashMap<AllocationId, Vec<ChannelRoute>, FixedState>,
    queue: VecDeque<RouteChange>,
}

impl ForwardTable {
    /// With `on`, changes are reported from now on, and what there is already is the first of them. Otherwise what was to be
    /// reported is forgotten: the mirror is to be emptied by its owner.
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

    /// Something of an allocation has changed that a route may depend on. Every writer says so last.
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

    /// Everything may have changed.
    pub(super) fn sweep(&mut self) {
        if self.changes.is_none() {
            return;
        }
        let ids: Vec<AllocationId> = self.flows.iter().map(|(_, flow)| flow.id).collect();
        ids.into_iter().for_each(|id| self.changed(id));
    }
}

impl RouteQueue {
    /// Queues what differs from what was sent.
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
    /// Its channels that may be relayed without the core, by the word of the policy.
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
