//! Allocations that move from shard to shard (RFC 8016): the core's migration messages, and the
//! relay sockets that go along.
//!
//! They use the control channel. It has no bound, so it is never full: an allocation that has left
//! arrives. The number of allocations and the requests of one turn bound what it holds.

use super::Worker;
use crate::shard::control::{Control, MigrationEnvelope};
use crate::turn::types::RelayId;

impl Worker {
    /// Takes a relay socket out of use until the message it goes with is sent.
    pub(super) fn detach(&mut self, id: RelayId) {
        if let Some(socket) = self.udp.detach(self.now.mono, &self.epoll, id) {
            self.detached.push((id, socket));
        }
    }

    /// Sends the core's messages to other shards, or to this one.
    pub(super) fn send_migrations(&mut self) {
        while let Some(migration) = self.server.poll_migration() {
            let detached = &mut self.detached;
            let sockets = migration.sockets().map(|id| {
                let at = detached.iter().position(|&(it, _)| Some(it) == id)?;
                Some(detached.swap_remove(at).1)
            });
            if let Some(shard) = self.outlets.shards.get(migration.to()) {
                shard.send(Control::Migration(Box::new(MigrationEnvelope { migration, sockets })));
            }
        }
    }

    /// Handles a message of another shard.
    pub(super) fn receive_migration(&mut self, envelope: MigrationEnvelope) {
        let MigrationEnvelope { migration, sockets } = envelope;
        let handled = self.server.handle_migration(self.now, migration, &mut self.response);
        if let Some(client) = handled.respond {
            self.respond(&client);
        }
        for (id, socket) in handled.arrived.into_iter().zip(sockets) {
            let Some(id) = id else { continue };
            let attached = socket.is_some_and(|socket| self.udp.attach(self.now.mono, &self.epoll, id, socket).is_ok());
            if !attached {
                tracing::warn!(target: "relay::shard", shard = self.index, "cannot watch the relay socket of an allocation that moved here");
                self.server.handle_relay_lost(self.now, id);
            }
        }
        // At once: data from peers waits in the socket until the next shard watches it.
        self.run_commands();
        while let Some((client, packet)) = self.server.poll_held() {
            if self.udp.recv.free() == 0 {
                self.send_datagrams();
            }
            if let Some(packet) = self.udp.recv.store(&packet, &[]) {
                self.handle_client(&client, packet, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
