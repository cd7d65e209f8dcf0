//! FINGERPRINT: a CRC-32 that distinguishes STUN from other protocols on one port (RFC 8489 §14.7).
//! It is no protection.

/// Length of the attribute's value.
pub const LEN: usize = 4;

const XOR: u32 = 0x5354_554E;

/// The FINGERPRINT of a message up to that attribute. The length in the header must already include
/// the attribute.
pub fn compute(message_before: &[u8]) -> u32 {
    crc32fast::hash(message_before) ^ XOR
}
