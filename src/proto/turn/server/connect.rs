//! Connect, ConnectionBind and accepted peers (RFC 6062 §5.2 to §5.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::Server;
use super::request::{Authenticated, Request, RequestOutcome};
use crate::base::address::Family;
use crate::base::time::Now;
use crate::turn::output::{Command, ConnectionEnd, DropReason, PeerRefusal, Verdict};
use crate::turn::policy::PeerClass;
use crate::turn::reflection;
use crate::turn::refusal::Refusal;
use crate::turn::response::{Reply, Response};
use crate::turn::state::connections::{Asked, CONNECTING, PENDING, Stage};
use crate::turn::types::{AllocationId, Client, ConnectionId, PeerAddr, RelayId, RelayedAddr};
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::{Message, Method, TransactionId};

impl Server {
    /// Handles a Connect from the owner of an allocation (RFC 6062 §5.2). It needs no permission,
    /// because the client names the one peer itself.
    pub(super) fn connect(&mut self, request: &Authenticated<'_>, id: AllocationId) -> Result<RequestOutcome, Refusal> {
        let session = request.session();
        let Request {
            now, client, message, ..
        } = request.request();
        let relay = self.allocations.get(id).and_then(|it| it.tcp.as_deref());
        // An allocation that relays UDP does not match this request.
        let binds = relay.ok_or(Refusal::NoAllocation)?.binds;
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)?
            .filter(|peer| peer.port() != 0)
            .ok_or(Refusal::BadRequest)?;
        self.check_family(now.mono, id, &peer)?;
        let peer = PeerAddr(peer);
        if self.has_connection(id, peer) {
            return Err(Refusal::ConnectionExists { peer: peer.0 });
        }
        self.check_client(client)?;
        let class = self.tcp_peer(id, peer)?;
        let bind = binds[Family::of(peer.0.ip()) as usize].ok_or(Refusal::FamilyMismatch { peer: Some(peer.0) })?;
        let to = match class {
            PeerClass::Peer | PeerClass::Local | PeerClass::RelayedOrLocal => peer.0,
            // Another client of this server. If only a router knows our announced address, the
            // connection must use the local one.
            PeerClass::Relayed => SocketAddr::new(inside(bind.ip()), self.config.relay.bound_port(peer.0.port())),
        };
        let asked = Asked {
            transaction_id: message.transaction_id(),
            fingerprint: message.has_fingerprint(),
            session: Arc::clone(session),
        };
        let until = now.mono + CONNECTING;
        let connection = self
            .add_connection(id, peer, Stage::Connecting { asked, until })
            .ok_or(Refusal::ConnectionsFull)?;
        self.peer_granted(id);
        self.counters.tcp.connecting.add(1);
        self.commands.push_back(Command::ConnectPeer {
            connection,
            bind,
            peer: to,
        });
        Ok(RequestOutcome::Waiting)
    }

    /// The same check for peers that a client connects to and peers that connect to it.
    pub(super) fn tcp_peer(&self, id: AllocationId, peer: PeerAddr) -> Result<PeerClass, Refusal> {
        let PeerAddr(peer) = peer;
        let (Some(config), Some(allocation)) = (self.config.tcp.as_ref(), self.allocations.get(id)) else {
            return Err(Refusal::NoAllocation);
        };
        if allocation.relayed.contains(&Some(RelayedAddr(peer))) {
            return Err(Refusal::PeerIsItself { peer });
        }
        let class = self.config.policy.peer(PeerAddr(peer));
        let is_relayed = self.shared.directory.is_tcp(RelayedAddr(peer));
        let class = match class.map_err(|rule| Refusal::PeerDenied { peer, rule })? {
            PeerClass::RelayedOrLocal if is_relayed => PeerClass::Relayed,
            class => class,
        };
        let may = match class {
            // Not a program of this machine that happens to listen on a relay port.
            PeerClass::Relayed => is_relayed,
            PeerClass::Peer | PeerClass::Local | PeerClass::RelayedOrLocal => {
                config.peer_ports.iter().any(|range| range.contains(&peer.port()))
            }
        };
        if may {
            Ok(class)
        } else {
            Err(Refusal::PeerPortDenied { peer })
        }
    }

    /// The shard has connected to a peer, or could not. The response to the Connect is in
    /// `response`, for the returned client.
    pub fn handle_peer_connected(
        &mut self,
        now: Now,
        id: ConnectionId,
        connected: bool,
        response: &mut Response,
    ) -> Option<Client> {
        let connection = self.connections.get(id)?;
        let Stage::Connecting { asked, until } = &connection.stage else {
            return None;
        };
        let (asked, late) = (asked.clone(), *until <= now.mono);
        let (allocation, peer) = (connection.allocation, connection.peer.0);
        let client = *self.forward.client(allocation)?;
        let config = Arc::clone(&self.config);
        let reply = Reply {
            method: Method::Connect,
            transaction_id: asked.transaction_id,
            fingerprint: asked.fingerprint,
            verbose: true,
            room: usize::MAX,
            software: config.software.as_deref(),
            signer: None,
        }
        .signed(&asked.session);
        if connected {
            let until = now.mono + PENDING;
            self.connections.set_stage(id, Stage::Pending { until });
            let written = response.success(&reply, |writer| {
                writer.u32(AttributeType::CONNECTION_ID, id.0);
            });
            debug_assert!(written, "a success response fits its buffer");
        } else {
            let why = if late {
                ConnectionEnd::ConnectTimeout
            } else {
                ConnectionEnd::ConnectFailed
            };
            self.forget_connection(id, why);
            let refusal = Refusal::PeerUnreachable { peer };
            let _ = self.refuse(&client, Some(allocation), &asked.session, &reply, refusal, response);
        }
        Some(client)
    }

    /// A peer has connected to a relayed transport address (RFC 6062 §5.3). If the connection is
    /// accepted, returns its id, and the ConnectionAttempt indication for the returned client is in
    /// `response`.
    ///
    /// # Errors
    /// Why the connection is refused. The shard closes it at once, and the client gets no
    /// indication.
    pub fn handle_peer_accepted(
        &mut self,
        now: Now,
        relay: RelayId,
        from: SocketAddr,
        response: &mut Response,
    ) -> Result<(ConnectionId, Client), PeerRefusal> {
        let accepted = self.accept_peer(now, relay, from, response);
        match accepted {
            Ok(_) => self.counters.tcp.accepted.add(1),
            Err(why) => self.counters.tcp.refused[why as usize].add(1),
        }
        accepted
    }

    fn accept_peer(
        &mut self,
        now: Now,
        relay: RelayId,
        from: SocketAddr,
        response: &mut Response,
    ) -> Result<(ConnectionId, Client), PeerRefusal> {
        let id = relay.allocation;
        let client = *self.forward.client(id).ok_or(PeerRefusal::NoPermission)?;
        let peer = self.seen_from_outside(relay, from);
        if !self.forward.is_permitted(now.mono, relay, peer) {
            return Err(PeerRefusal::NoPermission);
        }
        self.tcp_peer(id, peer).map_err(|_| PeerRefusal::PeerDenied)?;
        let until = now.mono + PENDING;
        let connection = self
            .add_connection(id, peer, Stage::Pending { until })
            .ok_or(PeerRefusal::TooMany)?;
        response.connection_attempt(TransactionId(self.rng.array()), peer.0, connection);
        Ok((connection, client))
    }

    /// Another client of this server connects from its relay socket's local address. Its peers know
    /// it by its relayed one.
    fn seen_from_outside(&self, relay: RelayId, from: SocketAddr) -> PeerAddr {
        let tcp = self.allocations.get(relay.allocation).and_then(|it| it.tcp.as_deref());
        let bind = tcp.and_then(|tcp| tcp.binds[relay.family as usize]);
        let config = &self.config.relay;
        if let (Some(bind), Some(address)) = (bind, config.of(relay.family))
            && from.ip() == inside(bind.ip())
        {
            let relayed = config.announced(address, from.port());
            if self.shared.directory.is_tcp(RelayedAddr(relayed)) {
                return PeerAddr(relayed);
            }
        }
        PeerAddr(from)
    }

    /// Handles a ConnectionBind (RFC 6062 §5.4): the first request on a separate connection, by the
    /// user whose allocation has the peer connection.
    pub(super) fn handle_connection_bind(
        &mut self,
        now: Now,
        client: &Client,
        message: &Message<'_>,
        response: &mut Response,
    ) -> Verdict {
        self.count_request(Method::ConnectionBind);
        if reflection::is_short(&client.five_tuple, message.bytes().len()) {
            return Verdict::Drop(DropReason::ShortRequest);
        }
        let id = message.decode(AttributeType::CONNECTION_ID, attribute::connection_id);
        let id = id.ok().flatten().map(ConnectionId);
        let allocation = id.and_then(|id| self.connections.get(id)).map(|it| it.allocation);
        let config = Arc::clone(&self.config);
        let reply = Reply::to(
            message,
            Method::ConnectionBind,
            &client.five_tuple,
            config.software.as_deref(),
        );
        let request = Request {
            now,
            client,
            message,
            method: Method::ConnectionBind,
            live: allocation,
        };
        let request = match self.log_in(request, &reply, response) {
            Ok(request) => request,
            Err(verdict) => return verdict,
        };
        let session = request.session();
        let reply = reply.signed(session);
        match self.bindable(&request, id) {
            Ok(Bindable::Here(id)) => {
                self.connections.set_stage(id, Stage::Bound);
                self.counters.tcp.bound.add(1);
                let written = response.success(&reply, |_| {});
                debug_assert!(written, "a success response fits its buffer");
                Verdict::BindConnection(id)
            }
            Ok(Bindable::At(shard)) => Verdict::MoveStream { shard },
            Err(refusal) => self.refuse(client, allocation, session, &reply, refusal, response),
        }
    }

    /// Finds the peer connection of an authenticated ConnectionBind.
    fn bindable(&self, request: &Authenticated<'_>, id: Option<ConnectionId>) -> Result<Bindable, Refusal> {
        let session = request.session();
        let Request {
            now, client, message, ..
        } = request.request();
        // Only this request has a CONNECTION-ID.
        let unknown = message.unknown_required_but(&[AttributeType::CONNECTION_ID]);
        if !unknown.is_empty() {
            return Err(Refusal::UnknownAttributes { types: unknown });
        }
        // A connection that controls an allocation cannot also carry data of one.
        if !client.five_tuple.transport.is_stream() || self.has_or_awaits_allocation(client) {
            return Err(Refusal::BadRequest);
        }
        let id = id.ok_or(Refusal::BadRequest)?;
        let owner = self.shard.owner_of_connection(id);
        if owner != self.shard.index {
            // That shard checks all of this again, because this one knows nothing about the
            // connection.
            return u16::try_from(owner)
                .map(Bindable::At)
                .map_err(|_| Refusal::ConnectionUnknown);
        }
        let connection = self.connections.get(id).ok_or(Refusal::ConnectionUnknown)?;
        let Stage::Pending { until } = connection.stage else {
            return Err(Refusal::ConnectionUnknown);
        };
        if until <= now.mono {
            return Err(Refusal::ConnectionUnknown);
        }
        let allocation = self.allocations.get(connection.allocation);
        let allocation = allocation.ok_or(Refusal::ConnectionUnknown)?;
        if !allocation.session.is_same_login(session) {
            return Err(Refusal::WrongUser);
        }
        self.check_path(client, session)?;
        Ok(Bindable::Here(id))
    }
}

/// Where the peer connection of a ConnectionBind is.
enum Bindable {
    Here(ConnectionId),
    /// On another shard.
    At(u16),
}

/// The address through which other sockets of this machine reach a socket bound to `bind`.
const fn inside(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        bind => bind,
    }
}
