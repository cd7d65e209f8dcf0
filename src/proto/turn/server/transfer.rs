//! Allocations as records: exported by one server, and imported by a server that continues where
//! the first one ended (decision 0047).
//!
//! Operations in progress are not exported: Allocates whose relay sockets are being opened, clients
//! that wait for their allocation (RFC 8016), migrations. Also omitted are allocations that relay
//! TCP (RFC 6062), whose connections belong to the process; rate budgets, which start anew; and
//! remembered transactions whose allocations have ended.

use core::net::SocketAddr;
use std::sync::Arc;

use super::Server;
use crate::base::address::Family;
use crate::base::rate::Bucket;
use crate::base::time::{Instant, Now};
use crate::turn::login::owner::Owner;
use crate::turn::shared::ports::RelayPort;
use crate::turn::shared::reservations::Reservation;
use crate::turn::state::allocation::{Allocation, FAMILIES, Socket};
use crate::turn::state::mobile::Mobile;
use crate::turn::state::record::{
    AllocationRecord, Exported, Handles, ImportError, MobileRecord, OwnerRecord, RECORD_VERSION, RelayedRecord,
    ReservationRecord,
};
use crate::turn::types::{AllocationId, Client, RelayId, RelayedAddr};
use crate::wire::message::TransactionId;

impl Server {
    /// All live allocations as records, each with the handles it needs. They also stay here. A
    /// caller that imports them elsewhere must drop this server without another call. Migrations in
    /// transit must have arrived before.
    pub fn export(&self, now: Now) -> Vec<Exported> {
        let ids = self.allocations.ids().into_iter();
        ids.filter_map(|id| self.export_one(now.mono, id)).collect()
    }

    /// The ports reserved here (RFC 8656 §7.2), as records.
    pub fn export_reservations(&self, now: Now) -> Vec<ReservationRecord> {
        let record = |token| {
            self.shared.reservations.look(token, |reservation| ReservationRecord {
                version: RECORD_VERSION,
                token: *token,
                family: reservation.port.family(),
                port: reservation.port.number(),
                owner: OwnerRecord::of(&reservation.username, &reservation.user),
                until: reservation.until,
            })
        };
        let live = self.reserved.iter().filter(|&&(until, _)| until > now.mono);
        live.filter_map(|(_, token)| record(token)).collect()
    }

    fn export_one(&self, now: Instant, id: AllocationId) -> Option<Exported> {
        let allocation = self.allocations.get(id)?;
        if allocation.opening.is_some() || allocation.tcp.is_some() {
            return None;
        }
        let client = self.forward.client(id)?;
        let routes = self.forward.routes(now, id)?;
        let relayed = FAMILIES.map(|family| {
            let Socket::Open { port, relayed } = &allocation.sockets[family as usize] else {
                return None;
            };
            let until = self.forward.until(id, family);
            (until > now).then_some(RelayedRecord {
                address: relayed.0,
                port: port.number(),
                until,
            })
        });
        if relayed == [None; 2] {
            return None;
        }
        let session = Arc::clone(&allocation.session);
        let record = AllocationRecord {
            version: RECORD_VERSION,
            id: allocation.session_id,
            client: client.five_tuple,
            away: self.forward.is_away(id),
            owner: OwnerRecord::of(&session.username, &session.user),
            requested: allocation.requested,
            transaction_id: allocation.transaction_id.0,
            relayed,
            given: allocation.relayed.map(|given| given.map(|it| it.0)),
            token: allocation.token,
            unavailable: allocation.unavailable,
            judged_a_peer: allocation.judged_a_peer,
            permissions: routes.permissions,
            channels: routes.channels,
            traffic: routes.traffic,
            mobile: allocation.mobile.as_deref().map(|mobile| record_of(now, mobile)),
        };
        let sockets = FAMILIES.map(|family| relayed[family as usize].map(|_| RelayId { allocation: id, family }));
        Some(Exported {
            record,
            handles: Handles {
                link: client.link,
                session,
            },
            sockets,
        })
    }

    /// Imports an allocation from its record. Returns the ids of its relay sockets here, which the
    /// shard now has or watches. Ignores limits: what was granted once stays granted.
    ///
    /// # Errors
    /// Why it is not imported; then nothing has changed here.
    pub fn import(
        &mut self,
        now: Now,
        record: &AllocationRecord,
        handles: Handles,
    ) -> Result<[Option<RelayId>; 2], ImportError> {
        let now = now.mono;
        record.check(now)?;
        let Handles { link, session } = handles;
        let client = Client {
            five_tuple: record.client,
            link,
        };
        self.check_import(record, &client)?;
        if *session.username != *record.owner.username || session.user != record.owner.user() {
            return Err(ImportError::WrongLogin);
        }
        let sockets = self.claim_sockets(now, record)?;
        let quotas = &self.shared.quotas;
        let quota = quotas.readmit(&session.user, record.client.client.ip());
        let quota = quota.map_err(|_| ImportError::TooMany)?;
        let path = self.path(&client);
        let id = self.forward.restore(now, record, client, path, self.shard.index);
        let transport = record.client.transport as usize;
        self.allocations.insert(Allocation {
            id,
            session_id: record.id,
            session,
            sockets,
            relayed: record.given.map(|given| given.map(RelayedAddr)),
            transaction_id: TransactionId(record.transaction_id),
            requested: record.requested,
            token: record.token,
            unavailable: record.unavailable,
            opening: None,
            tcp: None,
            owner: Owner::default(),
            requests: Bucket::default(),
            reports: Bucket::default(),
            judged_a_peer: record.judged_a_peer,
            quota,
            mobile: record.mobile.map(|mobile| Box::new(mobile_of(&mobile))),
        });
        for name in record.mobile.iter().flat_map(names) {
            self.shared.tickets.set(name, self.shard.index, id);
        }
        self.counters.allocations[transport].add(1);
        self.counters.allocations_imported.add(1);
        self.counters.away.add(u64::from(record.away));
        self.arm(now, id);
        Ok(FAMILIES.map(|family| {
            let live = record.relayed[family as usize].is_some_and(|it| it.until > now);
            live.then_some(RelayId { allocation: id, family })
        }))
    }

    fn check_import(&self, record: &AllocationRecord, client: &Client) -> Result<(), ImportError> {
        if self.stopping {
            return Err(ImportError::Stopping);
        }
        if !record.away && self.has_or_awaits_allocation(client) {
            return Err(ImportError::ClientTaken);
        }
        let mut tickets = record.mobile.iter().flat_map(names);
        if tickets.any(|name| self.shared.tickets.find(&name).is_some()) {
            return Err(ImportError::TicketTaken);
        }
        Ok(())
    }

    /// Takes the ports of all live relayed transport addresses, or none.
    fn claim_sockets(&self, now: Instant, record: &AllocationRecord) -> Result<[Socket; 2], ImportError> {
        let mut sockets = Socket::NONE;
        for family in FAMILIES {
            if let Some(it) = record.relayed[family as usize].filter(|it| it.until > now) {
                let port = self.claim_port(family, it.port, it.address)?;
                let relayed = RelayedAddr(it.address);
                sockets[family as usize] = Socket::Open { port, relayed };
            }
        }
        Ok(sockets)
    }

    fn claim_port(&self, family: Family, port: u16, relayed: SocketAddr) -> Result<RelayPort, ImportError> {
        let taken = ImportError::PortTaken { family, port };
        if self.shared.directory.is_taken(RelayedAddr(relayed)) {
            return Err(taken);
        }
        self.shared.ports.claim(family, port).ok_or(taken)
    }

    /// Imports a reservation from its record.
    ///
    /// # Errors
    /// Why it is not imported; then nothing has changed here.
    pub fn import_reservation(&mut self, now: Now, record: &ReservationRecord) -> Result<(), ImportError> {
        record.check(now.mono)?;
        if self.stopping {
            return Err(ImportError::Stopping);
        }
        if self.shared.reservations.contains(&record.token) {
            return Err(ImportError::TicketTaken);
        }
        let ReservationRecord {
            family, port, until, ..
        } = *record;
        let taken = ImportError::PortTaken { family, port };
        let user = record.owner.user();
        let unit = self.shared.quotas.readmit_reservation(&user);
        let reservation = Reservation {
            port: self.shared.ports.claim(family, port).ok_or(taken)?,
            username: record.owner.username.as_str().into(),
            user,
            until,
            _unit: unit.map_err(|_| ImportError::TooMany)?,
        };
        self.shared.reservations.insert(record.token, reservation);
        let at = self.reserved.partition_point(|&(other, _)| other <= until);
        self.reserved.insert(at, (until, record.token));
        Ok(())
    }
}

/// Omits a pending move: the client asks again.
fn record_of(now: Instant, mobile: &Mobile) -> MobileRecord {
    MobileRecord {
        current: mobile.current,
        current_until: mobile.current_until,
        next: mobile.next,
        moved_by: mobile
            .moved_by
            .filter(|&(_, until)| until > now)
            .map(|(by, until)| (by.0, until)),
    }
}

fn mobile_of(record: &MobileRecord) -> Mobile {
    Mobile {
        current_until: record.current_until,
        next: record.next,
        moved_by: record.moved_by.map(|(by, until)| (TransactionId(by), until)),
        ..Mobile::new(record.current)
    }
}

fn names(mobile: &MobileRecord) -> impl Iterator<Item = [u8; 12]> + use<> {
    core::iter::once(mobile.current).chain(mobile.next)
}
