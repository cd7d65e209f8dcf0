//! Attribute types and the values of all attributes that are neither addresses nor error codes
//! (RFC 8489 §14 and §18.3, RFC 8656 §18, RFC 6062 §6.2, RFC 8016 §3.1).
//!
//! Decoders take a value without its type, length and padding. A wrong length is an error; reserved
//! bits are ignored.
//!
//! Deliberately absent: whether a value is *acceptable*, for example which transport protocol a
//! client may request.

use core::fmt;

/// Type of an attribute: 0x0000..=0x7FFF must be understood by the receiver, the others may be
/// ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeType(pub u16);

macro_rules! attribute_types {
    ($($name:ident = $value:literal,)+) => {
        #[expect(missing_docs, reason = "the names are those of the IANA registry")]
        impl AttributeType {
            $(pub const $name: Self = Self($value);)+

            /// Name in the IANA registry, if this server knows the type.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }
    };
}

attribute_types! {
    MAPPED_ADDRESS = 0x0001,
    CHANGE_REQUEST = 0x0003,
    USERNAME = 0x0006,
    MESSAGE_INTEGRITY = 0x0008,
    ERROR_CODE = 0x0009,
    UNKNOWN_ATTRIBUTES = 0x000A,
    CHANNEL_NUMBER = 0x000C,
    LIFETIME = 0x000D,
    XOR_PEER_ADDRESS = 0x0012,
    DATA = 0x0013,
    REALM = 0x0014,
    NONCE = 0x0015,
    XOR_RELAYED_ADDRESS = 0x0016,
    REQUESTED_ADDRESS_FAMILY = 0x0017,
    EVEN_PORT = 0x0018,
    REQUESTED_TRANSPORT = 0x0019,
    DONT_FRAGMENT = 0x001A,
    ACCESS_TOKEN = 0x001B,
    MESSAGE_INTEGRITY_SHA256 = 0x001C,
    PASSWORD_ALGORITHM = 0x001D,
    USERHASH = 0x001E,
    XOR_MAPPED_ADDRESS = 0x0020,
    RESERVATION_TOKEN = 0x0022,
    PRIORITY = 0x0024,
    USE_CANDIDATE = 0x0025,
    PADDING = 0x0026,
    RESPONSE_PORT = 0x0027,
    CONNECTION_ID = 0x002A,
    ADDITIONAL_ADDRESS_FAMILY = 0x8000,
    ADDRESS_ERROR_CODE = 0x8001,
    PASSWORD_ALGORITHMS = 0x8002,
    ALTERNATE_DOMAIN = 0x8003,
    ICMP = 0x8004,
    SOFTWARE = 0x8022,
    ALTERNATE_SERVER = 0x8023,
    FINGERPRINT = 0x8028,
    ICE_CONTROLLED = 0x8029,
    ICE_CONTROLLING = 0x802A,
    RESPONSE_ORIGIN = 0x802B,
    OTHER_ADDRESS = 0x802C,
    THIRD_PARTY_AUTHORIZATION = 0x802E,
    MOBILITY_TICKET = 0x8030,
}

impl AttributeType {
    /// Whether a receiver must understand the attribute to process the message (RFC 8489 §14).
    pub const fn is_required(self) -> bool {
        self.0 < 0x8000
    }

    /// Whether this server understands the attribute, if only to ignore it where it has no meaning
    /// (PRIORITY in a Binding request). Attributes of features that are not implemented (RFC 7635)
    /// are unknown, and 420 reports that to the client. Only the handlers of RFC 5780 and RFC 6062
    /// know the attributes of those RFCs ([`super::message::Message::unknown_required_but`]).
    pub const fn is_understood(self) -> bool {
        self.0 < 64 && UNDERSTOOD >> self.0 & 1 == 1
    }

    /// Whether a request with this attribute must be answered with 420 (RFC 8489 §6.3.1).
    pub const fn is_unknown_required(self) -> bool {
        self.is_required() && !self.is_understood()
    }
}

/// One bit per comprehension-required type under 64 that this server understands.
const UNDERSTOOD: u64 = {
    let understood = [
        AttributeType::MAPPED_ADDRESS,
        AttributeType::USERNAME,
        AttributeType::MESSAGE_INTEGRITY,
        AttributeType::ERROR_CODE,
        AttributeType::UNKNOWN_ATTRIBUTES,
        AttributeType::CHANNEL_NUMBER,
        AttributeType::LIFETIME,
        AttributeType::XOR_PEER_ADDRESS,
        AttributeType::DATA,
        AttributeType::REALM,
        AttributeType::NONCE,
        AttributeType::XOR_RELAYED_ADDRESS,
        AttributeType::REQUESTED_ADDRESS_FAMILY,
        AttributeType::EVEN_PORT,
        AttributeType::REQUESTED_TRANSPORT,
        AttributeType::DONT_FRAGMENT,
        AttributeType::MESSAGE_INTEGRITY_SHA256,
        AttributeType::PASSWORD_ALGORITHM,
        AttributeType::USERHASH,
        AttributeType::XOR_MAPPED_ADDRESS,
        AttributeType::RESERVATION_TOKEN,
        AttributeType::PRIORITY,
        AttributeType::USE_CANDIDATE,
    ];
    let mut bits = 0;
    let mut rest: &[AttributeType] = &understood;
    while let [first, tail @ ..] = rest {
        bits |= 1 << first.0;
        rest = tail;
    }
    bits
};

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => name.split('_').enumerate().try_for_each(|(i, word)| {
                f.write_str(if i == 0 { "" } else { "-" })?;
                f.write_str(word)
            }),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

/// Why an attribute's value cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeError {
    /// The attribute cannot have a value of this length.
    Length,
    /// The RFC defines no such value.
    Value,
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], AttributeError> {
    value.try_into().map_err(|_| AttributeError::Length)
}

/// The two flags of CHANGE-REQUEST (RFC 5780 §7.2): another IP address, another port. The other
/// bits are ignored.
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn change_request(value: &[u8]) -> Result<(bool, bool), AttributeError> {
    let [_, _, _, flags] = array(value)?;
    Ok((flags & 0x04 != 0, flags & 0x02 != 0))
}

/// RESPONSE-PORT (RFC 5780 §7.5), any value. Some senders count its two bytes of padding in the
/// length, others do not.
///
/// # Errors
/// [`AttributeError::Length`] unless two or four bytes.
pub fn response_port(value: &[u8]) -> Result<u16, AttributeError> {
    match *value {
        [p0, p1] | [p0, p1, _, _] => Ok(u16::from_be_bytes([p0, p1])),
        _ => Err(AttributeError::Length),
    }
}

/// LIFETIME in seconds (RFC 8656 §18.2).
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn lifetime(value: &[u8]) -> Result<u32, AttributeError> {
    array(value).map(u32::from_be_bytes)
}

/// CHANNEL-NUMBER (RFC 8656 §18.1), any value; the reserved half is ignored.
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn channel_number(value: &[u8]) -> Result<u16, AttributeError> {
    let [n0, n1, _, _] = array(value)?;
    Ok(u16::from_be_bytes([n0, n1]))
}

/// The IP protocol number in REQUESTED-TRANSPORT (RFC 8656 §18.8); the reserved bytes are ignored.
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn requested_transport(value: &[u8]) -> Result<u8, AttributeError> {
    let [protocol, _, _, _] = array(value)?;
    Ok(protocol)
}

/// The family byte of REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6) or ADDITIONAL-ADDRESS-FAMILY
/// (§18.11), any value.
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn address_family(value: &[u8]) -> Result<u8, AttributeError> {
    let [family, _, _, _] = array(value)?;
    Ok(family)
}

/// EVEN-PORT's R bit: whether to reserve the next port (RFC 8656 §18.7). The other bits are
/// ignored.
///
/// # Errors
/// [`AttributeError::Length`] unless one byte.
pub fn even_port(value: &[u8]) -> Result<bool, AttributeError> {
    let [flags] = array(value)?;
    Ok(flags & 0x80 != 0)
}

/// DONT-FRAGMENT, which has no value (RFC 8656 §18.9).
///
/// # Errors
/// [`AttributeError::Length`] unless empty.
pub fn dont_fragment(value: &[u8]) -> Result<(), AttributeError> {
    array(value).map(|[]: [u8; 0]| ())
}

/// RESERVATION-TOKEN (RFC 8656 §18.10).
///
/// # Errors
/// [`AttributeError::Length`] unless eight bytes.
pub fn reservation_token(value: &[u8]) -> Result<[u8; 8], AttributeError> {
    array(value)
}

/// CONNECTION-ID (RFC 6062 §6.2.1).
///
/// # Errors
/// [`AttributeError::Length`] unless four bytes.
pub fn connection_id(value: &[u8]) -> Result<u32, AttributeError> {
    array(value).map(u32::from_be_bytes)
}

/// USERHASH (RFC 8489 §14.4).
///
/// # Errors
/// [`AttributeError::Length`] unless 32 bytes.
pub fn userhash(value: &[u8]) -> Result<[u8; 32], AttributeError> {
    array(value)
}

/// The content of PASSWORD-ALGORITHM, or of one entry of PASSWORD-ALGORITHMS (RFC 8489 §14.11,
/// §14.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordAlgorithmValue<'a> {
    /// Number in the IANA registry, any value.
    pub number: u16,
    /// Its parameters; MD5 and SHA-256 have none.
    pub parameters: &'a [u8],
}

/// PASSWORD-ALGORITHM (RFC 8489 §14.12).
///
/// # Errors
/// [`AttributeError::Length`] unless the value is exactly one entry. The padding of its parameters
/// may be missing.
pub fn password_algorithm(value: &[u8]) -> Result<PasswordAlgorithmValue<'_>, AttributeError> {
    let mut entries = PasswordAlgorithms(value);
    match (entries.next(), entries.next()) {
        (Some(entry), None) => entry,
        _ => Err(AttributeError::Length),
    }
}

/// PASSWORD-ALGORITHMS in the sender's order of preference (RFC 8489 §14.11). Ends after the first
/// error.
pub const fn password_algorithms(value: &[u8]) -> PasswordAlgorithms<'_> {
    PasswordAlgorithms(value)
}

/// Iterator of [`password_algorithms`].
#[derive(Clone, Debug)]
pub struct PasswordAlgorithms<'a>(&'a [u8]);

impl<'a> Iterator for PasswordAlgorithms<'a> {
    type Item = Result<PasswordAlgorithmValue<'a>, AttributeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.0.split_first_chunk().and_then(|(&[n0, n1, l0, l1], rest)| {
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let parameters = rest.get(..length)?;
            self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(PasswordAlgorithmValue {
                number: u16::from_be_bytes([n0, n1]),
                parameters,
            })
        });
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or(AttributeError::Length))
    }
}

/// An ICMP message about a relayed datagram (RFC 8656 §18.13). The family of the XOR-PEER-ADDRESS
/// beside it says whether this is ICMPv4 or ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP type, 0..=127.
    pub icmp_type: u8,
    /// ICMP code, 0..=511.
    pub code: u16,
    /// Next-hop MTU for "fragmentation needed" and "packet too big", else 0.
    pub data: u32,
}

impl Icmp {
    /// Length of the value.
    pub const LEN: usize = 8;

    /// Encodes the value as in the RFC: two reserved bytes, 7 bits of type, 9 bits of code, four
    /// bytes of data. A type over 127 or a code over 511 does not fit and is truncated.
    pub const fn encode(self) -> [u8; Self::LEN] {
        let [high, low] = (((self.icmp_type as u16) << 9) | (self.code & 0x1FF)).to_be_bytes();
        let [a, b, c, d] = self.data.to_be_bytes();
        [0, 0, high, low, a, b, c, d]
    }

    /// Decodes the value; reserved bytes are ignored.
    ///
    /// # Errors
    /// [`AttributeError::Length`] unless eight bytes.
    pub fn decode(value: &[u8]) -> Result<Self, AttributeError> {
        let [_, _, high, low, a, b, c, d] = array(value)?;
        Ok(Self {
            icmp_type: high >> 1,
            code: u16::from_be_bytes([high & 1, low]),
            data: u32::from_be_bytes([a, b, c, d]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `decode` on values of 0..=40 bytes; only those of length `len` may be accepted.
    fn accepts_only<T>(len: usize, decode: impl Fn(&[u8]) -> Result<T, AttributeError>) {
        for n in 0..=40 {
            assert_eq!(decode(&[0xFF; 40][..n]).is_ok(), n == len, "{n} bytes");
        }
    }

    //= TURN-ALLOC-07
    //= TURN-CHAN-03
    #[test]
    fn a_wrong_length_is_never_accepted() {
        accepts_only(4, change_request);
        accepts_only(4, lifetime);
        accepts_only(4, channel_number);
        accepts_only(4, requested_transport);
        accepts_only(4, address_family);
        accepts_only(1, even_port);
        accepts_only(0, dont_fragment);
        accepts_only(8, reservation_token);
        accepts_only(32, userhash);
        accepts_only(8, Icmp::decode);
    }

    #[test]
    fn reserved_bits_are_ignored() {
        assert_eq!(channel_number(&[0x40, 1, 0xFF, 0xFF]), Ok(0x4001));
        assert_eq!(requested_transport(&[17, 0xFF, 0xFF, 0xFF]), Ok(17));
        assert_eq!(address_family(&[2, 0xFF, 0xFF, 0xFF]), Ok(2));
        assert_eq!(even_port(&[0x7F]), Ok(false));
        assert_eq!(even_port(&[0xFF]), Ok(true));
    }

    //= TURN-NET-04
    //= D10
    #[test]
    fn icmp_has_seven_bits_of_type_and_nine_of_code() {
        let too_big = Icmp {
            icmp_type: 3,
            code: 4,
            data: 1400,
        };
        assert_eq!(too_big.encode(), [0, 0, 0x06, 0x04, 0, 0, 0x05, 0x78]);
        for icmp in [
            too_big,
            Icmp {
                icmp_type: 127,
                code: 511,
                data: u32::MAX,
            },
            Icmp {
                icmp_type: 0,
                code: 0,
                data: 0,
            },
        ] {
            assert_eq!(Icmp::decode(&icmp.encode()), Ok(icmp));
        }
    }

    //= STUN-AUTH-15
    #[test]
    fn password_algorithms_are_listed_with_their_parameters() {
        let value = [0, 2, 0, 0, 0, 9, 0, 3, 1, 2, 3, 0xFF, 0, 1, 0, 0];
        let entries: Result<Vec<_>, _> = password_algorithms(&value)
            .map(|e| e.map(|e| (e.number, e.parameters)))
            .collect();
        assert_eq!(entries.unwrap(), [(2, &[][..]), (9, &[1, 2, 3]), (1, &[])]);
        for cut in [1, 3, 5, 7, 10] {
            assert_eq!(
                password_algorithms(&value[..cut]).last(),
                Some(Err(AttributeError::Length)),
                "{cut} bytes"
            );
        }
    }

    #[test]
    fn a_password_algorithm_is_exactly_one_entry() {
        assert_eq!(password_algorithm(&[0, 2, 0, 0]).unwrap().number, 2);
        assert_eq!(password_algorithm(&[0, 9, 0, 1, 7]).unwrap().parameters, [7]);
        for value in [&[][..], &[0, 2], &[0, 2, 0, 1], &[0, 2, 0, 0, 0, 1, 0, 0]] {
            assert_eq!(password_algorithm(value), Err(AttributeError::Length), "{value:?}");
        }
    }

    //= STUN-MSG-17
    //= NATD-01
    //= OAUTH-01
    //= COMPAT-06
    #[test]
    fn what_a_server_must_answer_420_to() {
        for understood in [0x0001, 0x0006, 0x000D, 0x0024, 0x0025, 0x001E] {
            assert!(!AttributeType(understood).is_unknown_required(), "{understood:#06x}");
        }
        for unknown in [
            0, 0x0002, 0x0003, 0x0007, 0x0010, 0x001B, 0x0021, 0x0026, 0x0027, 0x002A, 0x0040, 0x7FFF,
        ] {
            assert!(AttributeType(unknown).is_unknown_required(), "{unknown:#06x}");
        }
        for optional in [0x8000, 0x8028, 0xC057, 0xFF05, 0xFFFF] {
            assert!(!AttributeType(optional).is_unknown_required(), "{optional:#06x}");
        }
    }

    #[test]
    fn types_are_shown_as_the_rfcs_write_them() {
        assert_eq!(AttributeType::XOR_PEER_ADDRESS.to_string(), "XOR-PEER-ADDRESS");
        assert_eq!(AttributeType(0x7FFE).to_string(), "0x7ffe");
    }
}
