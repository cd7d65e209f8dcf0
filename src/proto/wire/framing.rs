//! Finds the ends of messages on a byte stream (RFC 8656 §12.5, RFC 8489 §6.2.2). Sans-IO: bytes
//! in, a length out.
//!
//! The header of a STUN message holds its length. So does that of ChannelData, which is then padded
//! to four bytes. A stream that is neither cannot be resynchronised, so the caller closes it after
//! an error.
//!
//! Deliberately absent: limits. The caller learns the size of a message early and can refuse it
//! before buffering.

use super::channel_data;
use super::demux::{self, Kind};
use super::message::{HEADER_LEN, MAGIC_COOKIE};

/// What the front of a stream's buffer contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No whole message yet: the buffer must hold at least this many bytes. A value above 4 is the
    /// length of the whole message.
    Need(usize),
    /// A whole STUN or ChannelData message of this many bytes, padding included. The channel number
    /// may be one that RFC 8656 reserves (0x5000..=0x7FFF) and RFC 5766 clients use. The caller
    /// decides whether to allow it.
    Message(usize),
}

/// Why a stream is not TURN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// A message starts with a byte of neither STUN nor ChannelData.
    NotTurn,
    /// A STUN message without the magic cookie.
    BadCookie,
    /// A STUN message whose length is not a multiple of four.
    BadLength,
}

/// Longest possible frame, in bytes: a STUN header and the longest length that is a multiple of
/// four. The longest ChannelData message (4 + 65535 + 1) is shorter.
pub const MAX_FRAME: usize = HEADER_LEN + 65532;

/// Examines the front of `bytes`. Every byte is checked as soon as it arrives, so a stream that is
/// not TURN is refused before a message is complete.
///
/// Upper-case ASCII looks like ChannelData ("GET " is channel 0x4745 with 21536 bytes). A new
/// stream cannot have a channel yet, so the caller should first accept only [`Kind::Stun`].
///
/// # Errors
/// See [`FramingError`]. All of them are final for the stream.
pub fn next_frame(bytes: &[u8]) -> Result<Framing, FramingError> {
    let Some(&first) = bytes.first() else {
        return Ok(Framing::Need(channel_data::HEADER_LEN));
    };
    let kind = demux::classify(first);
    if matches!(kind, Kind::Dtls | Kind::Other) {
        return Err(FramingError::NotTurn);
    }
    let Some((&[_, _, l0, l1], rest)) = bytes.split_first_chunk() else {
        return Ok(Framing::Need(channel_data::HEADER_LEN));
    };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let total = match kind {
        Kind::Stun => {
            if !length.is_multiple_of(4) {
                return Err(FramingError::BadLength);
            }
            if MAGIC_COOKIE
                .to_be_bytes()
                .iter()
                .zip(rest)
                .any(|(expected, byte)| expected != byte)
            {
                return Err(FramingError::BadCookie);
            }
            HEADER_LEN + length
        }
        _ => channel_data::HEADER_LEN + length.next_multiple_of(4),
    };
    Ok(if bytes.len() < total {
        Framing::Need(total)
    } else {
        Framing::Message(total)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUN: [u8; 24] = [
        0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x80, 0x22, 0, 0,
    ];

    //= XPORT-02
    #[test]
    fn a_stun_message_is_twenty_bytes_and_its_length() {
        assert_eq!(next_frame(&[]), Ok(Framing::Need(4)));
        for len in 1..4 {
            assert_eq!(next_frame(&STUN[..len]), Ok(Framing::Need(4)));
        }
        for len in 4..24 {
            assert_eq!(next_frame(&STUN[..len]), Ok(Framing::Need(24)));
        }
        assert_eq!(next_frame(&STUN), Ok(Framing::Message(24)));
        assert_eq!(next_frame(&[&STUN[..], &[0xFF]].concat()), Ok(Framing::Message(24)));
    }

    //= XPORT-02
    //= TURN-CHAN-15
    #[test]
    fn channel_data_is_rounded_up_to_four() {
        for (length, total) in [(0u8, 4), (1, 8), (2, 8), (3, 8), (4, 8), (5, 12)] {
            let bytes = [&[0x40, 0, 0, length][..], &[0xAA; 16]].concat();
            assert_eq!(
                next_frame(&bytes[..total]),
                Ok(Framing::Message(total)),
                "length {length}"
            );
            if total > 4 {
                assert_eq!(
                    next_frame(&bytes[..total - 1]),
                    Ok(Framing::Need(total)),
                    "length {length}"
                );
            }
        }
        assert_eq!(next_frame(&[0x40, 0, 0xFF, 0xFF]), Ok(Framing::Need(4 + 65536)));
    }

    //= XPORT-04
    #[test]
    fn reserved_channel_numbers_are_framed_like_the_others() {
        assert_eq!(next_frame(&[0x50, 0, 0, 1]), Ok(Framing::Need(8)));
        assert_eq!(next_frame(&[0x50, 0, 0, 1, 0, 0, 0, 0]), Ok(Framing::Message(8)));
        assert_eq!(next_frame(&[0x7F, 0xFF, 0, 0]), Ok(Framing::Message(4)));
        assert_eq!(next_frame(&[0x80]), Err(FramingError::NotTurn));
    }

    //= XPORT-03
    #[test]
    fn what_is_not_turn_is_refused_at_the_first_byte_that_shows_it() {
        for first in (4..0x40).chain(0x80..=0xFF) {
            assert_eq!(
                next_frame(&[first]),
                Err(FramingError::NotTurn),
                "first byte {first:#04x}"
            );
        }
        assert_eq!(next_frame(&[0, 1, 0, 2]), Err(FramingError::BadLength));
        for position in 4..8 {
            let mut bytes = STUN;
            bytes[position] ^= 1;
            assert_eq!(next_frame(&bytes[..position]), Ok(Framing::Need(24)));
            assert_eq!(next_frame(&bytes[..=position]), Err(FramingError::BadCookie));
        }
    }

    //= STUN-MSG-24
    #[test]
    fn the_longest_frames_are_announced_at_the_header() {
        assert_eq!(next_frame(&[0, 1, 0xFF, 0xFC]), Ok(Framing::Need(MAX_FRAME)));
        assert_eq!(next_frame(&[0, 1, 0xFF, 0xFF]), Err(FramingError::BadLength));
    }
}
