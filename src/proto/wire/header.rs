//! What every STUN message begins with (RFC 8489 §5).

/// Bytes before the attributes.
pub const HEADER_LEN: usize = 20;

/// Bytes 4..8 of every STUN message.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Matches a response to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);
