//! What tells the client of an allocation from whoever forges its address.
//!
//! A request that cannot be granted, because its nonce has aged for one, is a stranger's for all the server knows, and what
//! strangers are answered has a budget that anybody can use up in another's name. But an allocation knows the key of its
//! client: whoever signs with that is answered out of the allocation's own budget, and nobody else draws on it.
//!
//! Trying a signature costs an HMAC over the whole packet, so it is not tried for everybody. A request with one of the
//! nonces its client used last is looked at: who forges addresses does not know them. Of the others only a few a second are.

use std::sync::Arc;

use super::nonce::NonceText;
use super::session::Session;
use crate::base::rate::{Bucket, Rate};
use crate::base::time::Instant;
use crate::turn::config::limits::Limits;
use crate::wire::message::Message;

/// What an allocation remembers of its client's requests.
#[derive(Debug, Default)]
pub struct Owner {
    /// The nonces of its last good requests, the latest first. Two, because when one has aged some requests are under way
    /// that still have it.
    nonces: [Option<NonceText>; 2],
    /// The same login with another key: another password algorithm, or another secret.
    also: Option<Arc<Session>>,
    /// Requests with other nonces that are looked at.
    looks: Bucket,
    requests: Bucket,
    bindings: Bucket,
}

/// The allocation on the five-tuple of a request.
#[derive(Debug)]
pub struct Live<'a> {
    /// Its login.
    pub session: &'a Arc<Session>,
    /// What it remembers.
    pub owner: &'a mut Owner,
}

impl Owner {
    /// Of the allocation that `message`, an Allocate, is about to make.
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

    /// Whether the client may have one more request answered.
    pub(in crate::turn) fn admit(&mut self, now: Instant, limits: &Limits) -> bool {
        self.requests.admit(now, limits.allocation_requests())
    }

    /// The same for a Binding request, which nobody signs.
    pub(in crate::turn) fn admit_binding(&mut self, now: Instant, limits: &Limits) -> bool {
        self.bindings.admit(now, Rate::per_second(limits.bindings_per_second))
    }

    /// Whether a request that gives no reason to is looked at nevertheless.
    pub(in crate::turn) fn may_look(&mut self, now: Instant, limits: &Limits) -> bool {
        self.looks
            .admit(now, Rate::per_second(limits.login_failures_per_second))
    }
}

impl Live<'_> {
    /// Remembers a good request, signed with the allocation's key.
    pub(in crate::turn) fn note(&mut self, message: &Message<'_>) {
        self.owner.note_nonce(NonceText::of(message));
    }

    /// Remembers a good request that made a login anew, because it is signed with another key.
    pub(in crate::turn) fn note_login(&mut self, message: &Message<'_>, session: &Arc<Session>) {
        if session.is_same_login(self.session) {
            self.note(message);
            self.owner.also = Some(Arc::clone(session));
        }
    }

    /// Whether `message` is signed by the allocation's client.
    pub(in crate::turn) fn is_by(&mut self, now: Instant, message: &Message<'_>, limits: &Limits) -> bool {
        let nonce = NonceText::of(message);
        let expected = nonce.is_some() && self.owner.nonces.contains(&nonce);
        if !expected && !self.owner.may_look(now, limits) {
            return false;
        }
        message.verify(&self.session.key) || self.owner.also.as_ref().is_some_and(|also| message.verify(&also.key))
    }
}
