//! ChannelData messages (RFC 8656 §12.4): four bytes in front of application data.
//!
//! ```text
//!  0                   1                   2                   3
//! |         Channel Number        |            Length             |
//! |                       Application Data                        |
//! ```
//!
//! On streams the message is padded to four bytes, which Length does not count (§12.5); see
//! [`super::framing`].
//!
//! Deliberately absent: which channel numbers a client may use, because that depends on the
//! configuration.

use core::ops::Range;

/// Bytes in front of the application data.
pub const HEADER_LEN: usize = 4;

/// Why bytes are not a ChannelData message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelDataError {
    /// The channel number is outside 0x4000..=0x7FFF.
    NotChannelData,
    /// Fewer bytes than the header announces.
    Short,
}

/// Splits a ChannelData message into its channel number and the range of its application data.
/// Bytes after the data (padding, and on UDP any trailing bytes) are ignored (§12.6).
///
/// # Errors
/// See [`ChannelDataError`].
pub fn parse(bytes: &[u8]) -> Result<(u16, Range<usize>), ChannelDataError> {
    let Some(&[n0, n1, l0, l1]) = bytes.first_chunk() else {
        return Err(ChannelDataError::Short);
    };
    if !matches!(n0, 0x40..=0x7F) {
        return Err(ChannelDataError::NotChannelData);
    }
    let end = HEADER_LEN + usize::from(u16::from_be_bytes([l0, l1]));
    if bytes.len() < end {
        return Err(ChannelDataError::Short);
    }
    Ok((u16::from_be_bytes([n0, n1]), HEADER_LEN..end))
}

/// Writes the header for `len` bytes of application data into the first four bytes of `out`.
///
/// `len` is at most 65535, which no datagram exceeds; `out` holds at least [`HEADER_LEN`] bytes.
pub fn emit_header(number: u16, len: usize, out: &mut [u8]) {
    debug_assert!(len <= usize::from(u16::MAX) && out.len() >= HEADER_LEN);
    let [n0, n1] = number.to_be_bytes();
    let [l0, l1] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(head) = out.first_chunk_mut() {
        *head = [n0, n1, l0, l1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= TURN-CHAN-12
    #[test]
    fn a_short_datagram_is_refused_and_extra_bytes_are_ignored() {
        let mut datagram = [0x40, 1, 0, 4, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(parse(&datagram), Ok((0x4001, 4..8)));
        assert_eq!(parse(&datagram[..8]), Ok((0x4001, 4..8)));
        for len in 0..8 {
            assert_eq!(parse(&datagram[..len]), Err(ChannelDataError::Short), "{len} bytes");
        }
        datagram[3] = 8;
        assert_eq!(parse(&datagram), Err(ChannelDataError::Short));
    }

    //= TURN-CHAN-13
    #[test]
    fn empty_application_data_is_a_message() {
        assert_eq!(parse(&[0x4F, 0xFF, 0, 0]), Ok((0x4FFF, 4..4)));
    }

    #[test]
    fn only_channel_numbers_start_channel_data() {
        for first in 0..=255 {
            let expected = if (0x40..=0x7F).contains(&first) {
                Ok((u16::from(first) << 8, 4..4))
            } else {
                Err(ChannelDataError::NotChannelData)
            };
            assert_eq!(parse(&[first, 0, 0, 0]), expected);
        }
    }

    #[test]
    fn what_is_emitted_parses() {
        for len in [0, 1, 4, 1200, 65535] {
            let mut message = vec![0; HEADER_LEN + len];
            emit_header(0x4ABC, len, &mut message);
            assert_eq!(parse(&message), Ok((0x4ABC, 4..4 + len)));
        }
    }
}
