//! MOBILITY-TICKET (RFC 8016 §3.1, §5): what a client shows to be given its allocation again.
//!
//! ```text
//! ticket = name, 128 random bits | tag, 128 bits
//! tag = HMAC-SHA256(key of this process, "m1" | name)
//! ```
//!
//! A ticket holds no state, so there is nothing in it to encrypt: its name is looked up. The tag is checked before anything
//! shared is touched. It is of no use without the login of the allocation's owner.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hmac::Mac as _;

use crate::turn::nonce::mac;
use crate::turn::rng::Rng;
use crate::turn::shared::lock;
use crate::turn::types::AllocationId;

/// What a ticket names its allocation by.
pub(in crate::turn) type Name = [u8; 16];

/// Bytes of a MOBILITY-TICKET of ours.
pub(in crate::turn) const TICKET_LEN: usize = 32;

/// Where the allocation behind a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) shard: usize,
    pub(super) id: AllocationId,
    /// It has left there for this shard, and has not arrived yet.
    pub(super) moving_to: Option<usize>,
}

/// The tickets of all shards: a client may come with one to any of them. Touched by requests with MOBILITY-TICKET and by
/// the end of allocations that have one.
pub(in crate::turn) struct Tickets {
    key: [u8; 32],
    by_name: Mutex<BTreeMap<Name, Home>>,
}

impl Tickets {
    pub(in crate::turn) fn new(rng: &mut Rng) -> Self {
        Self {
            key: rng.array(),
            by_name: Mutex::default(),
        }
    }

    /// The attribute's value.
    pub(in crate::turn) fn text(&self, name: &Name) -> [u8; TICKET_LEN] {
        let mut text = [0; TICKET_LEN];
        let (first, tag) = text.split_at_mut(name.len());
        first.copy_from_slice(name);
        let full = self.tag(name).finalize().into_bytes();
        tag.copy_from_slice(&full[..TICKET_LEN - name.len()]);
        text
    }

    /// The name in an attribute's value; `None` if we never wrote it.
    pub(super) fn read(&self, text: &[u8]) -> Option<Name> {
        let (name, tag) = text.split_first_chunk()?;
        if text.len() != TICKET_LEN {
            return None;
        }
        self.tag(name).verify_truncated_left(tag).ok().map(|()| *name)
    }

    /// Where the allocation with this ticket is, if there is one.
    pub(super) fn find(&self, name: &Name) -> Option<Home> {
        lock(&self.by_name).get(name).copied()
    }

    /// From now on `name` stands for this allocation at this shard.
    pub(in crate::turn) fn set(&self, name: Name, shard: usize, id: AllocationId) {
        let home = Home {
            shard,
            id,
            moving_to: None,
        };
        lock(&self.by_name).insert(name, home);
    }

    /// Notes that an allocation is on its way.
    pub(super) fn move_to(&self, name: &Name, shard: usize) {
        if let Some(home) = lock(&self.by_name).get_mut(name) {
            home.moving_to = Some(shard);
        }
    }

    /// A ticket is good for nothing any more.
    pub(in crate::turn) fn remove(&self, name: &Name) {
        lock(&self.by_name).remove(name);
    }

    fn tag(&self, name: &Name) -> hmac::Hmac<sha2::Sha256> {
        mac(&self.key).chain_update(b"m1").chain_update(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= MOB-02
    #[test]
    fn a_ticket_is_what_we_wrote_and_nothing_else() {
        let tickets = Tickets::new(&mut Rng::new([1; 32]));
        let name = [7; 16];
        let text = tickets.text(&name);
        assert_eq!(tickets.read(&text), Some(name));
        for (at, bit) in (0..TICKET_LEN).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = text;
            changed[at] ^= 1 << bit;
            assert_eq!(tickets.read(&changed), None, "{at} {bit}");
        }
        for len in 0..TICKET_LEN {
            assert_eq!(tickets.read(&text[..len]), None, "{len}");
        }
        assert_eq!(tickets.read(&[&text[..], &[0]].concat()), None);
        let others = Tickets::new(&mut Rng::new([2; 32]));
        assert_eq!(others.read(&text), None, "another process has another key");
    }
}
