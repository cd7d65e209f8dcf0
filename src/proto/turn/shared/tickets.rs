//! MOBILITY-TICKET (RFC 8016 §3.1, §5): what a client presents to recover its allocation.
//!
//! ```text
//! ticket = base64url( name, 96 random bits | tag, 96 bits )
//! tag = HMAC-SHA256(key of this process, "m1" | name)
//! ```
//!
//! It is text of at most 32 characters, because coturn's client stores tickets as C strings in a
//! buffer of that size. 24 bytes are the most that fit, and they fill the last character, so a
//! ticket has only one text form.
//!
//! A ticket contains no state, so nothing in it needs encryption: its name is looked up. The tag is
//! checked before any shared state is used. A ticket is useless without the login of the
//! allocation's owner.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::Mac as _;
use zeroize::Zeroizing;

use crate::base::lock::lock;
use crate::base::rng::Rng;
use crate::turn::login::nonce::mac;
use crate::turn::types::AllocationId;

/// The name of an allocation in a ticket.
pub(in crate::turn) type TicketName = [u8; 12];

/// Length of name and tag, before base64 and after.
const RAW_LEN: usize = 24;
pub(in crate::turn) const TICKET_LEN: usize = 32;

/// Where the allocation of a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::turn) struct Home {
    pub(in crate::turn) shard: usize,
    pub(in crate::turn) id: AllocationId,
    /// It has left for this shard and has not arrived yet.
    pub(in crate::turn) moving_to: Option<usize>,
}

/// The tickets of all shards, because a client may present one to any of them. Only requests with
/// MOBILITY-TICKET, and the end of allocations that have one, use it.
pub(in crate::turn) struct Tickets {
    key: Zeroizing<[u8; 32]>,
    by_name: Mutex<BTreeMap<TicketName, Home>>,
}

impl Tickets {
    pub(in crate::turn) fn new(rng: &mut Rng) -> Self {
        Self {
            key: Zeroizing::new(rng.array()),
            by_name: Mutex::default(),
        }
    }

    /// The key that signs tickets.
    pub(super) fn key(&self) -> Zeroizing<[u8; 32]> {
        self.key.clone()
    }

    /// Replaces the key: from now on only tickets signed with this key are valid.
    pub(super) fn set_key(&mut self, key: Zeroizing<[u8; 32]>) {
        self.key = key;
    }

    /// The attribute's value.
    pub(in crate::turn) fn text(&self, name: &TicketName) -> [u8; TICKET_LEN] {
        let mut raw = [0; RAW_LEN];
        let (first, tag) = raw.split_at_mut(name.len());
        first.copy_from_slice(name);
        let full = self.tag(name).finalize().into_bytes();
        tag.copy_from_slice(&full[..RAW_LEN - name.len()]);
        let mut text = [0; TICKET_LEN];
        // 24 bytes make 32 characters, so this cannot fail.
        let written = BASE64_URL_SAFE_NO_PAD.encode_slice(raw, &mut text);
        debug_assert_eq!(written, Ok(TICKET_LEN));
        text
    }

    /// The name in an attribute's value; `None` if this process did not issue it.
    pub(in crate::turn) fn read(&self, text: &[u8]) -> Option<TicketName> {
        let text: &[u8; TICKET_LEN] = text.try_into().ok()?;
        let mut raw = [0; RAW_LEN];
        // 32 characters make 24 bytes, so only an invalid character can still fail.
        BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut raw).ok()?;
        let (name, tag) = raw.split_first_chunk()?;
        self.tag(name).verify_truncated_left(tag).ok().map(|()| *name)
    }

    /// Where the allocation with this ticket is, if it exists.
    pub(in crate::turn) fn find(&self, name: &TicketName) -> Option<Home> {
        lock(&self.by_name).get(name).copied()
    }

    /// Makes `name` a ticket of this allocation on this shard.
    pub(in crate::turn) fn set(&self, name: TicketName, shard: usize, id: AllocationId) {
        let home = Home {
            shard,
            id,
            moving_to: None,
        };
        lock(&self.by_name).insert(name, home);
    }

    /// Records that an allocation is on its way to `shard`.
    pub(in crate::turn) fn move_to(&self, name: &TicketName, shard: usize) {
        if let Some(home) = lock(&self.by_name).get_mut(name) {
            home.moving_to = Some(shard);
        }
    }

    /// Invalidates a ticket.
    pub(in crate::turn) fn remove(&self, name: &TicketName) {
        lock(&self.by_name).remove(name);
    }

    fn tag(&self, name: &TicketName) -> hmac::Hmac<sha2::Sha256> {
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
        let name = [7; 12];
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

    //= MOB-02
    #[test]
    fn a_ticket_is_text_that_fits_the_buffer_of_coturns_client() {
        let mut rng = Rng::new([1; 32]);
        let tickets = Tickets::new(&mut rng);
        let edges = [[0; 12], [0xff; 12], [0xfb; 12]];
        for name in (0..1000).map(|_| rng.array()).chain(edges) {
            let text = tickets.text(&name);
            assert!(text.len() <= 32);
            assert!(
                text.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)),
                "{text:?}"
            );
            assert_eq!(tickets.read(&text), Some(name));
        }
    }
}
