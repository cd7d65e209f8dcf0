//! Distinguishes the client of an allocation from a sender that forges its address.
//!
//! Before a request is authenticated, for example because its nonce is stale, the server cannot
//! know its sender. Replies to unauthenticated requests have a budget, which an attacker can use up
//! from a forged address. But an allocation knows its client's key. A request signed with it is
//! answered from the allocation's own budget, which no other sender can use.
//!
//! Checking a signature costs an HMAC over the whole packet, so not every request is checked. A
//! request with one of the nonces that the client used last is checked, because a sender with a
//! forged address does not know them. Of all others, only a few per second are checked.

use std::sync::Arc;

use super::nonce::NonceText;
use super::session::Session;
use crate::base::rate::{Bucket, Rate};
use crate::base::time::Instant;
use crate::turn::config::limits::Limits;
use crate::wire::message::Message;

/// What an allocation stores about its client's requests.
#[derive(Debug, Default)]
pub struct Owner {
    /// The nonces of its last valid requests, the latest first. Two, because when one becomes stale
    /// some requests with it are still in flight.
    nonces: [Option<NonceText>; 2],
    /// The same login with another key: another password algorithm, or another secret.
    also: Option<Arc<Session>>,
    /// Rate of signature checks on requests with other nonces.
    looks: Bucket,
    requests: Bucket,
    bindings: Bucket,
}

/// The allocation on the five-tuple of a request.
#[derive(Debug)]
pub struct Live<'a> {
    /// Its login.
    pub session: &'a Arc<Session>,
    /// What it stores about its client.
    pub owner: &'a mut Owner,
}

impl Owner {
    /// For the allocation that `message`, an Allocate, is about to create.
    pub(in crate::turn) fn of(message: &Message<'_>) -> Self {
        let mut owner = Self::default();
        owner.note_nonce(NonceText::of(message));
        owner
    }

    fn note_nonce(&mut self, nonce: Option<NonceText>) {
        if nonce.is_some() && !self.nonces.contains(&nonce) {
            self.nonces = [nonce, self.nonces[0]];
        }
    }

    /// Whether the client may get one more response.
    pub(in crate::turn) fn admit(&mut self, now: Instant, limits: &Limits) -> bool {
        self.requests.admit(now, limits.allocation_requests())
    }

    /// As [`Self::admit`], for a Binding request, which is not signed.
    pub(in crate::turn) fn admit_binding(&mut self, now: Instant, limits: &Limits) -> bool {
        self.bindings.admit(now, Rate::per_second(limits.bindings_per_second))
    }

    /// Whether to check the signature of a request whose nonce is unknown.
    pub(in crate::turn) fn may_look(&mut self, now: Instant, limits: &Limits) -> bool {
        self.looks
            .admit(now, Rate::per_second(limits.login_failures_per_second))
    }
}

impl Live<'_> {
    /// Stores a valid request that is signed with the allocation's key.
    pub(in crate::turn) fn note(&mut self, message: &Message<'_>) {
        self.owner.note_nonce(NonceText::of(message));
    }

    /// Stores a valid request that led to a new login, because another key signed it.
    pub(in crate::turn) fn note_login(&mut self, message: &Message<'_>, session: &Arc<Session>) {
        if session.is_same_login(self.session) {
            self.note(message);
            self.owner.also = Some(Arc::clone(session));
        }
    }

    /// Whether the allocation's client signed `message`.
    pub(in crate::turn) fn is_by(&mut self, now: Instant, message: &Message<'_>, limits: &Limits) -> bool {
        let nonce = NonceText::of(message);
        let expected = nonce.is_some() && self.owner.nonces.contains(&nonce);
        if !expected && !self.owner.may_look(now, limits) {
            return false;
        }
        message.verify(&self.session.key) || self.owner.also.as_ref().is_some_and(|also| message.verify(&also.key))
    }
}
