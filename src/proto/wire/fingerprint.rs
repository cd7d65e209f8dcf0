//! FINGERPRINT: a CRC-32 that tells STUN from other protocols on one port (RFC 8489 §14.7). It protects nothing.

/// Length of the attribute's value.
pub const LEN: usize = 4;

const XOR: u32 = 0x5354_554E;

/// FINGERPRINT of a message up to the attribute; its header length must already count the attribute.
pub fn compute(message_before: &[u8]) -> u32 {
    crc32fast::hash(message_before) ^ XOR
}
