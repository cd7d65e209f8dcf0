//! Predicts the result of a packet from a client, before the server processes it.

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use relay_proto::base::address::{Family, Transport};
use relay_proto::base::time::Now;
use relay_proto::turn::types::Client;

use crate::message::{Ask, Flaw, Login, Request, Told, Wanted};
use crate::network::most_in_a_datagram;
use crate::oracle::{Held, Life, Oracle, Way, key};
use crate::places::{Route, family};
use crate::setup::user_of;

/// Copies of an Allocate are recognised for at least this time (RFC 8489 §6.2.1: 39.5 s of
/// retransmission) ...
const COPY_CERTAIN: Duration = Duration::from_millis(39_500);
/// ... and at most this time.
const COPY_POSSIBLE: Duration = Duration::from_secs(40);
/// After the end of its allocation, copies of an Allocate are recognised: certainly until then,
/// possibly until later.
const PAST_CERTAIN: Duration = Duration::from_secs(40);
const PAST_POSSIBLE: Duration = Duration::from_secs(60);
/// Over UDP a shorter login request is used for reflection and gets no response: an Allocate has at
/// least this length (RFC 8656 §7.1).
const SHORTEST_REQUEST: usize = 28;
/// How far ahead of the clock a nonce may be.
const NONCE_SKEW: i64 = 5;

/// The possible results of a packet from a client.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// No effect.
    Nothing,
    /// No effect, or an error to an unauthenticated sender.
    Strangers,
    /// A response to a request.
    Answer(Answers),
    /// The response of its first copy.
    Copy,
    /// The response of its first copy. A Refresh that has deleted something must not do so again.
    Deleted,
    /// Application data, if it is relayed.
    Data(Life, Option<Way>),
    /// Unpredictable.
    Anything,
}

/// The possible responses to a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    /// Errors that apply: if there are any, the response is one of them (or of `possible`),
    /// otherwise success.
    pub(crate) certain: Vec<u16>,
    pub(crate) possible: Vec<u16>,
    /// A rate limit may suppress the response.
    pub(crate) silence: bool,
    /// The login is valid, so the response is signed.
    pub(crate) signed: bool,
}

impl Answers {
    fn add(&mut self, code: u16, due: Life) {
        match due {
            Life::Yes => self.certain.push(code),
            Life::Maybe => self.possible.push(code),
            Life::No => {}
        }
    }

    fn add_if(&mut self, code: u16, due: bool) {
        self.add(code, if due { Life::Yes } else { Life::No });
    }
}

impl Oracle {
    pub(crate) fn expect(&self, shard: usize, client: &Client, now: Now, told: &Told) -> Expected {
        let data = |held: Option<&Held>, peer, channel, len| match held {
            Some(_) if len > most_in_a_datagram(peer) => Expected::Data(Life::No, None),
            Some(held) => {
                let (life, way) = self.way_out(held, peer, channel, now.mono);
                let most = if held.is_by_another_stream(client) {
                    Life::Maybe
                } else {
                    Life::Yes
                };
                Expected::Data(life.min(most), way)
            }
            None => Expected::Data(Life::No, None),
        };
        match told {
            Told::Request(request) => self.expect_request(shard, client, now, request),
            Told::Send { peer, data: range, .. } => data(self.of(client), *peer, false, range.len()),
            Told::Channel { number, data: range } => {
                let bound = self
                    .of(client)
                    .and_then(|held| Some((held, held.channels.get(number)?)));
                match bound {
                    Some((held, (peer, _))) => match data(Some(held), *peer, true, range.len()) {
                        Expected::Data(life, way) => Expected::Data(life.min(held.channel(*number, now.mono)), way),
                        other => other,
                    },
                    None => Expected::Data(Life::No, None),
                }
            }
            Told::Nothing | Told::Poison => Expected::Nothing,
            Told::Spoiled => Expected::Strangers,
        }
    }

    fn expect_request(&self, shard: usize, client: &Client, now: Now, request: &Request) -> Expected {
        let silence = self.setup.strict;
        let refuse = |code| {
            Expected::Answer(Answers {
                certain: vec![code],
                silence,
                ..Answers::default()
            })
        };
        if matches!(request.ask, Ask::Binding) {
            let mut answers = Answers {
                silence,
                ..Answers::default()
            };
            answers.add_if(420, request.flaw == Some(Flaw::Unknown));
            return Expected::Answer(answers);
        }
        if client.five_tuple.transport == Transport::Udp && request.encode().len() < SHORTEST_REQUEST {
            return Expected::Nothing;
        }
        let held = self.of(client);
        if held.is_some_and(|held| held.life(now.mono) == Life::Maybe || held.is_by_another_stream(client)) {
            return Expected::Anything;
        }
        let held = held.filter(|held| held.life(now.mono) == Life::Yes);
        if let Some(expected) = held.and_then(|held| copy_of(held, client, now, request)) {
            return expected;
        }
        // RFC 8489 §9.2.4, with the nonce first (design decision D1).
        let Some(login) = &request.login else {
            return refuse(401);
        };
        if request.flaw == Some(Flaw::NoNonce) {
            return refuse(400);
        }
        if !self.is_nonce_good(shard, client, now, &request.nonce) {
            return refuse(438);
        }
        let allocate = matches!(request.ask, Ask::Allocate(_));
        let known = held.is_some_and(|held| is_same_login(&held.login, login));
        let at = allocate.then_some(now.unix.0);
        let mut answers = Answers {
            silence,
            signed: true,
            ..Answers::default()
        };
        if !self.rules[shard].accepts(&self.setup, login, at) {
            if !known {
                return refuse(401);
            }
            // A login that has become invalid, on the allocation it created: either error is
            // acceptable.
            answers.add(401, if allocate { Life::Maybe } else { Life::No });
        }
        answers.add_if(420, request.flaw == Some(Flaw::Unknown));
        answers.add_if(
            400,
            request.flaw == Some(Flaw::BadLength) && !matches!(request.ask, Ask::CreatePermission { .. }),
        );
        match (&request.ask, held) {
            (Ask::Allocate(wanted), held) => {
                answers.add_if(437, held.is_some());
                self.expect_allocate(shard, client, now, request, wanted, login, &mut answers);
            }
            (_, None) => answers.add_if(437, true),
            (_, Some(held)) if held.opening.is_some() => answers.add_if(437, true),
            (_, Some(held)) => {
                answers.add_if(441, held.login.username != login.username);
                if answers.certain.is_empty() && self.is_copy_of_release(client, now, request) {
                    return Expected::Deleted;
                }
                self.expect_of_owner(held, now, &request.ask, &mut answers);
            }
        }
        Expected::Answer(answers)
    }

    /// Whether a Refresh with LIFETIME 0 succeeded before: over UDP, and recently.
    fn is_copy_of_release(&self, client: &Client, now: Now, request: &Request) -> bool {
        let release = matches!(request.ask, Ask::Refresh { lifetime: Some(0), .. });
        let fulfilled = self.past.get(&(key(&client.five_tuple), request.id.0));
        release && fulfilled.is_some_and(|&at| now.mono < at + PAST_CERTAIN)
    }

    /// Issued to this address, whatever the port, within the lifetime, and with a secret that is
    /// still valid. In wall-clock time, which may jump.
    fn is_nonce_good(&self, shard: usize, client: &Client, now: Now, nonce: &[u8]) -> bool {
        self.nonces.get(nonce).is_some_and(|issued| {
            let age = now.unix.0.cast_signed() - issued.at.cast_signed();
            issued.to.ip() == client.five_tuple.client.ip()
                && self.rules[shard].secrets.contains(&issued.secret)
                && (-NONCE_SKEW..=self.setup.nonce_lifetime.cast_signed()).contains(&age)
        })
    }

    /// RFC 8656 §7.2.
    #[expect(clippy::too_many_arguments, reason = "all there is to an Allocate")]
    fn expect_allocate(
        &self,
        shard: usize,
        client: &Client,
        now: Now,
        request: &Request,
        wanted: &Wanted,
        login: &Login,
        answers: &mut Answers,
    ) {
        if let Some(&ended) = self.past.get(&(key(&client.five_tuple), request.id.0)) {
            let due = if now.mono < ended + PAST_CERTAIN {
                Life::Yes
            } else {
                Life::Maybe
            };
            answers.add(
                437,
                if now.mono > ended + PAST_POSSIBLE {
                    Life::No
                } else {
                    due
                },
            );
        }
        let rules = &self.rules[shard];
        let (certain, possible) = self.count(&login.username, now.mono);
        answers.add(486, over(certain, possible, rules.limits.allocations_per_user));
        answers.add_if(440, wanted.family == Some(Family::V6) && !rules.ipv6);
        if let Some(token) = wanted.token {
            let reserved = self
                .tokens
                .get(&token)
                .filter(|reserved| user_of(&reserved.username) == user_of(&login.username));
            let there = reserved.map_or(Life::No, |reserved| reserved.until.life(now.mono));
            answers.add(508, not(there));
            // Its family may be disabled by now.
            answers.add_if(
                508,
                reserved.is_some_and(|reserved| reserved.relayed.is_ipv6() && !rules.ipv6),
            );
            return;
        }
        if wanted.even == Some(true) {
            let (certain, possible) = self.count_reserved(&login.username, now.mono);
            answers.add(508, over(certain, possible, rules.limits.reservations_per_user));
        }
        let families = match (wanted.dual, wanted.family) {
            (true, _) if rules.ipv6 => vec![Family::V4, Family::V6],
            (_, family) => vec![family.unwrap_or(Family::V4)],
        };
        let short = families
            .into_iter()
            .map(|family| self.shortage(family, wanted.even, now.mono))
            .min();
        answers.add(508, short.unwrap_or(Life::No));
    }

    /// A request on a live allocation.
    fn expect_of_owner(&self, held: &Held, now: Now, ask: &Ask, answers: &mut Answers) {
        match ask {
            Ask::Refresh { family, .. } => {
                answers.add(
                    443,
                    family.map_or(Life::No, |family| not(held.half_life(family, now.mono))),
                );
            }
            Ask::CreatePermission { peers } => {
                answers.add_if(400, peers.is_empty());
                for peer in peers {
                    answers.add(443, not(held.half_life(family(*peer), now.mono)));
                    answers.add_if(403, !self.rules[held.shard].peers.permits(peer.ip()));
                }
                answers.add(508, self.permissions_over(held, peers, now));
            }
            Ask::ChannelBind { number, peer } => {
                let last = if self.setup.rfc5766_channels { 0x7FFF } else { 0x4FFF };
                answers.add_if(400, !(0x4000..=last).contains(number) || peer.port() == 0);
                let (mut certain, mut possible, mut refreshed) = (0, 0, Life::No);
                for (n, (bound, _)) in &held.channels {
                    let life = held.channel(*n, now.mono);
                    match (n == number, bound == peer) {
                        (true, true) => refreshed = life,
                        (false, false) => {}
                        _ => answers.add(400, life),
                    }
                    certain += u32::from(life == Life::Yes);
                    possible += u32::from(life > Life::No);
                }
                answers.add(443, not(held.half_life(family(*peer), now.mono)));
                let rules = &self.rules[held.shard];
                let route = rules.peers.route(*peer, &rules.ports);
                answers.add_if(403, route == Route::Nowhere || held.half_at(*peer).is_some());
                let full = over(certain, possible, rules.limits.channels.into()).min(not(refreshed));
                answers.add(508, full.max(self.permissions_over(held, &[*peer], now)));
            }
            Ask::Binding | Ask::Allocate(_) => {}
        }
    }

    /// Whether there would be too many permissions. Existing ones may always be refreshed.
    fn permissions_over(&self, held: &Held, wanted: &[SocketAddr], now: Now) -> Life {
        let most = self.rules[held.shard].limits.permissions.into();
        let over = |least: Life| {
            let there = |&&ip: &&IpAddr| held.permission(ip, now.mono) >= least;
            let before: BTreeSet<IpAddr> = held.permissions.keys().filter(there).copied().collect();
            let after: BTreeSet<IpAddr> = before
                .iter()
                .copied()
                .chain(wanted.iter().map(SocketAddr::ip))
                .collect();
            after.len() > before.len() && after.len() > most
        };
        match (over(Life::Yes), over(Life::Maybe)) {
            (true, true) => Life::Yes,
            (false, false) => Life::No,
            _ => Life::Maybe,
        }
    }
}

/// The response to a copy of the Allocate that created `held`; `None` if it does not count as a
/// copy.
fn copy_of(held: &Held, client: &Client, now: Now, request: &Request) -> Option<Expected> {
    let udp = !client.five_tuple.transport.is_stream();
    if !udp || !matches!(request.ask, Ask::Allocate(_)) || held.asked.id != request.id {
        return None;
    }
    if held.opening.is_some() {
        return Some(Expected::Nothing);
    }
    let age = now.mono - held.requested;
    if age > COPY_POSSIBLE {
        return None;
    }
    Some(if age < COPY_CERTAIN {
        Expected::Copy
    } else {
        Expected::Anything
    })
}

fn is_same_login(a: &Login, b: &Login) -> bool {
    (&a.username, &a.password, a.algorithm) == (&b.username, &b.password, b.algorithm)
}

/// Whether a limit is reached, with `certain` units certainly and `possible` units possibly in use.
const fn over(certain: u32, possible: u32, limit: u32) -> Life {
    if certain >= limit {
        Life::Yes
    } else if possible >= limit {
        Life::Maybe
    } else {
        Life::No
    }
}

const fn not(life: Life) -> Life {
    match life {
        Life::No => Life::Yes,
        Life::Maybe => Life::Maybe,
        Life::Yes => Life::No,
    }
}
