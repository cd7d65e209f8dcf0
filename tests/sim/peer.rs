//! Peers: some answer what they receive, some send on their own, some do not exist.

use crate::trace;
use crate::world::{Event, Payload, World};
use std::net::SocketAddr;

/// Peers echo until they have sent this often, so payloads stay distinguishable.
const ECHO: u64 = 40;

impl World {
    /// Application data of a few bytes, or many.
    pub(crate) fn payload(&mut self) -> Payload {
        let len = match self.dice.below(100) {
            0..=9 => self.dice.index(9),
            10..=84 => 20 + self.dice.index(180),
            85..=98 => 200 + self.dice.index(1000),
            _ => 1200 + self.dice.index(8000),
        };
        self.dice.bytes(len).into()
    }

    /// The same, occasionally as long as a datagram can be, or a little longer.
    pub(crate) fn media(&mut self) -> Payload {
        if self.dice.per_mille(995) {
            return self.payload();
        }
        let len = self.dice.between(65_440, 65_535) as usize;
        self.dice.bytes(len).into()
    }

    /// A datagram from a relayed address arrives at a peer.
    pub(crate) fn datagram_at_peer(&mut self, peer: SocketAddr, from: SocketAddr, payload: &Payload) {
        trace::note(|| format!("peer {peer} <- {from}: {} bytes", payload.len()));
        assert!(
            self.peers.contains(&peer) || peer.ip().to_string().starts_with("93.184."),
            "{peer} is no peer"
        );
        if self.quiet {
            return;
        }
        if self.dice.percent(5) {
            // No program listens there.
            let delay = self.dice.millis(1, 50);
            self.after(delay, Event::Icmp { relayed: from, peer });
        } else if self.dice.percent(ECHO) {
            let payload = self.media();
            self.send_to_relay(peer, from, payload);
        }
    }

    /// A peer sends on its own: to an existing address, a former one, or one that never existed.
    pub(crate) fn peer_tick(&mut self) {
        if self.quiet {
            return;
        }
        for _ in 0..self.dice.between(1, 4) {
            let peer = *self.dice.pick(&self.peers.clone());
            let known = if self.dice.percent(80) {
                self.site.sockets.keys().copied().collect()
            } else {
                self.board.relayed.clone()
            };
            let Some(relayed) = self.dice.maybe_pick(&known) else {
                break;
            };
            if relayed.is_ipv4() == peer.is_ipv4() {
                let payload = self.media();
                self.send_to_relay(peer, relayed, payload);
            }
        }
        if self.dice.percent(10)
            && let Some(relayed) = self.dice.maybe_pick(&self.board.relayed)
        {
            let peer = *self.dice.pick(&self.peers.clone());
            if peer.is_ipv4() == relayed.is_ipv4() {
                self.after(core::time::Duration::ZERO, Event::Icmp { relayed, peer });
            }
        }
        let gap = if self.dice.percent(90) {
            self.dice.millis(10, 4000)
        } else {
            self.dice.millis(1, 90_000)
        };
        self.after(gap, Event::Peer);
    }
}
