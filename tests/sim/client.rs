//! Clients as they are: they log in after a 401, take a new nonce after a 438, send a request again
//! until it is answered, keep what they hold alive (mostly in time), and know no more than the
//! network lets through to them.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use relay_proto::base::address::{Family, Transport};
use relay_proto::base::time::Instant;
use relay_proto::wire::integrity::PasswordAlgorithm;
use relay_proto::wire::message::TransactionId;

use crate::message::{Ask, Login, Packet, Request};
use crate::reply::{FromPeer, Reply, is_response};
use crate::setup::mint;
use crate::world::{Event, Payload, World};
use crate::{places, trace};

/// How often a request is sent in total (RFC 8489 §6.2.1: Rc).
const TRIES: u32 = 7;
/// The first interval between two (RTO).
const RTO: Duration = Duration::from_millis(500);
/// How long to wait for a response over a stream (Ti).
const STREAM_PATIENCE: Duration = Duration::from_millis(39_500);
/// Challenges answered in a row before giving up.
const LOGINS: u32 = 3;

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: usize,
    pub(crate) transport: Transport,
    /// As the server sees it; behind a NAT it may change.
    pub(crate) addr: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) conn: Option<u64>,
    pub(crate) login: Rc<Login>,
    /// Empty if unknown.
    pub(crate) nonce: Vec<u8>,
    pub(crate) pending: BTreeMap<[u8; 12], Pending>,
    pub(crate) lease: Option<Lease>,
    /// How often it misbehaves, in percent.
    pub(crate) rogue: u64,
    /// The network is interrupted in both directions until then.
    pub(crate) dark_until: Instant,
    /// It does nothing on its own except repeating requests: it does not even log in again.
    pub(crate) scripted: bool,
    /// The last response it received.
    pub(crate) last: Option<Reply>,
}

/// A request without a response.
#[derive(Debug)]
pub(crate) struct Pending {
    packet: Packet,
    pub(crate) request: Rc<Request>,
    tries: u32,
    /// How many challenges preceded it.
    logins: u32,
}

/// What a client believes it holds.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) relayed: Vec<SocketAddr>,
    pub(crate) until: Instant,
    pub(crate) permitted: BTreeMap<IpAddr, Instant>,
    pub(crate) channels: BTreeMap<u16, (SocketAddr, Instant)>,
}

impl World {
    /// Adds a random client.
    pub(crate) fn add_client(&mut self) -> usize {
        let family = if self.dice.percent(20) { Family::V6 } else { Family::V4 };
        let transport = if self.dice.percent(35) {
            Transport::Tcp
        } else {
            Transport::Udp
        };
        let rogue = *self.dice.pick(&[0, 5, 25, 70]);
        let user = self.dice.index(self.setup.users.len());
        let index = self.add(user, transport, family);
        self.clients[index].rogue = rogue;
        let start = self.dice.millis(0, 20_000);
        self.after(start, Event::Tick(index));
        index
    }

    /// Adds a client that does nothing on its own.
    pub(crate) fn add(&mut self, user: usize, transport: Transport, family: Family) -> usize {
        let client = Client {
            user,
            transport,
            addr: self.public_address(family),
            server: places::server(family),
            conn: None,
            login: self.login_of(user, false),
            nonce: Vec::new(),
            pending: BTreeMap::new(),
            lease: None,
            rogue: 0,
            dark_until: Instant::ZERO,
            scripted: false,
            last: None,
        };
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// A valid login of a user at this time.
    pub(crate) fn login_of(&mut self, user: usize, algorithms: bool) -> Rc<Login> {
        let user = self.setup.users[user].clone();
        let algorithm = if algorithms {
            user.algorithm
        } else {
            PasswordAlgorithm::Md5
        };
        match user.password {
            Some(password) => Login::new(&user.name, &password, algorithm),
            None => self.minted(&user.name, algorithm),
        }
    }

    /// A valid time-limited login.
    pub(crate) fn minted(&mut self, userid: &str, algorithm: PasswordAlgorithm) -> Rc<Login> {
        let expiry = self.now().unix.0 + self.dice.between(30, 7200);
        let username = format!("{expiry}:{userid}");
        let password = mint(&self.site.rules.secrets[0], &username);
        Login::new(&username, &password, algorithm)
    }

    pub(crate) fn transaction(&mut self) -> TransactionId {
        TransactionId(self.dice.array())
    }

    /// Sends a request, with the login if there is a nonce for it.
    pub(crate) fn ask(&mut self, index: usize, ask: Ask, logins: u32) {
        let (id, fingerprint) = (self.transaction(), self.dice.percent(30));
        let client = &self.clients[index];
        let login = (!client.nonce.is_empty() && !matches!(ask, Ask::Binding)).then(|| Rc::clone(&client.login));
        let nonce = client.nonce.clone();
        self.ask_with(
            index,
            Request {
                id,
                ask,
                login,
                nonce,
                flaw: None,
                fingerprint,
            },
            logins,
        );
    }

    pub(crate) fn ask_with(&mut self, index: usize, request: Request, logins: u32) {
        let id = request.id.0;
        let request = Rc::new(request);
        let packet = Packet::request(&request);
        trace::note(|| format!("client {index} sends {}", packet.tell()));
        self.clients[index].pending.insert(
            id,
            Pending {
                packet: packet.clone(),
                request,
                tries: 1,
                logins,
            },
        );
        self.client_sends(index, packet);
        let patience = if self.clients[index].transport.is_stream() {
            STREAM_PATIENCE
        } else {
            RTO
        };
        self.after(patience, Event::Retry { client: index, id });
    }

    /// No response so far.
    pub(crate) fn retry(&mut self, index: usize, id: [u8; 12]) {
        let client = &mut self.clients[index];
        let stream = client.transport.is_stream();
        let Some(pending) = client.pending.get_mut(&id) else {
            return;
        };
        if stream || pending.tries >= TRIES {
            let given_up = client.pending.remove(&id).expect("it was just there");
            if matches!(given_up.request.ask, Ask::Refresh { .. }) {
                client.lease = None;
            }
            return;
        }
        pending.tries += 1;
        // 0.5, 1, 2 ... s apart; after the last one 16 times the first.
        let rto = if pending.tries == TRIES {
            RTO * 16
        } else {
            RTO * (1 << (pending.tries - 1))
        };
        let packet = pending.packet.clone();
        self.client_sends(index, packet);
        self.after(rto, Event::Retry { client: index, id });
    }

    /// A client notices that its stream is closed.
    pub(crate) fn closed(&mut self, index: usize, conn: u64) {
        let client = &mut self.clients[index];
        if client.conn == Some(conn) {
            client.conn = None;
            client.lease = None;
            client.pending.clear();
            let family = places::family(client.addr);
            // It may well return from the same port.
            if self.dice.percent(70) {
                self.clients[index].addr = self.public_address(family);
            }
        }
    }

    /// A whole message arrives at a client.
    pub(crate) fn bytes_at_client(&mut self, index: usize, bytes: Payload) {
        if is_response(&bytes) {
            let reply = Reply::parse(&bytes);
            self.reply_at_client(index, &reply);
        } else {
            let from_peer = FromPeer::parse(&bytes, self.clients[index].transport.is_stream());
            trace::note(|| match &from_peer {
                FromPeer::Channel { number, data } => {
                    format!("client {index} <- {} bytes on {number:#06x}", data.len())
                }
                FromPeer::Data { peer, data } => format!("client {index} <- {} bytes from {peer}", data.len()),
                FromPeer::Icmp { peer } => format!("client {index} <- ICMP about {peer}"),
            });
        }
    }

    fn reply_at_client(&mut self, index: usize, reply: &Reply) {
        let Some(Pending { request, logins, .. }) = self.clients[index].pending.remove(&reply.id.0) else {
            return;
        };
        trace::note(|| format!("client {index} <- {} to {:?}", reply.code, request.ask));
        self.clients[index].last = Some(reply.clone());
        if self.clients[index].scripted && reply.code != 0 {
            if let Some(nonce) = &reply.nonce {
                self.clients[index].nonce.clone_from(nonce);
            }
            return;
        }
        match reply.code {
            0 => self.fulfilled(index, &request.ask, reply),
            401 | 438 => {
                let user = self.clients[index].user;
                if reply.code == 401 || self.clients[index].nonce.is_empty() {
                    self.clients[index].login = self.login_of(user, reply.algorithms);
                }
                self.clients[index]
                    .nonce
                    .clone_from(reply.nonce.as_ref().expect("a challenge has a nonce"));
                if logins < LOGINS && !self.quiet {
                    self.ask(index, request.ask.clone(), logins + 1);
                }
            }
            437 if !matches!(request.ask, Ask::Allocate(_)) => self.clients[index].lease = None,
            // A response may have been lost: start again.
            437 if self.dice.percent(50) && !self.quiet => {
                self.ask(
                    index,
                    Ask::Refresh {
                        lifetime: Some(0),
                        family: None,
                    },
                    0,
                );
            }
            441 => {
                // Another client's: use another port.
                let family = places::family(self.clients[index].addr);
                if !self.clients[index].transport.is_stream() {
                    self.clients[index].addr = self.public_address(family);
                }
            }
            _ => {}
        }
    }

    fn fulfilled(&mut self, index: usize, ask: &Ask, reply: &Reply) {
        let mono = self.mono;
        let lifetime = Duration::from_secs(reply.lifetime.unwrap_or(0).into());
        let lease = &mut self.clients[index].lease;
        match (ask, lease) {
            (Ask::Allocate(_), lease) => {
                *lease = Some(Lease {
                    relayed: reply.relayed.clone(),
                    until: mono + lifetime,
                    permitted: BTreeMap::new(),
                    channels: BTreeMap::new(),
                });
                let login = Rc::clone(&self.clients[index].login);
                self.board.tokens.extend(reply.token.map(|token| (token, login, mono)));
            }
            (Ask::Refresh { family: None, .. }, lease) if lifetime.is_zero() => *lease = None,
            (Ask::Refresh { .. }, Some(lease)) => lease.until = mono + lifetime,
            (Ask::CreatePermission { peers }, Some(lease)) => {
                lease.permitted.extend(peers.iter().map(|peer| (peer.ip(), mono)));
            }
            (Ask::ChannelBind { number, peer }, Some(lease)) => {
                lease.channels.insert(*number, (*peer, mono));
                lease.permitted.insert(peer.ip(), mono);
            }
            _ => {}
        }
    }
}
