//! Allocates in progress: from the request to the response that waits for relay sockets, and its
//! content.

use core::time::Duration;
use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::address::Family;
use relay_proto::base::time::Now;
use relay_proto::turn::types::Client;
use relay_proto::wire::message::Method;

use crate::judge::Deed;
use crate::message::{Ask, Request, Wanted};
use crate::oracle::{Deadline, Half, Held, Oracle, RESERVATION, Reserved, key};
use crate::places::family;
use crate::reply::Reply;

impl Oracle {
    pub(crate) fn learn_opening(&mut self, deed: &Deed<'_>, request: &Rc<Request>) {
        assert!(matches!(request.ask, Ask::Allocate(_)), "only an Allocate waits");
        let login = Rc::clone(request.login.as_ref().expect("only a login makes an allocation"));
        let held = Held {
            shard: deed.shard,
            client: *deed.client,
            session: None,
            login,
            asked: Rc::clone(request),
            requested: deed.now.mono,
            opening: Some(Vec::new()),
            ranges: self.ports.iter().flatten().cloned().collect(),
            halves: [None; 2],
            given: Vec::new(),
            permissions: Default::default(),
            channels: Default::default(),
            token: None,
            up: Default::default(),
            down: Default::default(),
            last_icmp: None,
        };
        let before = self.held.insert(key(&deed.client.five_tuple), held);
        // Of the previous one, only the response to its Allocate was pending, on a stream that
        // another has replaced.
        let replaced = |before: Held| before.opening.is_some() && before.client.link != deed.client.link;
        assert!(before.is_none_or(replaced), "a second allocation for one five-tuple");
        if let Ask::Allocate(Wanted { token: Some(token), .. }) = &request.ask {
            let reserved = self.tokens.remove(token).expect("a token that was given out");
            self.mark("a reserved port");
            if request
                .login
                .as_ref()
                .is_some_and(|login| login.username != reserved.username)
            {
                self.mark("a reserved port under another name of its user");
            }
            if reserved.shard != deed.shard {
                self.mark("a reserved port in another shard");
            }
        }
    }

    /// Checks the response to an Allocate once its relay sockets are open or have failed; `open`
    /// are their relayed addresses.
    pub(crate) fn judge_opened(&mut self, shard: usize, client: &Client, now: Now, reply: &Reply, open: &[SocketAddr]) {
        let held = self.of(client).expect("an answer to an Allocate that waits");
        assert_eq!(held.shard, shard);
        let tried = held.opening.as_ref().expect("one answer to each Allocate").len();
        let asked = Rc::clone(&held.asked);
        let Ask::Allocate(wanted) = &asked.ask else {
            panic!("{:?} waited", asked.ask)
        };
        assert_eq!(
            (reply.method, reply.id),
            (Method::Allocate, asked.id),
            "it answers another request"
        );
        assert_eq!(reply.fingerprint, asked.fingerprint, "FINGERPRINT is mirrored");
        assert_eq!(reply.integrity, Some(held.login.integrity()));
        assert!(reply.is_signed_with(&held.login.key) && !reply.says_too_much);
        self.mark(if reply.code == 0 {
            "allocated"
        } else {
            "no relay socket could be opened"
        });
        if reply.code != 0 {
            assert_eq!(reply.code, 508);
            assert!(open.is_empty(), "508, but {open:?} are open");
            self.ledgers[shard].error(508);
            self.held.remove(&key(&client.five_tuple));
            return;
        }
        if tried > open.len() {
            self.mark("another port was tried");
        }
        self.check_relayed(client, now, reply, wanted, open);
        let lifetime = self.check_lifetime(reply, wanted.lifetime);
        assert_eq!(reply.mapped, Some(client.five_tuple.client), "XOR-MAPPED-ADDRESS");
        let until = self.deadline(now, lifetime);
        let username = self
            .of(client)
            .map(|held| held.login.username.clone())
            .unwrap_or_default();
        assert_eq!(reply.token.is_some(), wanted.even == Some(true), "RESERVATION-TOKEN");
        if let Some(token) = reply.token {
            let mut relayed = reply.relayed[0];
            relayed.set_port(relayed.port() + 1);
            let until = Deadline::exactly(now.mono + RESERVATION);
            assert!(
                self.tokens
                    .insert(
                        token,
                        Reserved {
                            relayed,
                            shard,
                            username,
                            until
                        }
                    )
                    .is_none(),
                "tokens are unique"
            );
        }
        self.ledgers[shard].began();
        let Some(held) = self.of_mut(client) else { return };
        held.opening = None;
        held.token = reply.token;
        held.given.clone_from(&reply.relayed);
        for &relayed in &reply.relayed {
            held.halves[family(relayed) as usize] = Some(Half { relayed, until });
        }
    }

    /// Checks the relayed addresses: open, of the requested families and kind, within the range,
    /// and not another allocation's.
    fn check_relayed(&mut self, client: &Client, now: Now, reply: &Reply, wanted: &Wanted, open: &[SocketAddr]) {
        let mut given = reply.relayed.clone();
        given.sort_unstable();
        let mut open = open.to_vec();
        open.sort_unstable();
        assert_eq!(given, open, "XOR-RELAYED-ADDRESS are the sockets that are open");
        assert_eq!(
            given.len() < 2,
            reply.half_refused || !wanted.dual,
            "ADDRESS-ERROR-CODE"
        );
        self.mark(match (wanted.dual, given.len()) {
            (false, _) => "one relayed address",
            (true, 2) => "two relayed addresses",
            (true, _) => "one relayed address of two",
        });
        let ranges = self.of(client).map(|held| held.ranges.clone()).expect("it is held");
        for relayed in given {
            if !wanted.dual && wanted.token.is_none() {
                assert_eq!(
                    family(relayed),
                    wanted.family.unwrap_or(Family::V4),
                    "the family asked for"
                );
            }
            if wanted.even.is_some() {
                assert_eq!(relayed.port() % 2, 0, "EVEN-PORT");
            }
            if wanted.token.is_none() {
                let allowed = ranges.iter().any(|range| range.contains(&relayed.port()));
                assert!(allowed, "{relayed} is outside the range");
            }
            let (used, _) = self.ports_used(family(relayed), now.mono);
            assert!(!used.contains(&relayed.port()), "{relayed} is somebody else's");
        }
    }

    /// LIFETIME granted for the requested one (RFC 8656 §7.2, §8.2), in seconds.
    pub(crate) fn check_lifetime(&self, reply: &Reply, asked: Option<u32>) -> u32 {
        let given = reply.lifetime.expect("LIFETIME");
        let expected = asked.unwrap_or(600).max(600).min(self.setup.max_lifetime as u32);
        match self.setup.max_session {
            Some(_) => assert!(given <= expected, "LIFETIME {given}, {expected} at most"),
            None => assert_eq!(given, expected, "LIFETIME for {asked:?}"),
        }
        given
    }

    /// LIFETIME has whole seconds; if a session's cap shortens it, the server's own deadline is
    /// more exact.
    pub(crate) fn deadline(&self, now: Now, lifetime: u32) -> Deadline {
        let slack = if self.setup.max_session.is_some() {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        Deadline {
            at: now.mono + Duration::from_secs(lifetime.into()),
            slack,
        }
    }
}
