//! Packets from peers: datagrams at relayed addresses, and ICMP.

use core::time::Duration;
use std::net::SocketAddr;

use relay_proto::base::time::Now;
use relay_proto::turn::config::IcmpReports;
use relay_proto::turn::types::Client;
use relay_proto::turn::{DropReason, Verdict};
use relay_proto::wire::integrity::PasswordAlgorithm;

use crate::oracle::{Life, Oracle};
use crate::places::family;
use crate::reply::FromPeer;

/// The server's handling of one datagram from a peer.
#[derive(Debug)]
pub(crate) struct Inbound<'a> {
    pub(crate) shard: usize,
    pub(crate) relayed: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) payload: &'a [u8],
    pub(crate) now: Now,
    pub(crate) verdict: Verdict,
}

impl Oracle {
    /// Checks the result of a datagram at a relayed address; `sent` is what the client receives, if
    /// anything.
    pub(crate) fn judge_inbound(&mut self, deed: &Inbound<'_>, sent: Option<(&Client, FromPeer)>) {
        let Inbound {
            shard,
            relayed,
            peer,
            payload,
            now,
            verdict,
        } = *deed;
        self.ledgers[shard].verdict(&verdict);
        let there = self
            .at(relayed)
            .map(|held| (held.client, self.way_in(held, peer, payload.len(), now.mono)));
        let Some((client, frame)) = sent else {
            assert!(
                matches!(verdict, Verdict::Drop(_)),
                "a peer's datagram led to {verdict:?}"
            );
            if verdict == Verdict::Drop(DropReason::TooLong) {
                self.mark("too long for a client");
            }
            let life = there.map_or(Life::No, |(_, (life, ..))| life);
            assert_ne!(
                life,
                Life::Yes,
                "not relayed to the client ({verdict:?}), though it must be"
            );
            self.mark("a peer's datagram is dropped");
            return;
        };
        let (owner, (life, channel, number)) = there.expect("delivered to the client of a relayed address nobody has");
        assert_ne!(life, Life::No, "reaches the client without a permission");
        assert_eq!(*client, owner, "reaches another client");
        match frame {
            FromPeer::Channel { number: used, data } => {
                assert_ne!(channel, Life::No, "ChannelData on a channel that is not bound");
                assert_eq!((Some(used), &*data), (number, payload), "ChannelData");
                self.mark("ChannelData to a client");
            }
            FromPeer::Data { peer: from, data } => {
                assert_ne!(channel, Life::Yes, "a Data indication beside a channel");
                assert_eq!((from, &*data), (peer, payload), "Data indication");
                self.mark("Data indication to a client");
            }
            FromPeer::Icmp { .. } => panic!("application data, not ICMP"),
        }
        self.ledgers[shard].down(owner.five_tuple.transport, payload.len());
        self.of_mut(&owner).expect("it is held").down.add(payload.len());
    }

    /// Checks an ICMP message about a datagram to `peer`, and what the client receives.
    pub(crate) fn judge_icmp(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        now: Now,
        sent: Option<(Client, FromPeer)>,
    ) {
        let second = Duration::from_secs(1);
        let found = self.at(relayed).map(|held| {
            // Permissions are for addresses, whatever the port (RFC 8656 §11.5).
            let allowed = self.rules[held.shard].peers.permits(peer.ip());
            let permitted = if allowed {
                held.permission(peer.ip(), now.mono)
            } else {
                Life::No
            };
            let permitted = permitted.min(held.half_life(family(peer), now.mono));
            let wanted = match self.setup.icmp {
                IcmpReports::Auto => held.login.algorithm == PasswordAlgorithm::Sha256,
                IcmpReports::Always => true,
                IcmpReports::Never => false,
            };
            let permitted = if wanted { permitted } else { Life::No };
            let rested = held.last_icmp.is_none_or(|last| now.mono > last + second);
            (held.client, if rested { permitted } else { permitted.min(Life::Maybe) })
        });
        let Some((client, frame)) = sent else {
            assert!(
                found.is_none_or(|(_, life)| life < Life::Yes),
                "the client is not told of ICMP"
            );
            return;
        };
        let (owner, life) = found.expect("ICMP for a relayed address nobody has");
        assert!(
            life > Life::No && client == owner,
            "ICMP about a peer that is not permitted, or to a client that did not ask for it"
        );
        assert_eq!(frame, FromPeer::Icmp { peer });
        self.of_mut(&owner).expect("it is held").last_icmp = Some(now.mono);
        self.mark("ICMP to a client");
    }
}
