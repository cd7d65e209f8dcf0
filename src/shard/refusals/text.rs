//! What an operator reads about a refusal: why, and what to do about it.

use core::fmt;
use core::time::Duration;
use std::net::SocketAddr;

use super::super::log::LogClient;
use crate::base::address::Family;
use crate::turn::Refusal;
use crate::turn::policy::Denied;

/// A credential that ended longer ago than this never was one.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A refusal in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    /// What is the case, with the facts.
    pub(super) why: String,
    /// What to look at, or to change.
    pub(super) help: &'static str,
}

/// Explains `refusal`; `show` says how much of an address may be seen.
pub(super) fn explain(refusal: &Refusal, show: LogClient) -> Explanation {
    let (why, help) = login(refusal)
        .or_else(|| allocation(refusal))
        .unwrap_or_else(|| about_peer(refusal, show));
    Explanation { why, help }
}

fn login(refusal: &Refusal) -> Option<(String, &'static str)> {
    let fixed = |why: &str, help| (why.to_owned(), help);
    Some(match *refusal {
        Refusal::CredentialExpired { ago } if ago > NEVER => (
            format!("credential expired {} ago", Span(ago)),
            "the username begins with the Unix time at which the credential ends, not with its lifetime",
        ),
        Refusal::CredentialExpired { ago } => (
            format!("credential expired {} ago", Span(ago)),
            "the application caches it, or a clock is wrong",
        ),
        Refusal::ExpiryTooFar { beyond } => (
            format!("credential ends {} later than it may", Span(beyond)),
            "mint for a shorter time or raise credentials.max_ttl; or a clock is wrong",
        ),
        Refusal::CredentialRevoked { left } => (
            format!("the user is revoked for {}", Span(left)),
            "an operator did that with `relay revoke`; mint a credential that expires later, or `relay revoke --undo`",
        ),
        Refusal::ExpiryMilliseconds { digits } => (
            format!("the time in the username has {digits} digits: milliseconds?"),
            "the username begins with the Unix time in seconds",
        ),
        Refusal::UsernameReversed => fixed(
            "username is `id:expiry`, expected `expiry:id`",
            "swap the two in whatever mints the credential",
        ),
        Refusal::UsernameMalformed => fixed(
            "username begins like a time and is not `expiry:id`",
            "whole seconds of Unix time, a colon, and a user id that is not too long and has no control characters",
        ),
        Refusal::WrongPassword { secrets: 0 } => fixed(
            "username is time-limited, and this server has no secret",
            "set credentials.secret_file to the secret of whatever mints the credential",
        ),
        Refusal::WrongPassword { secrets: 1 } => fixed("password does not match the secret", OTHER_SECRET),
        Refusal::WrongPassword { secrets } => (format!("password matches none of {secrets} secrets"), OTHER_SECRET),
        Refusal::WrongStaticPassword => fixed(
            "wrong password of a user in credentials.users",
            "compare it with the client's; somebody may be guessing",
        ),
        Refusal::UnknownUser => fixed(
            "no such user, and not a time-limited username either",
            "expected `expiry:id`, or a name in credentials.users",
        ),
        Refusal::WrongRealm => fixed(
            "signed for another realm",
            "the client must use the realm of the challenge; does it have the realm of another server built in?",
        ),
        Refusal::LoginLimited => fixed(
            "too many failed logins from this address: further ones are not looked at",
            "see the lines before; limits.login_failures_per_second for many users behind one address",
        ),
        Refusal::AlgorithmsChanged => fixed(
            "the offer of password algorithms came back changed",
            "a client that mixes up PASSWORD-ALGORITHMS, or somebody on the way",
        ),
        _ => return None,
    })
}

const OTHER_SECRET: &str =
    "whatever mints it has another secret: compare the bytes with credentials.secrets and secret_file, none decoded";

fn allocation(refusal: &Refusal) -> Option<(String, &'static str)> {
    Some(match *refusal {
        Refusal::ForcedPath { port } => (
            format!("forced login on port {port}"),
            "hand the client the URIs minted with the credential; or forced_relay.ports lacks this port",
        ),
        Refusal::UserQuota { held, limit } => (
            format!("user has {held} of {limit} allocations"),
            "limits.allocations_per_user; or everybody is given the same user id",
        ),
        Refusal::AddressQuota { held, limit } => (
            format!("address has {held} of {limit} allocations"),
            "limits.allocations_per_ip: many users behind one address, or a proxy without PROXY header",
        ),
        Refusal::NetworkQuota { held, limit } => (
            format!("the network of the address has {held} of {limit} allocations"),
            "limits.allocations_per_network: a large site, or a carrier's NAT",
        ),
        Refusal::TotalLimit { limit } => (
            format!("the server has {limit} of {limit} allocations"),
            "limits.allocations",
        ),
        Refusal::ReservationQuota { limit } => (
            format!("user has {limit} of {limit} reserved ports"),
            "limits.reservations_per_user",
        ),
        Refusal::NoFreePort { family, even, ports } => (
            format!(
                "no free {}relay port for {}: there are {ports}",
                if even { "even " } else { "" },
                match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                }
            ),
            "more ports in relay.ports",
        ),
        _ => {
            return plain(refusal)
                .or_else(|| within(refusal))
                .map(|(why, help)| (why.to_owned(), help));
        }
    })
}

/// Refusals of Allocate requests that carry no facts.
fn plain(refusal: &Refusal) -> Option<(&'static str, &'static str)> {
    Some(match refusal {
        Refusal::BadRequest => (
            "an attribute is missing, malformed, or not allowed beside another",
            "the client's fault",
        ),
        Refusal::UnknownAttributes { .. } => (
            "the request has attributes this server must understand and does not",
            "the client wants an extension that is off here or unknown",
        ),
        Refusal::ClientDenied { .. } => ("client comes from 6to4 or Teredo", "RFC 8656 forbids it"),
        Refusal::ClientIsRelayed => (
            "client comes from a relayed address of this server",
            "it would make a loop",
        ),
        Refusal::Redirected { .. } => (
            "another server takes new clients",
            "turn.redirect is set, or an operator drains this server",
        ),
        Refusal::Draining => (
            "the server takes no new clients",
            "an operator drains it; `relay undrain` ends that",
        ),
        Refusal::TransportNotSupported { .. } => (
            "an allocation of this transport is not served",
            "turn.tcp_allocations.enabled for TCP (RFC 6062)",
        ),
        Refusal::FamilyNotSupported => (
            "no relayed addresses of this IP version",
            "external.ipv4 and external.ipv6 say which are served",
        ),
        Refusal::MobilityForbidden => (
            "mobility is off, or not for TCP allocations",
            "turn.mobility.enabled (RFC 8016)",
        ),
        Refusal::PortsInUse => (
            "other programs have the relay ports that were tried",
            "keep relay.ports and the ports of other programs, LiveKit's for one, apart",
        ),
        Refusal::NoDescriptor => (
            "no file descriptor or memory for a relay socket",
            "raise LimitNOFILE of the service, or lower limits.allocations",
        ),
        Refusal::SocketFailed => (
            "a relay socket could not be opened",
            "see the warning of relay::shard beside this line",
        ),
        Refusal::ReservationUnknown => (
            "no port is reserved for this token and user",
            "a token is good for 30 s, once, and for the user who got it",
        ),
        _ => return None,
    })
}

/// Refusals of requests within an allocation that carry no facts.
fn within(refusal: &Refusal) -> Option<(&'static str, &'static str)> {
    Some(match refusal {
        Refusal::AllocationExists => (
            "this client address and port has an allocation",
            "the client's fault, or two clients behind one NAT mapping",
        ),
        Refusal::NoAllocation => (
            "this client address and port has no allocation",
            "it has ended (see its last line), the server was restarted, or a NAT gave the client another port",
        ),
        Refusal::TicketUnknown => (
            "no allocation has this mobility ticket",
            "it has ended, or the server was restarted",
        ),
        Refusal::WrongUser => (
            "the allocation is another user's",
            "the client changed its username within one allocation",
        ),
        Refusal::FamilyMismatch { peer: None } => {
            ("the allocation has no address of this IP version", "the client's fault")
        }
        Refusal::ChannelConflict { .. } => (
            "the channel number is bound to another peer, or not a channel number",
            "turn.compat.rfc5766_channels for old clients",
        ),
        Refusal::PermissionsFull { .. } => ("the allocation has as many permissions as it may", "limits.permissions"),
        Refusal::ChannelsFull { .. } => (
            "the allocation has as many channels or permissions as it may",
            "limits.channels and limits.permissions",
        ),
        Refusal::PermissionLimited => (
            "too many permission requests of one allocation a second: not answered",
            "limits.permission_requests_per_second",
        ),
        Refusal::AllocationRate => (
            "too many requests of one allocation a second: not answered",
            "the client's fault, or somebody repeats its packets; limits.allocation_requests_per_second",
        ),
        Refusal::UserRate => (
            "too many requests of one user a second: not answered",
            "limits.user_requests_per_second, where very many clients share one name; or somebody abuses the credential",
        ),
        Refusal::ConnectionsFull => (
            "as many TCP connections with peers as there may be",
            "turn.tcp_allocations.connections and connections_per_allocation",
        ),
        Refusal::ConnectionUnknown => (
            "no TCP connection with a peer waits to be bound",
            "the client must bind it within 30 s, and once",
        ),
        _ => return None,
    })
}

fn about_peer(refusal: &Refusal, show: LogClient) -> (String, &'static str) {
    let peer = refusal.peer().map(|peer| shown_peer(refusal, peer, show));
    let peer = peer.unwrap_or_default();
    let (what, help) = match refusal {
        Refusal::PeerDenied { rule, .. } => denied(*rule),
        Refusal::PeerIsItself { .. } => ("is the allocation's own relayed address", "the client's fault"),
        Refusal::PeerPortDenied { .. } => (
            "has a port that TCP peers may not have",
            "turn.tcp_allocations.peer_ports",
        ),
        Refusal::FamilyMismatch { .. } => (
            "is of an IP version the allocation has no address of",
            "ICE tries such candidates in vain; if it is your SFU, serve both (external.ipv4, external.ipv6)",
        ),
        Refusal::ConnectionExists { .. } => ("has a connection with this allocation", "the client's fault"),
        Refusal::PeerUnreachable { .. } => ("cannot be reached, or does not answer", "is it listening there?"),
        _ => ("is refused", ""),
    };
    (format!("peer {peer} {what}"), help)
}

/// What a rule of the peer policy means. ICE has a client try each candidate of the other side, so
/// the first line of an allocation may be about a browser's own address; only a media server's is
/// worth opening.
const fn denied(rule: Denied) -> (&'static str, &'static str) {
    const ALLOW: &str =
        "add it to peers.allow if it is your SFU; a browser's own candidate is refused as a matter of course";
    const NEVER_OPEN: &str = "no setting opens it";
    match rule {
        Denied::Private => ("is private", ALLOW),
        Denied::Shared => ("is in the shared space of carriers (100.64.0.0/10)", ALLOW),
        Denied::OwnAddress => (
            "is an address of this machine, or of a server behind it",
            "if your SFU is there, add that one address to peers.allow (/32 or /128); a network does not open it",
        ),
        Denied::Loopback => (
            "is loopback",
            "have the SFU announce an address that others can reach; peers.allow opens it",
        ),
        Denied::LinkLocal => ("is link-local", ALLOW),
        Denied::OwnListener => (
            "is a socket of this server, or of one that clients are passed on or sent to",
            NEVER_OPEN,
        ),
        Denied::Unspecified => ("is no address of a host", "the other side announces 0.0.0.0 or ::"),
        Denied::Metadata => (
            "is a cloud provider's metadata service",
            "somebody may be looking for credentials; leave it closed",
        ),
        Denied::Multicast => ("is multicast", "the other side announces a wrong address"),
        Denied::Documentation => ("is for documentation or benchmarks", ALLOW),
        Denied::Reserved => ("is reserved", ALLOW),
        Denied::Embedded => (
            "has a refused IPv4 address inside, or is IPv4-mapped",
            "have the other side write the IPv4 address as such",
        ),
        Denied::Transition => ("is 6to4 or Teredo", NEVER_OPEN),
        Denied::Configured => ("is in peers.deny", "a longer prefix in peers.allow opens it"),
        Denied::NotAllowed => ("is not in peers.allow", "peers.only_allowed is set"),
        Denied::Port => (
            "has a port in peers.denied_ports",
            "its services answer strangers with more than they are sent",
        ),
    }
}

/// A peer may be another user's own address: then it is shown as clients' are. What the built-in
/// table denies is nobody's in particular, and the address is what the operator needs.
pub(super) fn shown_peer(refusal: &Refusal, peer: SocketAddr, show: LogClient) -> String {
    let anybodys = !matches!(
        refusal,
        Refusal::PeerDenied {
            rule: Denied::OwnListener
                | Denied::OwnAddress
                | Denied::Unspecified
                | Denied::Loopback
                | Denied::Private
                | Denied::Shared
                | Denied::LinkLocal
                | Denied::Metadata
                | Denied::Multicast
                | Denied::Documentation
                | Denied::Reserved,
            ..
        }
    );
    match (show, refusal) {
        (LogClient::Truncated | LogClient::Off, _) if anybodys => show.show(peer).to_string(),
        (
            _,
            Refusal::PeerDenied {
                rule: Denied::Port | Denied::OwnListener,
                ..
            }
            | Refusal::PeerPortDenied { .. },
        ) => peer.to_string(),
        // A permission is for an address, whatever port it names.
        _ => peer.ip().to_string(),
    }
}

/// A length of time in its two largest units.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [(31_536_000, "years"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
        let seconds = self.0.as_secs();
        let first = UNITS
            .iter()
            .position(|&(unit, _)| seconds >= unit)
            .unwrap_or(UNITS.len() - 1);
        let (unit, name) = UNITS[first];
        write!(f, "{} {name}", seconds / unit)?;
        match UNITS.get(first + 1) {
            // Whole years say enough.
            Some(&(next, name)) if first > 0 && seconds % unit >= next => {
                write!(f, " {} {name}", seconds % unit / next)
            }
            _ => Ok(()),
        }
    }
}
