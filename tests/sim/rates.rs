//! Rate limits as seen from outside: unauthenticated senders get no more responses than configured,
//! and a client with few requests is never limited.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use relay_proto::base::time::Instant;
use relay_proto::turn::config::limits::Limits;
use relay_proto::wire::message::Method;

/// A client with more requests than this within [`SPAN`] may reach a limit: the lowest is 10 per
/// second.
const MANY: usize = 10;
const SPAN: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Recent requests and replies by source: an IPv4 address or an IPv6 /64.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    requests: BTreeMap<IpAddr, VecDeque<Instant>>,
    challenges: BTreeMap<IpAddr, VecDeque<Instant>>,
    bindings: BTreeMap<IpAddr, VecDeque<Instant>>,
}

impl Rates {
    pub(crate) fn request(&mut self, from: IpAddr, now: Instant) {
        note(&mut self.requests, from, now, SPAN);
    }

    pub(crate) fn is_many(&self, from: IpAddr) -> bool {
        self.requests.get(&source(from)).is_some_and(|times| times.len() > MANY)
    }

    /// An unsigned response over UDP.
    pub(crate) fn reply(&mut self, to: IpAddr, method: Method, now: Instant, limits: &Limits) {
        let (replies, most) = if method == Method::Binding {
            (&mut self.bindings, 2 * limits.bindings_per_second)
        } else {
            (
                &mut self.challenges,
                limits.challenge_burst + limits.challenges_per_second,
            )
        };
        let count = note(replies, to, now, SECOND);
        assert!(
            count <= most as usize,
            "{count} replies to strangers at {to} within a second, {most} at most"
        );
    }
}

/// Counts those within `span`.
fn note(times: &mut BTreeMap<IpAddr, VecDeque<Instant>>, from: IpAddr, now: Instant, span: Duration) -> usize {
    let times = times.entry(source(from)).or_default();
    while times.front().is_some_and(|&first| first + span <= now) {
        times.pop_front();
    }
    times.push_back(now);
    times.len()
}

fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}
