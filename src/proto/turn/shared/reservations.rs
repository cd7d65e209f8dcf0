//! Ports reserved by EVEN-PORT with the R bit (RFC 8656 §7.2).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::ports::RelayPort;
use super::quotas::ReservationUnit;
use crate::base::address::Family;
use crate::base::lock::lock;
use crate::base::time::Instant;
use crate::turn::login::session::Session;
use crate::turn::user::UserId;

/// RESERVATION-TOKEN.
pub(in crate::turn) type ReservationToken = [u8; 8];

/// A port reserved by EVEN-PORT with the R bit, until a client presents its token (RFC 8656 §7.2).
#[derive(Debug)]
pub(in crate::turn) struct Reservation {
    pub(in crate::turn) port: RelayPort,
    /// USERNAME of the login that reserved it.
    pub(in crate::turn) username: Arc<str>,
    /// The user of that login; only the same user may take the port.
    pub(in crate::turn) user: UserId,
    pub(in crate::turn) until: Instant,
    /// Counts as one of the user's reservations.
    pub(in crate::turn) _unit: ReservationUnit,
}

impl Reservation {
    fn is_for(&self, now: Instant, session: &Session) -> bool {
        self.until > now && session.is_user(&self.username, &self.user)
    }
}

/// Reserved ports of all shards, because the Allocate with the token may arrive at any of them.
/// Only Allocates with EVEN-PORT or RESERVATION-TOKEN use it.
#[derive(Debug, Default)]
pub(in crate::turn) struct Reservations(Mutex<BTreeMap<ReservationToken, Reservation>>);

impl Reservations {
    /// Reserves a port.
    pub(in crate::turn) fn insert(&self, token: ReservationToken, reservation: Reservation) {
        lock(&self.0).insert(token, reservation);
    }

    /// Whether a token is valid.
    pub(in crate::turn) fn contains(&self, token: &ReservationToken) -> bool {
        lock(&self.0).contains_key(token)
    }

    /// Reads the reservation of a token.
    pub(in crate::turn) fn look<T>(&self, token: &ReservationToken, look: impl FnOnce(&Reservation) -> T) -> Option<T> {
        lock(&self.0).get(token).map(look)
    }

    /// The family of the port reserved under `token`, if it is still reserved for this user.
    pub(in crate::turn) fn peek(&self, now: Instant, token: &ReservationToken, session: &Session) -> Option<Family> {
        lock(&self.0)
            .get(token)
            .filter(|it| it.is_for(now, session))
            .map(|it| it.port.family())
    }

    /// Takes the port out of its reservation.
    pub(in crate::turn) fn redeem(
        &self,
        now: Instant,
        token: &ReservationToken,
        session: &Session,
    ) -> Option<RelayPort> {
        let mut by_token = lock(&self.0);
        by_token.get(token).filter(|it| it.is_for(now, session))?;
        by_token.remove(token).map(|it| it.port)
    }

    /// Ends an expired reservation, unless its token was redeemed before. Its port is released.
    pub(in crate::turn) fn end(&self, token: &ReservationToken) {
        let ended = lock(&self.0).remove(token);
        drop(ended);
    }
}
