//! ERROR-CODE and ADDRESS-ERROR-CODE (RFC 8489 §14.8, RFC 8656 §18.12), and the codes that a server
//! sends.
//!
//! ```text
//! |     Reserved, should be 0 (or family)   |Class|     Number    |
//! |      Reason phrase (UTF-8), may be empty                      |
//! ```

use super::attribute::AttributeError;

/// Longest reason phrase that may be sent, in bytes (RFC 8489 §14.8).
pub const MAX_REASON: usize = 509;

/// A decoded ERROR-CODE or ADDRESS-ERROR-CODE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode<'a> {
    /// First byte: address family in ADDRESS-ERROR-CODE, reserved in ERROR-CODE.
    pub family: u8,
    /// 300..=699.
    pub code: u16,
    /// Reason phrase as received. The RFC requires UTF-8; this is not checked here.
    pub reason: &'a [u8],
}

/// The four bytes before the reason phrase. A code outside 300..=699 does not fit: its class is
/// truncated to 3 bits.
pub const fn header(family: u8, code: u16) -> [u8; 4] {
    let [_, class] = (code / 100 % 8).to_be_bytes();
    let [_, number] = (code % 100).to_be_bytes();
    [family, 0, class, number]
}

/// Decodes an attribute value; reserved bits are ignored.
///
/// # Errors
/// [`AttributeError::Length`] under four bytes; [`AttributeError::Value`] for a class outside 3..=6
/// or a number over 99.
pub fn decode(value: &[u8]) -> Result<ErrorCode<'_>, AttributeError> {
    let Some((&[family, _, class, number], reason)) = value.split_first_chunk() else {
        return Err(AttributeError::Length);
    };
    let class = class & 0b111;
    if !(3..=6).contains(&class) || number > 99 {
        return Err(AttributeError::Value);
    }
    Ok(ErrorCode {
        family,
        code: u16::from(class) * 100 + u16::from(number),
        reason,
    })
}

/// The reason phrase of `code` (RFC 8489 §14.8, RFC 8656 §19, RFC 6062 §6.3, RFC 8016 §3.4); empty
/// for others.
pub const fn reason(code: u16) -> &'static str {
    match code {
        300 => "Try Alternate",
        400 => "Bad Request",
        401 => "Unauthenticated",
        403 => "Forbidden",
        405 => "Mobility Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        438 => "Stale Nonce",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport Protocol",
        443 => "Peer Address Family Mismatch",
        446 => "Connection Already Exists",
        447 => "Connection Timeout or Failure",
        486 => "Allocation Quota Reached",
        500 => "Server Error",
        508 => "Insufficient Capacity",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_bytes_of_the_checklist() {
        const CASES: [(u16, [u8; 2]); 6] = [
            (300, [3, 0]),
            (401, [4, 1]),
            (420, [4, 0x14]),
            (438, [4, 0x26]),
            (486, [4, 0x56]),
            (508, [5, 8]),
        ];
        for (code, bytes) in CASES {
            let header = header(0, code);
            assert_eq!(header[2..], bytes, "{code}");
            assert_eq!(decode(&header).unwrap().code, code);
        }
    }

    #[test]
    fn each_code_has_the_phrase_of_the_rfc_that_defines_it() {
        const CASES: [(u16, &str); 18] = [
            (300, "Try Alternate"),
            (400, "Bad Request"),
            (401, "Unauthenticated"),
            (403, "Forbidden"),
            (405, "Mobility Forbidden"),
            (420, "Unknown Attribute"),
            (437, "Allocation Mismatch"),
            (438, "Stale Nonce"),
            (440, "Address Family not Supported"),
            (441, "Wrong Credentials"),
            (442, "Unsupported Transport Protocol"),
            (443, "Peer Address Family Mismatch"),
            (446, "Connection Already Exists"),
            (447, "Connection Timeout or Failure"),
            (486, "Allocation Quota Reached"),
            (500, "Server Error"),
            (508, "Insufficient Capacity"),
            (499, ""),
        ];
        for (code, phrase) in CASES {
            assert_eq!(reason(code), phrase, "{code}");
        }
    }

    #[test]
    fn classes_and_numbers_outside_the_rfc_are_refused() {
        assert_eq!(decode(&[0, 0, 4]), Err(AttributeError::Length));
        for class in [0, 1, 2, 7] {
            assert_eq!(decode(&[0, 0, class, 0]), Err(AttributeError::Value), "class {class}");
        }
        assert_eq!(decode(&[0, 0, 4, 100]), Err(AttributeError::Value));
        assert_eq!(
            decode(&[0xFF, 0xFF, 0xFC, 99]).unwrap().code,
            499,
            "reserved bits are ignored"
        );
    }
}
