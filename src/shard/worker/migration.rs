//! Allocations on their way from shard to shard (RFC 8016): the core's handoffs, and the relay sockets that go with them.
//!
//! They go by the control channel, which has no bound and so is never full: an allocation that has left arrives. What
//! stands in it is bounded by the allocations there are and by the requests of one turn.

use crate::net::udp::UdpSocket;
use crate::shard::worker::{Control, Worker};
use crate::turn::Handoff;
use crate::turn::types::RelayId;

/// A handoff and the relay sockets of the allocation in it, by family.
#[derive(Debug)]
pub(in crate::shard) struct Parcel {
    handoff: Handoff,
    sockets: [Option<UdpSocket>; 2],
}

impl Worker {
    /// Takes a relay socket out of use until the handoff it belongs to is sent.
    pub(super) fn detach(&mut self, id: RelayId) {
        if let Some(socket) = self.carrier.detach(self.now.mono, &self.epoll, id) {
            self.detached.push((id, socket));
        }
    }

    /// Sends what the core has for other shards, or for this one.
    pub(super) fn send_handoffs(&mut self) {
        while let Some(handoff) = self.server.poll_handoff() {
            let detached = &mut self.detached;
            let sockets = handoff.sockets().map(|id| {
                let at = detached.iter().position(|&(it, _)| Some(it) == id)?;
                Some(detached.swap_remove(at).1)
            });
            if let Some((control, waker)) = self.peers.get(handoff.to()) {
                // A worker that has ended takes nothing over: the process ends as well.
                let _ = control.send(Control::Handoff(Box::new(Parcel { handoff, sockets })));
                waker.wake();
            }
        }
    }

    /// Takes what another shard has sent.
    pub(super) fn receive_handoff(&mut self, parcel: Parcel) {
        let Parcel { handoff, sockets } = parcel;
        let handled = self.server.handle_handoff(self.now, handoff, &mut self.response);
        if let Some(client) = handled.respond {
            self.respond(&client);
        }
        for (id, socket) in handled.arrived.into_iter().zip(sockets) {
            let Some(id) = id else { continue };
            let attached =
                socket.is_some_and(|socket| self.carrier.attach(self.now.mono, &self.epoll, id, socket).is_ok());
            if !attached {
                tracing::warn!(target: "relay::shard", shard = self.index, "cannot watch the relay socket of an allocation that moved here");
                self.server.handle_relay_lost(self.now, id);
            }
        }
        // At once: what peers send to an allocation that leaves waits in its socket for the shard it goes to.
        self.obey();
        while let Some((client, packet)) = self.server.poll_held() {
            if self.carrier.recv.free() == 0 {
                self.settle_datagrams();
            }
            if let Some(packet) = self.carrier.recv.store(&packet, &[]) {
                self.handle_client(&client, packet, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
