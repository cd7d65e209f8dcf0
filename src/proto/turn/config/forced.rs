//! Forced relay: a policy that restricts logins to some of the server's listeners, usually those on
//! port 443.
//!
//! The login carries the policy: `+forced` in a time-limited username, a flag of a static user, or
//! the configuration for everyone. The five-tuple alone decides whether a listener belongs to the
//! forced path.

use crate::base::address::{FiveTuple, Transport};
use crate::turn::types::Path;

/// The policy. The default restricts only marked logins, to port 443 over every transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedRelay {
    /// Restricts every login, not only the marked ones.
    pub everyone: bool,
    /// Server ports of the forced path, as bound locally.
    pub ports: Vec<u16>,
    /// Whether each transport on these ports belongs to the forced path, indexed by [`Transport`].
    pub transports: [bool; Transport::ALL.len()],
    /// Whether the server answers plain Binding requests there. `Config::binding` takes precedence.
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
