//! Checks whether the server handled a packet correctly, and updates the model from its success
//! responses.

use core::time::Duration;
use std::net::SocketAddr;

use relay_proto::base::time::Now;
use relay_proto::turn::types::Client;
use relay_proto::turn::{DropReason, Verdict};
use relay_proto::wire::message::Method;

use crate::expect::{Answers, Expected};
use crate::message::{Ask, Packet, REALM, Request, Told, Wanted};
use crate::oracle::{CHANNEL, Deadline, Issued, Life, Oracle, PERMISSION, Way, key};
use crate::reply::Reply;

/// Largest UDP response to an unauthenticated sender, without the realm: header, ERROR-CODE,
/// headers of REALM and NONCE, the longest nonce, PASSWORD-ALGORITHMS, FINGERPRINT.
const STRANGERS_REPLY: usize = 20 + 8 + 4 + 4 + 32 + 12 + 8;

/// The server's handling of one packet from a client.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    pub(crate) shard: usize,
    pub(crate) client: &'a Client,
    pub(crate) now: Now,
    pub(crate) packet: &'a Packet,
    pub(crate) verdict: Verdict,
    /// With `Respond`.
    pub(crate) reply: Option<&'a Reply>,
    /// With `ToPeer`: the relayed address of the socket named.
    pub(crate) from: Option<SocketAddr>,
}

impl Oracle {
    /// Checks it, and updates the model.
    pub(crate) fn judge(&mut self, deed: &Deed<'_>, expected: &Expected) {
        let Deed {
            shard,
            packet,
            verdict,
            reply,
            ..
        } = *deed;
        self.ledgers[shard].verdict(&verdict);
        if self.setup.strict && !matches!(packet.told, Told::Send { .. } | Told::Channel { .. }) {
            self.rates.request(deed.client.five_tuple.client.ip(), deed.now.mono);
        }
        if let Some(reply) = reply {
            self.check_reply(deed, reply);
        }
        match (expected, verdict) {
            (Expected::Nothing, verdict) => assert!(matches!(verdict, Verdict::Drop(_)), "not dropped: {verdict:?}"),
            (Expected::Strangers, Verdict::Drop(_)) => {}
            (Expected::Strangers, Verdict::Respond) => self.judge_strangers(reply.expect("a reply")),
            (Expected::Strangers, verdict) => panic!("a request with a broken signature led to {verdict:?}"),
            (Expected::Data(life, way), verdict) => self.judge_data(deed, *life, *way, verdict),
            (Expected::Copy, verdict) => {
                assert_eq!(
                    verdict,
                    Verdict::Respond,
                    "a copy of an Allocate is answered as the first"
                );
                self.judge_copy(deed, reply.expect("a reply"));
            }
            (Expected::Deleted, verdict) => {
                assert_eq!(
                    verdict,
                    Verdict::Respond,
                    "a copy of a Refresh is answered as the first"
                );
                let reply = reply.expect("a reply");
                assert_eq!(
                    (reply.code, reply.lifetime),
                    (0, Some(0)),
                    "a copy of a Refresh is answered as the first"
                );
                let held = self
                    .of(deed.client)
                    .expect("a copy of a Refresh ends an allocation made since");
                assert!(reply.is_signed_with(&held.login.key), "a copy is signed like the first");
                self.mark("a copy of a Refresh");
            }
            (Expected::Answer(answers), verdict) => self.judge_answer(deed, answers, verdict),
            (Expected::Anything, Verdict::Drop(_)) => {}
            (Expected::Anything, Verdict::Waiting | Verdict::Respond) => {
                let Told::Request(request) = &packet.told else {
                    panic!("an answer to no request")
                };
                match reply {
                    Some(reply) if reply.code == 0 && reply.method == Method::Allocate => self.judge_copy(deed, reply),
                    Some(reply) if reply.code == 0 => self.learn(deed, request, reply),
                    Some(_) => {}
                    None => self.learn_opening(deed, request),
                }
            }
            (Expected::Anything, verdict) => panic!("a request led to {verdict:?}"),
        }
    }

    /// Checks what every response must satisfy.
    fn check_reply(&mut self, deed: &Deed<'_>, reply: &Reply) {
        if reply.code != 0 {
            self.ledgers[deed.shard].error(reply.code);
        }
        if let Some(nonce) = &reply.nonce {
            assert!(matches!(reply.code, 401 | 438), "a nonce beside {}", reply.code);
            assert!(nonce.len() < 128);
            let issued = Issued {
                to: deed.client.five_tuple.client,
                at: deed.now.unix.0,
                secret: self.rules[deed.shard].secrets[0].clone(),
            };
            if let Some(twin) = self.nonces.get(nonce) {
                assert_eq!(twin.to, issued.to, "two clients have the same nonce");
            }
            self.nonces.insert(nonce.clone(), issued);
        } else {
            assert!(!matches!(reply.code, 401 | 438), "a challenge without a nonce");
        }
        assert!(!reply.says_too_much, "{} says too much", reply.code);
        if let Told::Request(request) = &deed.packet.told {
            assert_eq!(
                (reply.method, reply.id),
                (request.ask.method(), request.id),
                "it answers another request"
            );
            assert_eq!(reply.fingerprint, request.fingerprint, "FINGERPRINT is mirrored");
        }
        if reply.integrity.is_none() && !deed.client.five_tuple.transport.is_stream() {
            let most = STRANGERS_REPLY + REALM.len().next_multiple_of(4);
            assert!(
                reply.bytes.len() <= most,
                "{} bytes to a stranger, {most} at most",
                reply.bytes.len()
            );
            // The client of an allocation has a budget of its own.
            if self.of(deed.client).is_none() {
                let from = deed.client.five_tuple.client.ip();
                self.rates.reply(from, reply.method, deed.now.mono, &self.setup.limits);
            }
        }
        self.mark(match reply.code {
            0 => "success",
            400 => "400",
            401 => "401",
            403 => "403",
            420 => "420",
            437 => "437",
            438 => "438",
            440 => "440",
            441 => "441",
            443 => "443",
            486 => "486",
            508 => "508",
            _ => "another error",
        });
    }

    fn judge_strangers(&mut self, reply: &Reply) {
        let harmless = reply.code == 0 && reply.method == Method::Binding;
        assert!(
            harmless || matches!(reply.code, 400 | 401 | 420 | 438),
            "a stranger was answered {}",
            reply.code
        );
        assert_eq!(reply.integrity, None, "a response to a stranger is not signed");
    }

    fn judge_answer(&mut self, deed: &Deed<'_>, answers: &Answers, verdict: Verdict) {
        let Told::Request(request) = &deed.packet.told else {
            panic!("only requests are answered")
        };
        let code = match verdict {
            Verdict::Respond => deed.reply.expect("a reply").code,
            Verdict::Waiting => 0,
            Verdict::Drop(reason) => {
                let many = self.rates.is_many(deed.client.five_tuple.client.ip());
                assert!(answers.silence && many, "no answer ({reason}), expected {answers:?}");
                self.mark("silence");
                return;
            }
            other => panic!("a request led to {other:?}"),
        };
        if code == 0 {
            assert!(answers.certain.is_empty(), "fulfilled, expected {answers:?}");
        } else {
            let due = answers.certain.contains(&code) || answers.possible.contains(&code);
            assert!(due, "answered {code}, expected {answers:?}");
        }
        if let (508, Ask::Allocate(Wanted { token: Some(token), .. })) = (code, &request.ask) {
            self.spend(deed.shard, token);
        }
        if let (Some(reply), Some(login), true) = (deed.reply, &request.login, answers.signed && code != 401) {
            assert_eq!(
                reply.integrity,
                Some(login.integrity()),
                "{code} is signed as the request was"
            );
            assert!(reply.is_signed_with(&login.key), "{code} has a wrong signature");
        } else if let Some(reply) = deed.reply {
            assert_eq!(reply.integrity, None, "{code} to a stranger is signed");
        }
        if code == 0 {
            match deed.reply {
                Some(reply) => self.learn(deed, request, reply),
                None => self.learn_opening(deed, request),
            }
        }
    }

    /// A token for a disabled address family is worthless.
    fn spend(&mut self, shard: usize, token: &[u8; 8]) {
        let served = self.rules[shard].ipv6;
        if self
            .tokens
            .get(token)
            .is_some_and(|reserved| reserved.relayed.is_ipv6() && !served)
        {
            self.tokens.remove(token);
        }
    }

    /// Application data from a client.
    fn judge_data(&mut self, deed: &Deed<'_>, life: Life, way: Option<Way>, verdict: Verdict) {
        let payload = deed.packet.payload();
        if let Some(edge) = self.of(deed.client).and_then(|held| held.edge(deed.now.mono)) {
            self.mark(edge);
        }
        let (range, went) = match verdict {
            Verdict::Drop(reason) => {
                if reason == DropReason::TooLong {
                    self.mark("too long for a peer");
                }
                assert_ne!(life, Life::Yes, "not relayed ({reason}), though it must be: {way:?}");
                return;
            }
            Verdict::ToPeer {
                peer,
                data,
                dont_fragment,
                ..
            } => {
                let wanted = matches!(
                    deed.packet.told,
                    Told::Send {
                        dont_fragment: true,
                        ..
                    }
                );
                assert!(wanted || !dont_fragment, "DONT-FRAGMENT nobody asked for");
                let from = deed.from.expect("ToPeer names a socket that is open");
                (data, (Way::Peer { from }, peer.0))
            }
            Verdict::ToAllocation { shard, to, from, data } => (
                data,
                (
                    Way::Allocation {
                        from: from.0,
                        shard: shard.into(),
                    },
                    to.0,
                ),
            ),
            other => panic!("application data led to {other:?}"),
        };
        assert_ne!(life, Life::No, "relayed without a permission or channel: {went:?}");
        let to = match &deed.packet.told {
            Told::Send { peer, .. } => *peer,
            Told::Channel { number, .. } => self.of(deed.client).expect("it has a channel").channels[number].0,
            other => panic!("{other:?} was relayed"),
        };
        assert_eq!((way, to), (Some(went.0), went.1), "it went another way");
        assert_eq!(
            &deed.packet.bytes[range.as_range()],
            payload,
            "application data changed on its way"
        );
        self.ledgers[deed.shard].up(deed.client.five_tuple.transport, payload.len());
        self.of_mut(deed.client).expect("it is held").up.add(payload.len());
        self.mark(match (&deed.packet.told, went.0) {
            (_, Way::Allocation { shard, .. }) if shard != deed.shard => "to an allocation in another shard",
            (_, Way::Allocation { .. }) => "to an allocation in the same shard",
            (Told::Channel { .. }, _) => "ChannelData to a peer",
            _ => "Send to a peer",
        });
    }

    /// The response to a second copy contains nothing new.
    fn judge_copy(&mut self, deed: &Deed<'_>, reply: &Reply) {
        assert_eq!(reply.code, 0, "a copy of an Allocate is answered as the first");
        let held = self.of(deed.client).expect("an answered Allocate is held");
        assert_eq!(reply.id, held.asked.id, "a second Allocate is fulfilled");
        assert_eq!(
            (&reply.relayed, reply.token),
            (&held.given, held.token),
            "a copy is given something else"
        );
        let until = held
            .halves
            .iter()
            .flatten()
            .map(|half| half.until)
            .max_by_key(|until| until.at);
        let until = until.expect("one half lives");
        let told = deed.now.mono + Duration::from_secs(reply.lifetime.expect("LIFETIME").into());
        assert!(
            told <= until.at + until.slack,
            "a copy promises {told:?}, the allocation lives until {until:?}"
        );
        assert!(reply.is_signed_with(&held.login.key), "a copy is signed like the first");
        self.mark("a copy of an Allocate");
    }
    /// A success response.
    fn learn(&mut self, deed: &Deed<'_>, request: &Request, reply: &Reply) {
        let now = deed.now;
        match &request.ask {
            Ask::Binding => {
                assert_eq!(reply.mapped, Some(deed.client.five_tuple.client), "XOR-MAPPED-ADDRESS");
            }
            Ask::Allocate(_) => panic!("an Allocate is fulfilled before its relay socket is open"),
            Ask::Refresh {
                lifetime: Some(0),
                family,
            } => {
                assert_eq!(reply.lifetime, Some(0));
                if !deed.client.five_tuple.transport.is_stream() {
                    let transaction = (key(&deed.client.five_tuple), request.id.0);
                    self.past.insert(transaction, now.mono);
                }
                if let (Some(family), Some(held)) = (family, self.of_mut(deed.client)) {
                    held.close(*family);
                }
                self.mark("released");
            }
            Ask::Refresh { lifetime, family } => {
                let lifetime = self.check_lifetime(reply, *lifetime);
                let until = self.deadline(now, lifetime);
                let held = self.of_mut(deed.client).expect("only an allocation is refreshed");
                for half in held.halves.iter_mut().flatten() {
                    let meant = family.is_none_or(|family| family == crate::places::family(half.relayed));
                    if meant && half.until.life(now.mono) > Life::No {
                        half.until = until;
                    }
                }
                self.mark("refreshed");
            }
            Ask::CreatePermission { peers } => {
                let held = self.of_mut(deed.client).expect("only an allocation has permissions");
                for peer in peers {
                    held.permissions
                        .insert(peer.ip(), Deadline::exactly(now.mono + PERMISSION));
                }
                self.mark("permitted");
            }
            Ask::ChannelBind { number, peer } => {
                let held = self.of_mut(deed.client).expect("only an allocation has channels");
                held.channels
                    .retain(|n, (bound, until)| (n == number) == (bound == peer) || until.life(now.mono) > Life::No);
                held.channels
                    .insert(*number, (*peer, Deadline::exactly(now.mono + CHANNEL)));
                held.permissions
                    .insert(peer.ip(), Deadline::exactly(now.mono + PERMISSION));
                self.mark("bound");
            }
        }
    }
}
