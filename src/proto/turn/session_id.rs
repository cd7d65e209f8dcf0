//! The id of an allocation outside its shard.

use core::fmt;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identifies one allocation from its Allocate to its end: in every log line, through moves between
/// shards, and among all servers of a fleet. An [`AllocationId`](super::types::AllocationId) is a
/// slot in one shard's table and changes when the allocation moves; a `SessionId` never does.
///
/// It is 96 random bits, so servers need no coordination. Its text is 24 hexadecimal digits in
/// lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 12]);

/// The text is not 24 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASessionId;

impl SessionId {
    /// Length of the text.
    pub const TEXT_LEN: usize = 24;

    /// The id with these bits, which must be random.
    pub const fn from_random(bits: [u8; 12]) -> Self {
        Self(bits)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = NotASessionId;

    /// Accepts exactly what [`Display`](fmt::Display) writes, so that one session has one text
    /// form.
    fn from_str(text: &str) -> Result<Self, NotASessionId> {
        let text: &[u8; Self::TEXT_LEN] = text.as_bytes().try_into().map_err(|_| NotASessionId)?;
        let mut bits = [0; 12];
        for (byte, pair) in bits.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for NotASessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session id is 24 hexadecimal digits in lower case")
    }
}

impl core::error::Error for NotASessionId {}

impl Serialize for SessionId {
    /// As its text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

const fn digit(character: u8) -> Result<u8, NotASessionId> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(NotASessionId),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_has_one_length_and_one_spelling() {
        let id = SessionId::from_random([0, 1, 0x0f, 0xf0, 0xab, 0xcd, 0xef, 7, 8, 9, 10, 0xff]);
        let text = "00010ff0abcdef0708090aff";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        for other in [
            "",
            "00010FF0ABCDEF0708090AFF",
            "00010ff0abcdef0708090af",
            "00010ff0abcdef0708090aff0",
            "00010ff0abcdef0708090afg",
            " 0010ff0abcdef0708090aff",
            "+0010ff0abcdef0708090aff",
            "ä0010ff0abcdef0708090af",
        ] {
            assert_eq!(other.parse::<SessionId>(), Err(NotASessionId), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_back_from_its_text(bits: [u8; 12]) {
            let id = SessionId::from_random(bits);
            let text = id.to_string();
            prop_assert_eq!(text.len(), SessionId::TEXT_LEN);
            prop_assert_eq!(text.parse(), Ok(id));
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_written_the_same(text in "[0-9a-g]{23,25}|.*") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
