//! One allocation in the forward table: small sorted arrays that only the table writes.

use ipnet::IpNet;

use super::address::PeerIp;
use crate::base::address::Family;
use crate::base::time::Instant;
use crate::turn::output::{DropReason, Traffic, Verdict};
use crate::turn::policy::{PeerClass, PeerPolicy};
use crate::turn::types::{AllocationId, Client, Path, PeerAddr, RelayedAddr};

/// The deadline of something that does not exist: always in the past.
pub(super) const CLOSED: Instant = Instant::ZERO;

/// Arrays grow by this many entries, because most allocations have very few peers.
pub(super) const STEP: usize = 4;

/// One allocation.
#[derive(Debug)]
pub(in crate::turn) struct Flow {
    pub(super) id: AllocationId,
    pub(super) client: Client,
    /// The client is disconnected, and the allocation waits for it to return (RFC 8016).
    pub(super) away: bool,
    /// The client's path, under which its traffic counts.
    pub(super) path: Path,
    pub(super) relayed: [Option<RelayedAddr>; 2],
    /// Expiry of each relayed transport address; [`CLOSED`] before it is bound and after it is
    /// closed.
    pub(super) until: [Instant; 2],
    pub(super) traffic: Traffic,
    /// Sorted by number.
    pub(super) channels: Vec<Channel>,
    /// Indices into `channels`, sorted by peer.
    pub(super) by_peer: Vec<u16>,
    /// Sorted by address.
    pub(super) permissions: Vec<Permission>,
}

/// A channel binding (§12), with all that a packet in either direction needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) ip: PeerIp,
    pub(super) port: u16,
    pub(super) number: u16,
    pub(super) checked: Checked,
    /// Expiry of the binding, the only deadline of client to peer.
    pub(super) until: Instant,
    /// Expiry of the permission for `ip`, which peer to client also requires.
    pub(super) permitted_until: Instant,
}

/// A permission (§9).
#[derive(Clone, Copy, Debug)]
pub(super) struct Permission {
    pub(super) ip: PeerIp,
    pub(super) until: Instant,
    /// The port that `checked` applies to: the last one used.
    pub(super) port: u16,
    pub(super) checked: Checked,
}

/// A cached verdict of the peer policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub(super) epoch: u32,
    pub(super) class: Option<PeerClass>,
}

impl Flow {
    /// The client, or the last one if it is away.
    pub(in crate::turn) const fn client(&self) -> &Client {
        &self.client
    }

    /// Whether that client is disconnected.
    pub(in crate::turn) const fn is_away(&self) -> bool {
        self.away
    }

    /// The listeners that the client uses.
    pub(in crate::turn) const fn path(&self) -> Path {
        self.path
    }

    /// What it has relayed.
    pub(in crate::turn) const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How many permissions and channels are live.
    pub(in crate::turn) fn live_routes(&self, now: Instant) -> (usize, usize) {
        let permissions = self.permissions.iter().filter(|it| self.is_live(now, it.ip, it.until));
        let channels = self.channels.iter().filter(|it| self.is_live(now, it.ip, it.until));
        (permissions.count(), channels.count())
    }

    /// Whether a live permission or channel leads to `net`.
    pub(in crate::turn) fn has_peer_in(&self, now: Instant, net: &IpNet) -> bool {
        let permissions = self.permissions.iter().map(|it| (it.ip, it.until));
        let mut peers = permissions.chain(self.channels.iter().map(|it| (it.ip, it.until)));
        peers.any(|(ip, until)| self.is_live(now, ip, until) && net.contains(&ip.with_port(0).ip()))
    }

    /// Whether what leads to `ip` until then is live.
    pub(super) fn is_live(&self, now: Instant, ip: PeerIp, until: Instant) -> bool {
        until > now && self.until[ip.family() as usize] > now
    }

    /// 0 where there is none.
    pub(super) fn relayed_port(&self, family: Family) -> u16 {
        self.relayed[family as usize].map_or(0, |relayed| relayed.0.port())
    }

    /// The drop of a packet: for `reason`, or because the whole allocation has expired and not been
    /// swept yet.
    pub(super) fn nothing(&self, now: Instant, reason: DropReason) -> Verdict {
        let expired = self.until.iter().all(|&until| until <= now);
        Verdict::Drop(if expired { DropReason::NoAllocation } else { reason })
    }

    /// DONT-FRAGMENT does not apply to a packet that changes its IP version on the way (RFC 8656
    /// §13).
    pub(super) fn keeps_family(&self, family: Family) -> bool {
        let five_tuple = &self.client.five_tuple;
        five_tuple.transport.is_stream() || Family::of(five_tuple.client.ip()) == family
    }

    pub(super) fn position_of(&self, number: u16) -> Option<usize> {
        // Clients number their channels from 0x4000 upwards, so this guess is nearly always right.
        let guess = usize::from(number.wrapping_sub(0x4000));
        if self.channels.get(guess).is_some_and(|channel| channel.number == number) {
            return Some(guess);
        }
        self.channels
            .binary_search_by_key(&number, |channel| channel.number)
            .ok()
    }

    pub(super) fn channel_of(&mut self, ip: PeerIp, port: u16) -> Option<&mut Channel> {
        let at = self.peer_position(ip, port).ok()?;
        self.channels.get_mut(usize::from(self.by_peer[at]))
    }

    pub(super) fn peer_position(&self, ip: PeerIp, port: u16) -> Result<usize, usize> {
        self.by_peer.binary_search_by_key(&(ip, port), |&index| {
            let channel = &self.channels[usize::from(index)];
            (channel.ip, channel.port)
        })
    }

    pub(super) fn permission(&mut self, ip: PeerIp) -> Option<&mut Permission> {
        let at = self.position_of_permission(ip).ok()?;
        self.permissions.get_mut(at)
    }

    pub(super) fn position_of_permission(&self, ip: PeerIp) -> Result<usize, usize> {
        self.permissions.binary_search_by_key(&ip, |permission| permission.ip)
    }

    /// Sets the deadline of a permission, in the permission itself and in the channels that it
    /// covers.
    pub(super) fn permit(&mut self, ip: PeerIp, until: Instant) {
        match self.position_of_permission(ip) {
            Ok(at) => self.permissions[at].until = until,
            Err(at) => {
                make_room(&mut self.permissions);
                self.permissions.insert(
                    at,
                    Permission {
                        ip,
                        until,
                        port: 0,
                        checked: Checked::NEVER,
                    },
                );
            }
        }
        let from = self.peer_position(ip, 0).unwrap_or_else(|at| at);
        for &index in &self.by_peer[from..] {
            let channel = &mut self.channels[usize::from(index)];
            if channel.ip != ip {
                break;
            }
            channel.permitted_until = until;
        }
    }

    /// Adds a channel whose number and peer are free.
    pub(super) fn add_channel(&mut self, channel: Channel) {
        let at = self.channels.partition_point(|other| other.number < channel.number);
        let by_peer = self.peer_position(channel.ip, channel.port).unwrap_or_else(|at| at);
        for index in &mut self.by_peer {
            *index += u16::from(usize::from(*index) >= at);
        }
        make_room(&mut self.channels);
        self.channels.insert(at, channel);
        make_room(&mut self.by_peer);
        self.by_peer.insert(by_peer, at as u16);
    }

    pub(super) fn retain_channels(&mut self, keep: impl Fn(&Channel) -> bool) {
        if self.channels.iter().all(&keep) {
            return;
        }
        self.channels.retain(&keep);
        self.by_peer.clear();
        self.by_peer.extend(0..self.channels.len() as u16);
        let channels = &self.channels;
        self.by_peer.sort_unstable_by_key(|&index| {
            let channel = &channels[usize::from(index)];
            (channel.ip, channel.port)
        });
    }
}

impl Permission {
    /// The policy's verdict on `peer`, whose IP address is that of this permission.
    pub(super) fn class(&mut self, policy: &PeerPolicy, epoch: u32, peer: PeerAddr) -> Option<PeerClass> {
        if self.port != peer.0.port() {
            self.port = peer.0.port();
            self.checked = Checked::NEVER;
        }
        self.checked.class(policy, epoch, peer)
    }
}

impl Checked {
    /// Matches no policy.
    pub(super) const NEVER: Self = Self {
        epoch: u32::MAX,
        class: None,
    };

    pub(super) fn class(&mut self, policy: &PeerPolicy, epoch: u32, peer: PeerAddr) -> Option<PeerClass> {
        if self.epoch != epoch {
            self.check(policy, epoch, peer);
        }
        self.class
    }

    #[cold]
    pub(super) fn check(&mut self, policy: &PeerPolicy, epoch: u32, peer: PeerAddr) {
        *self = Self {
            epoch,
            class: policy.peer(peer).ok(),
        };
    }
}

/// Grows in small steps while small. Doubling from four would waste most of the memory.
pub(super) fn make_room<T>(array: &mut Vec<T>) {
    if array.len() == array.capacity() {
        array.reserve_exact(STEP.max(array.len() / 2));
    }
}
