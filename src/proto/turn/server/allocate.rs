//! Allocate (RFC 8656 §7.2): the checks in the RFC's order, then the relay sockets, then the
//! response.

use core::time::Duration;
use std::sync::Arc;

use super::Server;
use super::request::{Authenticated, Request, RequestOutcome, whole_seconds};
use crate::base::address::Family;
use crate::base::rate::Bucket;
use crate::base::time::{Instant, Now};
use crate::turn::login::owner::Owner;
use crate::turn::login::session::Session;
use crate::turn::output::{Command, DropReason, EndReason, Verdict};
use crate::turn::policy::PeerClass;
use crate::turn::refusal::{OpenError, Refusal};
use crate::turn::response::{Reply, Response};
use crate::turn::session_id::SessionId;
use crate::turn::shared::ports::{RelayPort, Want};
use crate::turn::shared::reservations::{Reservation, ReservationToken};
use crate::turn::state::allocation::{Allocation, FAMILIES, PendingAllocate, RESERVATION, Socket};
use crate::turn::state::mobile::Mobile;
use crate::turn::state::transactions::RETRANSMISSION;
use crate::turn::types::{AllocationId, Client, Path, PeerAddr, RelayId, RelayedAddr};
use crate::wire::address::{FAMILY_IPV4, FAMILY_IPV6};
use crate::wire::attribute::{self, AttributeType};
use crate::wire::message::{Message, Method};

/// IP protocol number in REQUESTED-TRANSPORT.
const UDP: u8 = 17;
/// Only if TCP allocations are enabled (RFC 6062 §5.1).
const TCP: u8 = 6;

/// How many ports are tried in total, because other programs may use some of them.
const TRIES: usize = 8;

/// What an Allocate requests, as far as the request alone determines it.
#[derive(Debug)]
struct Wanted {
    families: [bool; 2],
    /// ADDITIONAL-ADDRESS-FAMILY: one family suffices if the other is not available.
    dual: bool,
    port: Want,
    /// The port reserved under this token, instead of a random one.
    token: Option<ReservationToken>,
    lifetime: Option<u32>,
    /// An empty MOBILITY-TICKET: the client requests one.
    mobile: bool,
}

/// Ports taken for an allocation that does not exist yet.
#[derive(Debug)]
struct Taken {
    sockets: [Socket; 2],
    reserved: Option<RelayPort>,
    unavailable: Option<(Family, Refusal)>,
}

impl Server {
    /// Handles an authenticated Allocate request.
    pub(super) fn allocate(&mut self, request: &Authenticated<'_>) -> Result<RequestOutcome, Refusal> {
        let session = request.session();
        let Request {
            now, client, message, ..
        } = request.request();
        // RFC 8656 §7.2-2. A late copy of a request whose allocation has already ended must not
        // create another one.
        let transaction_id = message.transaction_id();
        if self.has_or_awaits_allocation(client)
            || self.transactions.contains(now.mono, &client.five_tuple, transaction_id)
        {
            return Err(Refusal::AllocationExists);
        }
        self.check_newcomer(client, session)?;
        let tcp = self.wants_tcp(client, message)?;
        let wanted = self.wanted(now.mono, session, message)?;
        self.check_redirect(now.mono, client, &wanted)?;
        let limits = Arc::clone(&self.config);
        let limits = &limits.limits;
        let reservation = match wanted.port {
            Want::EvenAndNext => Some(self.shared.quotas.reservation(&session.user, limits)?),
            Want::Any | Want::Even => None,
        };
        self.end_reservations(now.mono);
        let mut taken = self.take_ports(&wanted)?;
        // RFC 8656 §7.2-10.
        let ip = client.five_tuple.client.ip();
        let quota = self.shared.quotas.allocation(&session.user, ip, limits)?;
        if let Some(token) = wanted.token {
            self.redeem(now.mono, &token, session, &mut taken)?;
        }

        let id = self.forward.insert(*client, self.path(client));
        let opening = PendingAllocate {
            want: wanted.token.is_none().then_some(wanted.port),
            failed: Vec::new(),
            lifetime: self.lifetime(wanted.lifetime, Duration::ZERO),
            reserved: taken.reserved,
            reservation,
            fingerprint: message.has_fingerprint(),
            error: None,
            half: taken.unavailable.as_ref().map(|(_, refusal)| refusal.clone()),
        };
        self.allocations.insert(Allocation {
            id,
            session_id: SessionId::from_random(self.rng.array()),
            session: Arc::clone(session),
            sockets: taken.sockets,
            relayed: [None; 2],
            transaction_id,
            requested: now.mono,
            token: None,
            unavailable: taken.unavailable.map(|(family, refusal)| (family, refusal.code())),
            opening: Some(Box::new(opening)),
            tcp: tcp.then(Box::default),
            owner: Owner::of(message),
            requests: Bucket::default(),
            reports: Bucket::default(),
            judged_a_peer: false,
            quota,
            mobile: wanted.mobile.then(|| Box::new(Mobile::new(self.rng.array()))),
        });
        self.await_sockets(now.mono, id);
        for family in FAMILIES {
            self.open_socket(id, family);
        }
        Ok(RequestOutcome::Waiting)
    }

    /// A forced login is valid on the forced path only. RFC 8656 §7.4: 403 is for restrictions by
    /// the administrator, and the client does not retry on this server.
    pub(super) fn check_path(&self, client: &Client, session: &Session) -> Result<(), Refusal> {
        let bound = session.forced || self.config.forced.everyone;
        if bound && self.path(client) != Path::Forced {
            self.counters.forced_refused[client.five_tuple.transport as usize].add(1);
            return Err(Refusal::ForcedPath {
                port: client.five_tuple.server.port(),
            });
        }
        Ok(())
    }

    /// The path that a client uses.
    pub(super) fn path(&self, client: &Client) -> Path {
        self.config.forced.path(&client.five_tuple)
    }

    /// Refuses addresses that must not be clients, and forced logins outside the forced path.
    pub(super) fn check_newcomer(&self, client: &Client, session: &Session) -> Result<(), Refusal> {
        self.check_path(client, session)?;
        self.check_client(client)
    }

    /// Refuses addresses that must not be clients: 6to4 and Teredo (RFC 8656 §21.4), and our own
    /// relayed addresses, which would make a loop (§21.1.7).
    pub(super) fn check_client(&self, client: &Client) -> Result<(), Refusal> {
        let addr = client.five_tuple.client;
        self.config
            .policy
            .client(addr.ip())
            .map_err(|rule| Refusal::ClientDenied { rule })?;
        let class = self.config.policy.peer(PeerAddr(addr));
        let may_be_relayed = matches!(class, Ok(PeerClass::Relayed | PeerClass::RelayedOrLocal));
        if may_be_relayed && self.shared.directory.owner(RelayedAddr(addr)).is_some() {
            return Err(Refusal::ClientIsRelayed);
        }
        Ok(())
    }

    /// Refuses new clients while another server takes them. A client with a token has an allocation
    /// here and wants the adjacent port, so it stays.
    fn check_redirect(&self, now: Instant, client: &Client, wanted: &Wanted) -> Result<(), Refusal> {
        if wanted.token.is_none() {
            self.shared.draining.check(&client.five_tuple)?;
        }
        let age = now.saturating_since(self.redirecting_since.unwrap_or(now));
        match self.config.redirect.of(&client.five_tuple, age) {
            Some(to) if wanted.token.is_none() => Err(Refusal::Redirected { to }),
            _ => Ok(()),
        }
    }

    /// RFC 8656 §7.2-3 and RFC 6062 §5.1: whether the request is for a TCP allocation.
    fn wants_tcp(&self, client: &Client, message: &Message<'_>) -> Result<bool, Refusal> {
        let transport = message.decode(AttributeType::REQUESTED_TRANSPORT, attribute::requested_transport)?;
        match transport.ok_or(Refusal::BadRequest)? {
            UDP => Ok(false),
            TCP if self.config.tcp.is_some() => {
                let about_datagrams = [
                    AttributeType::DONT_FRAGMENT,
                    AttributeType::EVEN_PORT,
                    AttributeType::RESERVATION_TOKEN,
                ];
                let has = |&kind: &AttributeType| message.attribute(kind).is_some();
                if !client.five_tuple.transport.is_stream() || about_datagrams.iter().any(has) {
                    return Err(Refusal::BadRequest);
                }
                // Its peer connections cannot move, so neither can the allocation.
                if self.wants_ticket(message)? {
                    return Err(Refusal::MobilityForbidden);
                }
                Ok(true)
            }
            protocol => Err(Refusal::TransportNotSupported { protocol }),
        }
    }

    /// RFC 8656 §7.2, steps 4 to 9, as far as they concern the request alone.
    fn wanted(&self, now: Instant, session: &Session, message: &Message<'_>) -> Result<Wanted, Refusal> {
        // §7.2-4: DONT-FRAGMENT is supported, so its presence changes nothing.
        message.decode(AttributeType::DONT_FRAGMENT, attribute::dont_fragment)?;
        let lifetime = message.decode(AttributeType::LIFETIME, attribute::lifetime)?;
        let token = message.decode(AttributeType::RESERVATION_TOKEN, attribute::reservation_token)?;
        let even = message.decode(AttributeType::EVEN_PORT, attribute::even_port)?;
        let requested = message.decode(AttributeType::REQUESTED_ADDRESS_FAMILY, attribute::address_family)?;
        let additional = message.decode(AttributeType::ADDITIONAL_ADDRESS_FAMILY, attribute::address_family)?;
        let mobile = self.wants_ticket(message)?;
        // §7.2-5
        if let Some(token) = token {
            if even.is_some() || requested.is_some() || additional.is_some() {
                return Err(Refusal::BadRequest);
            }
            let family = self.shared.reservations.peek(now, &token, session);
            let family = family.ok_or(Refusal::ReservationUnknown)?;
            let families = FAMILIES.map(|f| f == family);
            return Ok(Wanted {
                families,
                dual: false,
                port: Want::Any,
                token: Some(token),
                lifetime,
                mobile,
            });
        }
        // §7.2-6
        if requested.is_some() && additional.is_some() {
            return Err(Refusal::BadRequest);
        }
        // §7.2-7 and design decision D5: without the attribute the family is IPv4, whatever the
        // client's own.
        let families = match (requested, additional) {
            (None | Some(FAMILY_IPV4), None) => [true, false],
            (Some(FAMILY_IPV6), None) => [false, true],
            (Some(_), None) => return Err(Refusal::FamilyNotSupported),
            (_, Some(_)) => [true, true],
        };
        if additional.is_none()
            && FAMILIES
                .iter()
                .any(|&f| families[f as usize] && self.config.relay.of(f).is_none())
        {
            return Err(Refusal::FamilyNotSupported);
        }
        // §7.2-8
        let port = match even {
            None => Want::Any,
            Some(false) => Want::Even,
            Some(true) if additional.is_some() => return Err(Refusal::BadRequest),
            Some(true) => Want::EvenAndNext,
        };
        // §7.2-9
        if additional.is_some_and(|family| family != FAMILY_IPV6) {
            return Err(Refusal::BadRequest);
        }
        Ok(Wanted {
            families,
            dual: additional.is_some(),
            port,
            token: None,
            lifetime,
            mobile,
        })
    }

    /// Takes the ports that `wanted` requests: at least one, or none.
    fn take_ports(&mut self, wanted: &Wanted) -> Result<Taken, Refusal> {
        let mut taken = Taken {
            sockets: Socket::NONE,
            reserved: None,
            unavailable: None,
        };
        if wanted.token.is_some() {
            return Ok(taken);
        }
        let mut any = false;
        let mut none = Refusal::NoFreePort {
            family: Family::V4,
            even: false,
            ports: 0,
        };
        for family in FAMILIES.into_iter().filter(|&family| wanted.families[family as usize]) {
            match self.take_port(family, wanted.port) {
                Ok((socket, reserved)) => {
                    taken.sockets[family as usize] = socket;
                    taken.reserved = reserved;
                    any = true;
                }
                Err(refusal) if wanted.dual => {
                    taken.unavailable = Some((family, refusal.clone()));
                    if refusal != Refusal::FamilyNotSupported {
                        none = refusal;
                    }
                }
                Err(refusal) => return Err(refusal),
            }
        }
        if any { Ok(taken) } else { Err(none) }
    }

    /// Takes one port, and with [`Want::EvenAndNext`] the next one too.
    fn take_port(&mut self, family: Family, want: Want) -> Result<(Socket, Option<RelayPort>), Refusal> {
        let relay = self.config.relay.of(family).ok_or(Refusal::FamilyNotSupported)?;
        let taken = self.shared.ports.take(family, want, &mut self.rng);
        let (port, reserved) = taken.ok_or_else(|| Refusal::NoFreePort {
            family,
            even: want != Want::Any,
            ports: self.config.relay.ports.clone().count() as u32,
        })?;
        let relayed = RelayedAddr(self.config.relay.announced(relay, port.number()));
        Ok((Socket::Opening { port, relayed }, reserved))
    }

    /// Redeems a token. Another shard may have redeemed it since the check.
    fn redeem(
        &mut self,
        now: Instant,
        token: &ReservationToken,
        session: &Session,
        taken: &mut Taken,
    ) -> Result<(), Refusal> {
        let port = self
            .shared
            .reservations
            .redeem(now, token, session)
            .ok_or(Refusal::ReservationUnknown)?;
        let family = port.family();
        let relay = self.config.relay.of(family).ok_or(Refusal::ReservationUnknown)?;
        let relayed = RelayedAddr(self.config.relay.announced(relay, port.number()));
        taken.sockets[family as usize] = Socket::Opening { port, relayed };
        Ok(())
    }

    /// Asks the shard to open a socket.
    fn open_socket(&mut self, id: AllocationId, family: Family) {
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        if let (Socket::Opening { port, .. }, Some(relay)) =
            (&allocation.sockets[family as usize], self.config.relay.of(family))
        {
            let bind = (relay.bind, port.number()).into();
            let id = RelayId { allocation: id, family };
            self.commands.push_back(match allocation.tcp.as_deref_mut() {
                None => Command::OpenRelay { id, bind },
                Some(tcp) => {
                    tcp.binds[family as usize] = Some(bind);
                    Command::OpenTcpRelay { id, bind }
                }
            });
        }
    }

    /// The shard has opened a relay socket, or could not. After the last socket of an allocation,
    /// the response to its Allocate is in `response`, for the returned client.
    pub fn handle_relay_opened(
        &mut self,
        now: Now,
        id: RelayId,
        result: Result<(), OpenError>,
        response: &mut Response,
    ) -> Option<Client> {
        let RelayId { allocation: id, family } = id;
        let allocation = self.allocations.get_mut(id)?;
        let opening = allocation.opening.as_deref_mut()?;
        let socket = &mut allocation.sockets[family as usize];
        let (port, relayed) = match core::mem::replace(socket, Socket::Absent) {
            Socket::Opening { port, relayed } => (port, relayed),
            settled => {
                *socket = settled;
                return None;
            }
        };
        match result {
            Ok(()) => *socket = Socket::Open { port, relayed },
            Err(error) => {
                opening.failed.push(port);
                opening.error = Some(error);
                let again = error == OpenError::AddressInUse && opening.failed.len() < TRIES;
                if again && self.try_another_port(id, family) {
                    return None;
                }
                let refusal = Refusal::from(error);
                let allocation = self.allocations.get_mut(id)?;
                allocation.unavailable = Some((family, refusal.code()));
                allocation.opening.as_deref_mut()?.half = Some(refusal);
            }
        }
        self.settle(now, id, response)
    }

    /// Replaces a port that another program uses, if there is a free one and the request allows
    /// any.
    fn try_another_port(&mut self, id: AllocationId, family: Family) -> bool {
        let Some(want) = self
            .allocations
            .get(id)
            .and_then(|allocation| allocation.opening.as_ref()?.want)
        else {
            return false;
        };
        let Ok((socket, reserved)) = self.take_port(family, want) else {
            return false;
        };
        let Some(allocation) = self.allocations.get_mut(id) else {
            return false;
        };
        allocation.sockets[family as usize] = socket;
        if let Some(opening) = &mut allocation.opening {
            opening
                .failed
                .extend(core::mem::replace(&mut opening.reserved, reserved));
        }
        self.open_socket(id, family);
        true
    }

    /// Answers an Allocate once all its sockets are open or have failed.
    fn settle(&mut self, now: Now, id: AllocationId, response: &mut Response) -> Option<Client> {
        let allocation = self.allocations.get(id)?;
        if allocation
            .sockets
            .iter()
            .any(|socket| matches!(socket, Socket::Opening { .. }))
        {
            return None;
        }
        let client = *self.forward.client(id)?;
        let session = Arc::clone(&allocation.session);
        let transaction_id = allocation.transaction_id;
        let opening = allocation.opening.as_ref()?;
        let (fingerprint, error) = (opening.fingerprint, opening.error);
        let some = allocation
            .sockets
            .iter()
            .any(|socket| matches!(socket, Socket::Open { .. }));
        if some {
            let mut opening = self.allocations.get_mut(id)?.opening.take()?;
            self.begin(now.mono, id, opening.lifetime);
            if let Some(refusal) = opening.half.take() {
                self.report_half(&client.five_tuple, &session.username, refusal);
            }
            let token = self.reserve(now.mono, &session, *opening);
            self.allocations.get_mut(id)?.token = token;
        } else {
            // It has not begun, so its end is not reported.
            self.end(now.mono, id, EndReason::Expired);
        }
        let config = Arc::clone(&self.config);
        let stream = client.five_tuple.transport.is_stream();
        let software = config.software.as_deref();
        let reply = Reply::later(Method::Allocate, transaction_id, fingerprint, stream, software).signed(&session);
        if some {
            self.answer_allocate(now.mono, id, &client, &reply, response);
        } else {
            // Without a failure, the shard has not answered in time.
            let refusal = error.map_or(Refusal::SocketFailed, Refusal::from);
            let _ = self.refuse(&client, None, &session, &reply, refusal, response);
        }
        Some(client)
    }

    /// Reserves the port after an even one, and returns the ports of failed attempts.
    fn reserve(&mut self, now: Instant, session: &Arc<Session>, opening: PendingAllocate) -> Option<ReservationToken> {
        let PendingAllocate {
            reserved, reservation, ..
        } = opening;
        let (port, unit) = reserved.zip(reservation)?;
        let token = self.rng.array();
        let until = now + RESERVATION;
        self.shared.reservations.insert(
            token,
            Reservation {
                port,
                username: Arc::clone(&session.username),
                user: session.user.clone(),
                until,
                _unit: unit,
            },
        );
        self.reserved.push_back((until, token));
        Some(token)
    }

    /// Handles a copy of an Allocate that was already accepted (RFC 8656 §7.2-2, RFC 8489 §6.3.1):
    /// over UDP a client that has not received the response repeats the request. `None`: not a
    /// copy.
    pub(super) fn handle_retransmission(&mut self, request: Request<'_>, response: &mut Response) -> Option<Verdict> {
        let Request {
            now,
            client,
            message,
            live,
            ..
        } = request;
        let allocation = self.allocations.get(live?)?;
        let copy = !client.five_tuple.transport.is_stream()
            && allocation.transaction_id == message.transaction_id()
            && now.mono < allocation.requested + RETRANSMISSION;
        if !copy {
            return None;
        }
        if allocation.opening.is_some() {
            return Some(Verdict::Drop(DropReason::Retransmission));
        }
        // The nonce may have become stale meanwhile. The signature still proves that the sender
        // owns the allocation.
        let session = Arc::clone(&allocation.session);
        if !message.verify(&session.key) {
            return None;
        }
        let allocation = self.allocations.get_mut(live?)?;
        if !allocation.owner.admit(now.mono, &self.config.limits) {
            return Some(Verdict::Drop(DropReason::AllocationRate));
        }
        let config = Arc::clone(&self.config);
        let reply = Reply::to(
            message,
            Method::Allocate,
            &client.five_tuple,
            config.software.as_deref(),
        )
        .signed(&session);
        self.answer_allocate(now.mono, live?, client, &reply, response);
        Some(Verdict::Respond)
    }

    /// Writes the success response of an allocation (RFC 8656 §7.2), for the first time or again.
    /// Only LIFETIME changes.
    fn answer_allocate(
        &self,
        now: Instant,
        id: AllocationId,
        client: &Client,
        reply: &Reply<'_>,
        response: &mut Response,
    ) {
        let Some(allocation) = self.allocations.get(id) else {
            return;
        };
        let until = FAMILIES
            .map(|family| self.forward.until(id, family))
            .into_iter()
            .max()
            .unwrap_or(now);
        let written = response.success(reply, |writer| {
            for relayed in allocation.relayed.iter().flatten() {
                writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed.0);
            }
            writer.u32(AttributeType::LIFETIME, whole_seconds(until - now));
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, client.five_tuple.client);
            if let Some(token) = &allocation.token {
                writer.attribute(AttributeType::RESERVATION_TOKEN, token);
            }
            if let Some(mobile) = allocation.mobile.as_deref() {
                let ticket = self.shared.tickets.text(mobile.newest());
                writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            }
            if let Some((family, code)) = allocation.unavailable {
                let family = if family == Family::V4 { FAMILY_IPV4 } else { FAMILY_IPV6 };
                writer.address_error_code(family, code, "");
            }
        });
        debug_assert!(written, "a success response fits its buffer");
    }

    /// LIFETIME granted for the requested one (RFC 8656 §7.2, §8.2) to an allocation of this age.
    pub(super) fn lifetime(&self, requested: Option<u32>, age: Duration) -> Duration {
        let config = &self.config;
        let lifetime = requested.map_or(config.default_lifetime, |seconds| Duration::from_secs(seconds.into()));
        let lifetime = lifetime.max(config.default_lifetime).min(config.max_lifetime);
        config
            .max_session
            .map_or(lifetime, |most| lifetime.min(most.saturating_sub(age)))
    }
}
