//! The steps of every request before and after its own handler: authentication, the checks that RFC
//! 8489 §6.3 and RFC 8656 §5 require of all methods, and the response.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Server;
use crate::base::rate::Rate;
use crate::base::time::Now;
use crate::turn::counters::METHODS;
use crate::turn::login::auth::{Asker, AuthAnswer, AuthError, Authenticator, ChallengeResponse};
use crate::turn::login::owner::Live;
use crate::turn::login::session::Session;
use crate::turn::output::{DropReason, Verdict};
use crate::turn::reflection;
use crate::turn::refusal::{Refusal, Refused};
use crate::turn::response::{Reply, Response};
use crate::turn::shared::tickets::TICKET_LEN;
use crate::turn::types::{AllocationId, Client};
use crate::wire::attribute::AttributeType;
use crate::wire::message::{Class, Message, Method};

/// A request for its handler: parsed, its sender known, its allocation found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) now: Now,
    pub(super) client: &'a Client,
    pub(super) message: &'a Message<'a>,
    pub(super) method: Method,
    /// The allocation that the request concerns, if any.
    pub(super) live: Option<AllocationId>,
}

/// A request whose sender has logged in. Only `Server::log_in` creates one.
#[derive(Debug)]
pub(super) struct Authenticated<'a> {
    request: Request<'a>,
    session: Arc<Session>,
}

impl<'a> Authenticated<'a> {
    pub(super) const fn request(&self) -> Request<'a> {
        self.request
    }

    pub(super) const fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

/// How to answer a request that succeeded.
pub(super) enum RequestOutcome {
    /// No response yet: the shard opens relay sockets, or another shard is asked.
    Waiting,
    /// A success response without attributes.
    Done,
    /// A success response with this LIFETIME.
    Lifetime(Duration),
    /// As [`Self::Lifetime`], with a new MOBILITY-TICKET.
    Resumed(Duration, [u8; TICKET_LEN]),
    /// No response.
    Silent(DropReason),
}

impl Server {
    /// Handles any STUN message.
    pub(super) fn handle_message(
        &mut self,
        now: Now,
        client: &Client,
        message: &Message<'_>,
        response: &mut Response,
    ) -> Verdict {
        let Some(method) = message.method() else {
            return Verdict::Drop(DropReason::UnknownMethod);
        };
        match (message.class(), method) {
            (Class::Request, Method::Binding) => self.handle_binding(now, client, message, response),
            (Class::Request, Method::Allocate | Method::Refresh | Method::CreatePermission | Method::ChannelBind) => {
                self.handle_request(now, client, message, method, response)
            }
            (Class::Indication, Method::Send) => self.handle_send(now, client, message),
            (Class::Indication, Method::Binding) => Verdict::Drop(DropReason::KeepAlive),
            (Class::Request, Method::Connect) if self.config.tcp.is_some() => {
                self.handle_request(now, client, message, method, response)
            }
            (Class::Request, Method::ConnectionBind) if self.config.tcp.is_some() => {
                self.handle_connection_bind(now, client, message, response)
            }
            // While TCP allocations are disabled, these methods are unknown.
            (Class::Request, Method::Connect | Method::ConnectionBind) => Verdict::Drop(DropReason::UnknownMethod),
            // Responses are never answered. Otherwise two servers could be made to answer each
            // other forever.
            _ => Verdict::Drop(DropReason::UnexpectedClass),
        }
    }

    /// Handles a request that needs a login.
    fn handle_request(
        &mut self,
        now: Now,
        client: &Client,
        message: &Message<'_>,
        method: Method,
        response: &mut Response,
    ) -> Verdict {
        self.count_request(method);
        if reflection::is_short(&client.five_tuple, message.bytes().len()) {
            return Verdict::Drop(DropReason::ShortRequest);
        }
        let live = self.live(now, client);
        let request = Request {
            now,
            client,
            message,
            method,
            live,
        };
        if method == Method::Allocate
            && let Some(verdict) = self.handle_retransmission(request, response)
        {
            return verdict;
        }
        let config = Arc::clone(&self.config);
        let reply = Reply::to(message, method, &client.five_tuple, config.software.as_deref());
        let request = match self.log_in(request, &reply, response) {
            Ok(request) => request,
            Err(verdict) => return verdict,
        };
        let session = request.session();
        let reply = reply.signed(session);
        let written = match self.perform(&request) {
            Ok(RequestOutcome::Waiting) => return Verdict::Waiting,
            Ok(RequestOutcome::Silent(reason)) => {
                if reason == DropReason::PermissionLimited {
                    let username = Some(Arc::clone(&session.username));
                    self.report(&client.five_tuple, username, live, method, Refusal::PermissionLimited);
                }
                return Verdict::Drop(reason);
            }
            Ok(RequestOutcome::Done) => response.success(&reply, |_| {}),
            Ok(RequestOutcome::Lifetime(lifetime)) => response.success(&reply, |writer| {
                writer.u32(AttributeType::LIFETIME, whole_seconds(lifetime));
            }),
            Ok(RequestOutcome::Resumed(lifetime, ticket)) => response.success(&reply, |writer| {
                writer.u32(AttributeType::LIFETIME, whole_seconds(lifetime));
                writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            }),
            Err(refusal) => return self.refuse(client, live, session, &reply, refusal, response),
        };
        debug_assert!(written, "a success response fits its buffer");
        Verdict::Respond
    }

    /// Authenticates a request. The error is the verdict on a request that fails, with the answer
    /// in `response`.
    pub(super) fn log_in<'a>(
        &mut self,
        request: Request<'a>,
        reply: &Reply<'_>,
        response: &mut Response,
    ) -> Result<Authenticated<'a>, Verdict> {
        let AuthError { answer, refusal, asker } = match self.authenticate(&request) {
            Ok(session) => {
                let request = Authenticated { request, session };
                self.admit(&request)?;
                return Ok(request);
            }
            Err(error) => error,
        };
        let Request { client, message, .. } = request;
        if let Some(refusal) = refusal {
            let username = message.attribute(AttributeType::USERNAME).map(Refused::username);
            self.report(&client.five_tuple, username, None, reply.method, *refusal);
        }
        let verdict = match answer {
            AuthAnswer::Silent(reason) => Verdict::Drop(reason),
            AuthAnswer::Challenge(challenge) => self.answer_challenge(reply, &challenge, response),
            AuthAnswer::BadRequest => self.answer_error(reply, &Refusal::BadRequest, response),
        };
        if asker == Asker::Stranger {
            response.mark_stranger();
        }
        Err(verdict)
    }

    /// Whether an authenticated request is within the rate of its allocation or, without an
    /// allocation, of its user. A request above the rate gets no response: the client repeats it a
    /// little later, whereas an error would make it give up.
    fn admit(&mut self, request: &Authenticated<'_>) -> Result<(), Verdict> {
        let Authenticated { request, session } = request;
        let &Request {
            now,
            client,
            method,
            live,
            ..
        } = request;
        let now = now.mono;
        let limits = &self.config.limits;
        let allocation = live.and_then(|id| self.allocations.get_mut(id));
        let own = allocation.filter(|allocation| allocation.session.is_same_login(session));
        let (admitted, refusal, reason) = match own {
            Some(allocation) => {
                let admitted = allocation.owner.admit(now, limits);
                (admitted, Refusal::AllocationRate, DropReason::AllocationRate)
            }
            None => {
                let admitted = self.shared.limiters.admit_user(now, &session.user, limits);
                (admitted, Refusal::UserRate, DropReason::UserRate)
            }
        };
        if admitted {
            return Ok(());
        }
        let username = Some(Arc::clone(&session.username));
        self.report(&client.five_tuple, username, live, method, refusal);
        Err(Verdict::Drop(reason))
    }

    fn authenticate(&mut self, request: &Request<'_>) -> Result<Arc<Session>, AuthError> {
        let &Request {
            now,
            client,
            message,
            method,
            live,
        } = request;
        let live = live.and_then(|id| self.allocations.get_mut(id)).map(|allocation| Live {
            session: &allocation.session,
            owner: &mut allocation.owner,
        });
        let mut authenticator = Authenticator {
            config: &self.config,
            nonces: &mut self.nonces,
            limiters: &self.shared.limiters,
            now,
            client: &client.five_tuple,
            message,
            live,
        };
        authenticator.authenticate(method == Method::Allocate)
    }

    /// Performs an authenticated request.
    fn perform(&mut self, request: &Authenticated<'_>) -> Result<RequestOutcome, Refusal> {
        let session = request.session();
        let Request {
            now,
            client,
            message,
            method,
            live,
        } = request.request();
        // RFC 8489 §6.3.1: after authentication, before the method's own checks.
        let unknown = message.unknown_required();
        if !unknown.is_empty() {
            return Err(Refusal::UnknownAttributes { types: unknown });
        }
        let revoked = self.shared.revocations.of(now.unix, &session.username, &session.user);
        if let Some(until) = revoked {
            let left = Duration::from_secs(until.0.saturating_sub(now.unix.0));
            return Err(Refusal::CredentialRevoked { left });
        }
        if method == Method::Allocate {
            return self.allocate(request);
        }
        if method == Method::Refresh
            && let Some(ticket) = message.attribute(AttributeType::MOBILITY_TICKET)
        {
            return self.resume(request, ticket);
        }
        if let Some(outcome) = self.hold_request(client, session, message.bytes()) {
            return Ok(outcome);
        }
        // RFC 8656 §5: the allocation exists, and it belongs to this user.
        let id = live.ok_or(Refusal::NoAllocation)?;
        let allocation = self
            .allocations
            .get_mut(id)
            .filter(|allocation| allocation.opening.is_none());
        let allocation = allocation.ok_or(Refusal::NoAllocation)?;
        if !allocation.session.is_same_login(session) {
            return Err(Refusal::WrongUser);
        }
        if method == Method::Refresh {
            return self.refresh(request, id);
        }
        let rate = Rate::per_second(self.config.limits.permission_requests_per_second);
        if !allocation.requests.admit(now.mono, rate) {
            // The client repeats the request a little later; an error would make it give up the
            // peer.
            return Ok(RequestOutcome::Silent(DropReason::PermissionLimited));
        }
        match method {
            Method::CreatePermission => self.create_permission(request, id),
            Method::Connect => self.connect(request, id),
            // Channels carry datagrams.
            _ if allocation.tcp.is_some() => Err(Refusal::BadRequest),
            _ => self.channel_bind(request, id),
        }
    }

    /// Reports the refusal of a request by `session`, and answers it. `live` is the allocation that
    /// it concerns.
    pub(super) fn refuse(
        &mut self,
        client: &Client,
        live: Option<AllocationId>,
        session: &Session,
        reply: &Reply<'_>,
        refusal: Refusal,
        response: &mut Response,
    ) -> Verdict {
        let verdict = self.answer_error(reply, &refusal, response);
        let username = Some(Arc::clone(&session.username));
        self.report(&client.five_tuple, username, live, reply.method, refusal);
        verdict
    }

    /// Writes an error response and counts it.
    pub(super) fn answer_error(&self, reply: &Reply<'_>, refusal: &Refusal, response: &mut Response) -> Verdict {
        let written = response.error(reply, refusal);
        self.answered(written, refusal.code())
    }

    /// As [`Self::answer_error`], with what a client needs to try again.
    fn answer_challenge(&self, reply: &Reply<'_>, challenge: &ChallengeResponse, response: &mut Response) -> Verdict {
        let written = response.challenge(reply, challenge);
        self.answered(written, challenge.code())
    }

    fn answered(&self, written: bool, code: u16) -> Verdict {
        if !written {
            return Verdict::Drop(DropReason::ShortRequest);
        }
        self.counters.error_response(code);
        Verdict::Respond
    }

    /// A peer was granted to an allocation: from now on, refused candidates are routine for ICE.
    pub(super) fn peer_granted(&mut self, id: AllocationId) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.judged_a_peer = true;
        }
    }

    pub(super) fn count_request(&self, method: Method) {
        let index = match method {
            Method::Binding => 0,
            Method::Allocate => 1,
            Method::Refresh => 2,
            Method::CreatePermission => 3,
            Method::Connect => 5,
            Method::ConnectionBind => 6,
            _ => 4,
        };
        self.counters.requests[index].add(1);
    }
}

const _: () = assert!(METHODS.len() == 7, "count_request knows every method by its place");

/// An IPv4-mapped IPv6 address. No legitimate peer has one; it is an attempt to bypass a rule.
pub(super) fn is_mapped(peer: &SocketAddr) -> bool {
    matches!(peer, SocketAddr::V6(peer) if peer.ip().to_ipv4_mapped().is_some())
}

/// LIFETIME in whole seconds, never more than the remaining time.
pub(super) fn whole_seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}
