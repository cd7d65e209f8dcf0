//! Writing STUN messages into a caller's buffer (RFC 8489 §5, §14). Padding is always zero.
//!
//! Deliberately absent: which attributes a message should have, and in which order. The order of
//! the calls is the order on the wire. Integrity and FINGERPRINT cover everything written before
//! them.

use std::net::SocketAddr;

use super::address;
use super::attribute::AttributeType;
use super::classic::ClassicId;
use super::error_code;
use super::fingerprint;
use super::integrity::{Integrity, Key};
use super::message::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, UnknownAttributes, message_type};

/// Largest header length: the largest multiple of four in 16 bits.
const MAX_LENGTH: usize = 65532;

/// Why a message could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The message does not fit the buffer, or the 16 bits of its length.
    Full,
}

/// Writes one message. [`MessageWriter::finish`] reports an overflow, so the calls before it need
/// no checks.
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buf: &'b mut [u8],
    len: usize,
    id: TransactionId,
    full: bool,
}

impl<'b> MessageWriter<'b> {
    /// Begins a message at the start of `buf`, which need not be zeroed.
    pub fn new(buf: &'b mut [u8], class: Class, method: Method, id: TransactionId) -> Self {
        let full = match buf.first_chunk_mut() {
            Some(head) => {
                *head = header(class, method, 0, id);
                false
            }
            None => true,
        };
        Self {
            buf,
            len: HEADER_LEN,
            id,
            full,
        }
    }

    /// Begins an RFC 3489 message, whose id also takes the place of the magic cookie. Such a
    /// message has no XOR-encoded addresses and no FINGERPRINT.
    pub fn classic(buf: &'b mut [u8], class: Class, method: Method, ClassicId(id): ClassicId) -> Self {
        let [c0, c1, c2, c3, rest @ ..] = id;
        let writer = Self::new(buf, class, method, TransactionId(rest));
        if let Some(cookie) = writer.buf.get_mut(4..8) {
            cookie.copy_from_slice(&[c0, c1, c2, c3]);
        }
        writer
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) -> &mut Self {
        if let Some(room) = self.reserve(kind, value.len()) {
            room.copy_from_slice(value);
        }
        self
    }

    /// Appends an attribute of two parts.
    fn attribute_of(&mut self, kind: AttributeType, head: &[u8], tail: &[u8]) -> &mut Self {
        if let Some((first, second)) = self
            .reserve(kind, head.len() + tail.len())
            .and_then(|room| room.split_at_mut_checked(head.len()))
        {
            first.copy_from_slice(head);
            second.copy_from_slice(tail);
        }
        self
    }

    /// Appends an attribute of two bytes.
    pub fn u16(&mut self, kind: AttributeType, value: u16) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute of four bytes: LIFETIME.
    pub fn u32(&mut self, kind: AttributeType, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an XOR-encoded address.
    pub fn xor_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        let value = address::encode(&address, self.id);
        self.attribute(kind, value.get(..address::encoded_len(&address)).unwrap_or_default())
    }

    /// Appends an address that is not XOR-encoded: MAPPED-ADDRESS, ALTERNATE-SERVER.
    pub fn address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        let value = address::encode_plain(&address);
        self.attribute(kind, value.get(..address::encoded_len(&address)).unwrap_or_default())
    }

    /// Appends ERROR-CODE; `code` is within 300..=699.
    pub fn error_code(&mut self, code: u16, reason: &str) -> &mut Self {
        self.attribute_of(
            AttributeType::ERROR_CODE,
            &error_code::header(0, code),
            reason.as_bytes(),
        )
    }

    /// Appends ADDRESS-ERROR-CODE for the family of [`address::FAMILY_IPV4`] or
    /// [`address::FAMILY_IPV6`].
    pub fn address_error_code(&mut self, family: u8, code: u16, reason: &str) -> &mut Self {
        self.attribute_of(
            AttributeType::ADDRESS_ERROR_CODE,
            &error_code::header(family, code),
            reason.as_bytes(),
        )
    }

    /// Appends an attribute of `len` zero bytes: PADDING.
    pub fn zeros(&mut self, kind: AttributeType, len: usize) -> &mut Self {
        if let Some(room) = self.reserve(kind, len) {
            room.fill(0);
        }
        self
    }

    /// Appends UNKNOWN-ATTRIBUTES.
    pub fn unknown_attributes(&mut self, unknown: &UnknownAttributes) -> &mut Self {
        if let Some(room) = self.reserve(AttributeType::UNKNOWN_ATTRIBUTES, unknown.len() * 2) {
            for (two, kind) in room.chunks_exact_mut(2).zip(unknown.iter()) {
                two.copy_from_slice(&kind.0.to_be_bytes());
            }
        }
        self
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over everything so far.
    pub fn integrity(&mut self, key: &Key, integrity: Integrity) -> &mut Self {
        if self.full {
            return self;
        }
        let so_far = self.buf.get(..self.len).unwrap_or_default();
        match integrity {
            Integrity::Sha1 => {
                let value = key.sha1(so_far);
                self.attribute(integrity.attribute_type(), &value)
            }
            Integrity::Sha256 => {
                let value = key.sha256(so_far);
                self.attribute(integrity.attribute_type(), &value)
            }
        }
    }

    /// Appends FINGERPRINT over everything so far; nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        let before = self.len;
        // The CRC covers a header length that includes FINGERPRINT itself (RFC 8489 §14.7).
        if self.reserve(AttributeType::FINGERPRINT, fingerprint::LEN).is_some() {
            self.patch_length();
            let crc = fingerprint::compute(self.buf.get(..before).unwrap_or_default());
            if let Some(value) = self.buf.get_mut(before + 4..before + 4 + fingerprint::LEN) {
                value.copy_from_slice(&crc.to_be_bytes());
            }
        }
        self
    }

    /// Ends the message and returns its length in bytes.
    ///
    /// # Errors
    /// [`WriteError::Full`] if anything did not fit. The buffer is then unusable.
    pub fn finish(mut self) -> Result<usize, WriteError> {
        if self.full {
            return Err(WriteError::Full);
        }
        self.patch_length();
        Ok(self.len)
    }

    fn patch_length(&mut self) {
        // `reserve` keeps the length at or below MAX_LENGTH.
        let length = u16::try_from(self.len - HEADER_LEN).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(field) = self.buf.get_mut(2..4) {
            field.copy_from_slice(&length);
        }
    }

    /// Reserves an attribute, writes its header and padding, and returns the space for its value.
    fn reserve(&mut self, kind: AttributeType, value_len: usize) -> Option<&mut [u8]> {
        let padded = value_len.next_multiple_of(4);
        let end = self.len + 4 + padded;
        if self.full || end > HEADER_LEN + MAX_LENGTH || end > self.buf.len() {
            self.full = true;
            return None;
        }
        let (head, rest) = self.buf.get_mut(self.len..end)?.split_first_chunk_mut()?;
        let [t0, t1] = kind.0.to_be_bytes();
        let [l0, l1] = u16::try_from(value_len).ok()?.to_be_bytes();
        *head = [t0, t1, l0, l1];
        let (value, padding) = rest.split_at_mut_checked(value_len)?;
        padding.fill(0);
        self.len = end;
        Some(value)
    }
}

/// A header for a message with `length` bytes after it.
const fn header(class: Class, method: Method, length: u16, id: TransactionId) -> [u8; HEADER_LEN] {
    let [t0, t1] = message_type(class, method).to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
    let [i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11] = id.0;
    [
        t0, t1, l0, l1, c0, c1, c2, c3, i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11,
    ]
}

/// Most application data a Data indication from `peer` can carry, in bytes.
pub const fn max_indication_data(peer: &SocketAddr) -> usize {
    MAX_LENGTH - (4 + address::encoded_len(peer)) - 4
}

/// Writes the bytes before the application data of a Data indication: header, XOR-PEER-ADDRESS, and
/// type and length of DATA (RFC 8656 §11.3). Returns their number, 36 or 48. After the data the
/// caller sends its padding, which the message length already includes.
///
/// `data_len` is at most [`max_indication_data`]; more does not fit.
pub fn emit_data_indication_header(id: TransactionId, peer: SocketAddr, data_len: usize, out: &mut [u8; 48]) -> usize {
    debug_assert!(
        data_len <= max_indication_data(&peer),
        "{data_len} bytes do not fit a Data indication"
    );
    let data_len = data_len.min(max_indication_data(&peer));
    let address_len = address::encoded_len(&peer);
    let header_len = HEADER_LEN + 4 + address_len + 4;
    // Both fit, because `max_indication_data` ensures it.
    let length = u16::try_from(header_len - HEADER_LEN + data_len.next_multiple_of(4)).unwrap_or(u16::MAX);
    let [d0, d1] = u16::try_from(data_len).unwrap_or(u16::MAX).to_be_bytes();
    let [a0, a1] = AttributeType::XOR_PEER_ADDRESS.0.to_be_bytes();
    let [t0, t1] = AttributeType::DATA.0.to_be_bytes();
    let value = address::encode(&peer, id);

    let (head, rest) = out.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header(Class::Indication, Method::Data, length, id));
    let (address_head, rest) = rest.split_at_mut(4);
    address_head.copy_from_slice(&[a0, a1, 0, if address_len == 8 { 8 } else { 20 }]);
    let (address, data_head) = rest.split_at_mut(address_len);
    address.copy_from_slice(value.split_at(address_len).0);
    data_head.split_at_mut(4).0.copy_from_slice(&[t0, t1, d0, d1]);
    header_len
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction!");

    //= STUN-MSG-11
    #[test]
    fn padding_is_zero_whatever_the_buffer_held() {
        let mut buf = [0xAA; 64];
        let mut writer = MessageWriter::new(&mut buf, Class::Success, Method::Binding, ID);
        writer.attribute(AttributeType::SOFTWARE, b"relay");
        assert_eq!(writer.finish(), Ok(32));
        assert_eq!(buf[20..32], *b"\x80\x22\x00\x05relay\0\0\0");
        assert_eq!(buf[32], 0xAA, "nothing is written behind the message");
    }

    #[test]
    fn what_does_not_fit_is_told_at_the_end_and_never_panics() {
        for size in 0..48 {
            let mut buf = vec![0; size];
            let mut writer = MessageWriter::new(&mut buf, Class::Error, Method::Allocate, ID);
            writer
                .error_code(401, "")
                .u32(AttributeType::LIFETIME, 1)
                .integrity(&Key::from_raw(b"k"), Integrity::Sha1);
            writer.fingerprint();
            assert_eq!(writer.finish(), Err(WriteError::Full), "{size} bytes");
        }
    }

    #[test]
    fn a_message_never_outgrows_its_length_field() {
        let mut buf = vec![0; 70_000];
        let mut writer = MessageWriter::new(&mut buf, Class::Indication, Method::Data, ID);
        writer.attribute(AttributeType::DATA, &[0; 65528]);
        assert_eq!(writer.finish(), Ok(HEADER_LEN + 65532));
        assert!(Message::parse(&buf[..HEADER_LEN + 65532]).is_ok());

        for len in [65529, 65532, 65536] {
            let mut writer = MessageWriter::new(&mut buf, Class::Indication, Method::Data, ID);
            writer.attribute(AttributeType::DATA, &vec![0; len]);
            assert_eq!(writer.finish(), Err(WriteError::Full), "{len} bytes");
        }
    }

    //= TURN-DATA-07
    #[test]
    fn a_data_indication_header_stands_before_its_data() {
        for peer in ["192.0.2.9:4000", "[2001:db8::9]:4000"] {
            let peer: SocketAddr = peer.parse().unwrap();
            for data_len in [0, 1, 2, 3, 4, 1200, max_indication_data(&peer)] {
                let mut out = [0xAA; 48];
                let header_len = emit_data_indication_header(ID, peer, data_len, &mut out);
                let mut bytes = out[..header_len].to_vec();
                bytes.resize(header_len + data_len, 7);
                bytes.resize(header_len + data_len.next_multiple_of(4), 0);

                let message = Message::parse(&bytes).unwrap();
                assert_eq!(
                    (message.class(), message.method()),
                    (Class::Indication, Some(Method::Data))
                );
                assert_eq!(message.transaction_id(), ID);
                assert_eq!(message.xor_address(AttributeType::XOR_PEER_ADDRESS), Ok(Some(peer)));
                assert_eq!(message.attribute(AttributeType::DATA), Some(&vec![7; data_len][..]));
                assert_eq!(
                    message.attribute_range(AttributeType::DATA),
                    Some(header_len..header_len + data_len)
                );
            }
        }
    }

    //= STUN-MSG-15
    #[test]
    fn an_odd_count_of_unknown_attributes_is_padded_with_zeros() {
        let mut unknown = UnknownAttributes::default();
        unknown.push(AttributeType(0x7FFE));
        let mut buf = [0xAA; 32];
        let mut writer = MessageWriter::new(&mut buf, Class::Error, Method::Binding, ID);
        writer.unknown_attributes(&unknown);
        assert_eq!(writer.finish(), Ok(28));
        assert_eq!(buf[20..28], [0, 0x0A, 0, 2, 0x7F, 0xFE, 0, 0]);
    }
}
