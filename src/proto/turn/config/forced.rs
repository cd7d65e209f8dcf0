//! Forced relay: a policy that binds logins to some of the server's listeners, as a rule those on port 443.
//!
//! The policy travels in the login: `+forced` in a time-limited username, a mark of a static user, or the word of the
//! configuration that it holds for everyone. Which listeners are meant is a matter of the five-tuple alone.

use crate::base::address::{FiveTuple, Transport};
use crate::turn::types::Path;

/// The policy. The default binds nobody who is not marked, and means port 443 over every transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedRelay {
    /// Every login is bound, not only those that say so.
    pub everyone: bool,
    /// Server ports of the forced path, as bound here.
    pub ports: Vec<u16>,
    /// Whether a transport of these ports belongs to it, by [`Transport`].
    pub transports: [bool; Transport::ALL.len()],
    /// Whether plain Binding requests are answered there; `Config::binding` stands above.
    pub binding: bool,
}

impl Default for ForcedRelay {
    fn default() -> Self {
        Self {
            everyone: false,
            ports: vec![443],
            transports: [true; Transport::ALL.len()],
            binding: true,
        }
    }
}

impl ForcedRelay {
    /// The path of a five-tuple.
    pub fn path(&self, client: &FiveTuple) -> Path {
        if self.transports[client.transport as usize] && self.ports.contains(&client.server.port()) {
            Path::Forced
        } else {
            Path::Other
        }
    }
}
