//! Bytes to values and back: STUN messages (RFC 8489), their TURN attributes (RFC 8656), ChannelData, integrity,
//! FINGERPRINT, and framing on byte streams.
//!
//! Everything borrows the caller's bytes: parsing, verifying and writing allocate nothing, and no input panics.
//! Deliberately absent: state, time, and every judgement that needs either. Whether a message is *allowed* is for
//! [`crate::turn`] to say.

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

pub mod address;
pub mod attribute;
pub mod channel_data;
pub mod demux;
pub mod error_code;
pub mod fingerprint;
pub mod framing;
pub mod integrity;
pub mod message;
pub mod opaque_string;
pub mod writer;
