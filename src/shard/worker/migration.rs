//! Allocations on their way from shard to shard (RFC 8016): the core's migrations, and the relay sockets that go with them.
//!
//! They go by the control channel, which has no bound and so is never full: an allocation that has left arrives. What
//! stands in it is bounded by the allocations there are and by the requests of one turn.

use super::Worker;
use crate::shard::control::{Control, MigrationEnvelope};
use crate::turn::types::RelayId;

impl Worker {
    /// Takes a relay socket out of use until the migration it belongs to is sent.
    pub(super) fn detach(&mut self, id: RelayId) {
        if let Some(socket) = self.udp.detach(self.now.mono, &self.epoll, id) {
            self.detached.push((id, socket));
        }
    }

    /// Sends what the core has for other shards, or for this one.
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

    /// Takes what another shard has sent.
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
        // At once: what peers send to an allocation that leaves waits in its socket for the shard it goes to.
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
