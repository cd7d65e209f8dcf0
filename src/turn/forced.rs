//! Forced relay: a policy that binds logins to some of the server's listeners, as a rule those on port 443.
//!
//! The policy travels in the login: `+forced` in a time-limited username, a mark of a static user, or the word of the
//! configuration that it holds for everyone. Which listeners are meant is a matter of the five-tuple alone.

use super::auth::Session;
use super::refusal::Refusal;
use super::server::Server;
use super::types::Client;
use crate::base::address::{FiveTuple, Transport};

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

/// By which listeners a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Those a forced login is good on.
    Forced,
    /// All others.
    Other,
}

impl Path {
    /// Every path, in the order of the metric labels.
    pub const ALL: [Self; 2] = [Self::Forced, Self::Other];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Other => "other",
        }
    }
}

impl Server {
    /// A forced login is good on the forced path alone. RFC 8656 §7.4: 403 is for restrictions of the administrator's, and
    /// the client is not to try again here.
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

    /// The path a client has come by.
    pub(super) fn path(&self, client: &Client) -> Path {
        self.config.forced.path(&client.five_tuple)
    }
}
