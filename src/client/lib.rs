//! A TURN client over UDP, TCP and TLS for programs that query a server. Today that is `relay
//! bench`.
//!
//! Requests are synchronous: [`TurnClient::allocate`] and its neighbours send one, answer a
//! challenge, and return when the success response arrives or [`ClientSettings::timeout`] passes.
//! Between requests the caller owns the socket ([`TurnClient::socket`]) and moves application data,
//! in batches if it must be fast.
//!
//! ```no_run
//! use core::time::Duration;
//! use relay_client::{ClientLink, ClientSettings, TurnClient};
//! use relay_proto::turn::login::credential::MintedCredential;
//!
//! # fn main() -> Result<(), relay_client::ClientError> {
//! let settings = ClientSettings {
//!     server: ([192, 0, 2, 1], 3478).into(),
//!     local: [192, 0, 2, 7].into(),
//!     link: ClientLink::Tcp,
//!     receive_buffer: None,
//!     timeout: Duration::from_secs(8),
//! };
//! let login = MintedCredential { username: "alice".to_owned(), password: "correct horse".to_owned() };
//! let mut client = TurnClient::connect(&settings, login)?;
//! let relayed = client.allocate()?;
//! client.channel_bind(0x4000, ([192, 0, 2, 9], 5000).into())?;
//! client.release()
//! # }
//! ```
//!
//! It has no DTLS, no IPv6 peers of an IPv4 server, and no timers for renewal: the caller decides
//! when to call [`TurnClient::renew`].

mod any_certificate;
mod error;
mod settings;
mod socket;
mod stream;
mod turn_client;

pub use self::any_certificate::accept_any_certificate;
pub use self::error::{ClientError, ServerRefusal};
pub use self::settings::{ClientLink, ClientSettings};
pub use self::socket::ClientSocket;
pub use self::stream::ClientStream;
pub use self::turn_client::TurnClient;
