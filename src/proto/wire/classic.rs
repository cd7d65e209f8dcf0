//! Binding requests of RFC 3489: no magic cookie, a transaction id of 16 bytes, and no padding (RFC
//! 5389 §12.2).
//!
//! Deliberately absent: the rest of RFC 3489. No other method is worth serving without a cookie,
//! and RFC 5780 now covers what its other attributes requested.

use super::attribute::AttributeType;
use super::message::{Class, HEADER_LEN, MAGIC_COOKIE, Method, UnknownAttributes, Walk, message_type};

/// Matches a response to its request. Takes the place of the magic cookie and of
/// [`super::message::TransactionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicId(pub [u8; 16]);

/// An RFC 3489 Binding request.
#[derive(Clone, Copy, Debug)]
pub struct ClassicBinding {
    /// Transaction id.
    pub id: ClassicId,
    /// Comprehension-required attributes that this server does not understand: RESPONSE-ADDRESS,
    /// and CHANGE-REQUEST if it requests a change. Clients of that time always send CHANGE-REQUEST.
    pub unknown: UnknownAttributes,
}

impl ClassicBinding {
    /// Parses `bytes`, one datagram. `None` if it is not a complete RFC 3489 Binding request.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[t0, t1, l0, l1], rest) = bytes.split_first_chunk()?;
        let id = *rest.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if u16::from_be_bytes([t0, t1]) != message_type(Class::Request, Method::Binding)
            || id.first_chunk() == Some(&MAGIC_COOKIE.to_be_bytes())
            || bytes.len() != HEADER_LEN + length
            || !length.is_multiple_of(4)
        {
            return None;
        }
        let mut unknown = UnknownAttributes::default();
        let mut walk = Walk { bytes, at: HEADER_LEN };
        while let Some(attribute) = walk.next().ok()? {
            let kind = attribute.kind;
            let idle = kind == AttributeType::CHANGE_REQUEST && attribute.value == [0; 4];
            if kind.is_unknown_required() && !idle && !unknown.push(kind) {
                break;
            }
        }
        Some(Self {
            id: ClassicId(id),
            unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, u8::try_from(attributes.len()).unwrap()];
        bytes.extend(*b"sixteen bytes id");
        bytes.extend(attributes);
        bytes
    }

    //= STUN-BIND-09
    #[test]
    fn only_a_whole_binding_request_without_cookie_is_one() {
        let good = binding(&[]);
        assert_eq!(
            ClassicBinding::parse(&good).unwrap().id,
            ClassicId(*b"sixteen bytes id")
        );
        for cut in 0..good.len() {
            assert!(ClassicBinding::parse(&good[..cut]).is_none(), "{cut} bytes");
        }
        let changed = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            bytes
        };
        for bad in [
            changed(0, &[0, 3]),
            changed(0, &[0, 0x11]),
            changed(0, &[1, 1]),
            changed(2, &[0, 4]),
            changed(4, &MAGIC_COOKIE.to_be_bytes()),
            [&good[..], &[0; 4]].concat(),
            binding(&[0, 6, 0, 1]),
            binding(&[0, 6, 0]),
        ] {
            assert!(ClassicBinding::parse(&bad).is_none(), "{bad:?}");
        }
    }

    //= STUN-BIND-09
    #[test]
    fn what_asks_for_nothing_is_known_and_the_rest_of_rfc_3489_is_not() {
        let unknown = |attributes: &[u8]| ClassicBinding::parse(&binding(attributes)).unwrap().unknown.len();
        assert_eq!(unknown(&[0, 3, 0, 4, 0, 0, 0, 0]), 0, "CHANGE-REQUEST without a flag");
        assert_eq!(unknown(&[0, 3, 0, 4, 0, 0, 0, 4]), 1, "CHANGE-REQUEST");
        assert_eq!(unknown(&[0, 2, 0, 8, 0, 1, 0, 80, 192, 0, 2, 1]), 1, "RESPONSE-ADDRESS");
        assert_eq!(unknown(&[0, 6, 0, 4, 1, 2, 3, 4]), 0, "USERNAME");
        assert_eq!(unknown(&[0, 2, 0, 0, 0, 3, 0, 0]), 2, "both of them");
    }
}
