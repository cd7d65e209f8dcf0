//! Bytes to values and back: STUN messages (RFC 8489), their TURN attributes (RFC 8656),
//! ChannelData, integrity, FINGERPRINT, and framing on byte streams.
//!
//! Everything borrows the caller's bytes: parsing, verifying and writing allocate nothing, and no
//! input panics.
//!
//! Deliberately absent: state, time, and every decision that needs either. [`crate::turn`] decides
//! whether a message is *allowed*.
//!
//! ```
//! use relay_proto::wire::attribute::{self, AttributeType};
//! use relay_proto::wire::integrity::{Integrity, Key, PasswordAlgorithm};
//! use relay_proto::wire::message::{Class, Message, Method, TransactionId};
//! use relay_proto::wire::writer::MessageWriter;
//!
//! let key = Key::long_term(b"alice", "example.org", b"wonderland", PasswordAlgorithm::Md5);
//! let mut buf = [0; 128];
//! let id = TransactionId([7; 12]);
//! let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Refresh, id);
//! writer.u32(AttributeType::LIFETIME, 600).integrity(&key, Integrity::Sha1);
//! writer.u32(AttributeType::LIFETIME, 3600); // after the integrity attribute: not trusted
//! let len = writer.finish().expect("it fits");
//!
//! let message = Message::parse(&buf[..len]).expect("it is whole");
//! assert!(message.verify(&key));
//! assert_eq!(message.decode(AttributeType::LIFETIME, attribute::lifetime), Ok(Some(600)));
//! assert_eq!(message.attributes_of(AttributeType::LIFETIME).count(), 1);
//! ```

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod address;
pub mod attribute;
pub mod channel_data;
pub mod classic;
pub mod demux;
pub mod error_code;
pub mod fingerprint;
pub mod framing;
pub mod header;
pub mod integrity;
pub mod message;
pub mod opaque_string;
pub mod quic;
pub mod writer;
