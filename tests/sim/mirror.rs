//! A mirror of the forward table, as an offload would keep it: it receives changes and asks
//! nothing. The core relays whatever the mirror would relay, in the same way, and the mirror can
//! relay everything that it should.

use std::collections::HashMap;
use std::net::SocketAddr;

use relay_proto::base::address::Transport;
use relay_proto::base::time::Instant;
use relay_proto::turn::output::DataRange;
use relay_proto::turn::types::{ChannelNumber, Client, PeerAddr, RelayId};
use relay_proto::turn::{ChannelRoute, Frame, RouteChange, RouteKey, Verdict};
use relay_proto::wire::channel_data;

use crate::network::most_in_a_datagram;
use crate::world::World;

/// The routes of one shard.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    routes: HashMap<RouteKey, ChannelRoute>,
}

impl Mirror {
    pub(crate) fn apply(&mut self, change: RouteChange) {
        match change {
            RouteChange::Install(route) => {
                let before = self.routes.insert(route.key, route);
                assert_ne!(before, Some(route), "a route is installed that is there already");
            }
            RouteChange::Remove(key) => {
                assert!(
                    self.routes.remove(&key).is_some(),
                    "{key:?} is removed and was not there"
                );
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The result of a packet from a client; `None`: the core must decide.
    pub(crate) fn of_client(&self, now: Instant, client: &Client, packet: &[u8]) -> Option<Verdict> {
        if client.five_tuple.transport != Transport::Udp {
            return None;
        }
        let (number, data) = channel_data::parse(packet).ok()?;
        let route =
            self.only(|route| route.client == client.five_tuple && route.key.number == ChannelNumber(number))?;
        let fits = data.len() <= most_in_a_datagram(route.peer.0);
        (now < route.to_peer_until && fits).then_some(Verdict::ToPeer {
            relay: route.key.relay,
            peer: route.peer,
            data: DataRange::from(data),
            dont_fragment: false,
        })
    }

    /// The result of a datagram at a relay socket; `None`: the core must decide.
    pub(crate) fn of_peer(&self, now: Instant, relay: RelayId, from: SocketAddr, len: usize) -> Option<Verdict> {
        let route = self.only(|route| route.key.relay == relay && route.peer == PeerAddr(from))?;
        let fits = 4 + len <= most_in_a_datagram(route.client.client);
        (now < route.to_client_until && fits).then_some(Verdict::ToClient {
            allocation: relay.allocation,
            frame: Frame::Channel(route.key.number),
        })
    }

    fn only(&self, is: impl Fn(&&ChannelRoute) -> bool) -> Option<&ChannelRoute> {
        let mut found = self.routes.values().filter(is);
        let first = found.next();
        assert!(found.next().is_none(), "two routes for one packet");
        first
    }
}

impl World {
    /// Checks that the core and its mirror agree about ChannelData from a client or a datagram from
    /// a peer. The mirror relays exactly the packets that go as ChannelData between a client over
    /// UDP and a peer.
    pub(crate) fn compare(&mut self, mirrored: Option<Verdict>, verdict: Verdict, client: Option<&Client>) {
        let over_udp = client.is_some_and(|client| client.five_tuple.transport == Transport::Udp);
        let channel = matches!(
            verdict,
            Verdict::ToPeer { .. }
                | Verdict::ToClient {
                    frame: Frame::Channel(_),
                    ..
                }
        );
        if mirrored.is_some() || over_udp && channel {
            assert_eq!(mirrored, Some(verdict), "the mirror relays otherwise than the core");
            self.oracle.mark("relayed by the mirror as well");
        }
    }
}
