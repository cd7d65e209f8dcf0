//! What the clear part of a DTLS record says before decryption (RFC 6347 §4.1, §4.2.2).

/// Content type, version, epoch, sequence number, length.
pub(super) const HEADER: usize = 13;
/// Type, length, message number, offset and length of the fragment.
const HANDSHAKE_HEADER: usize = 12;
/// `client_version`, before the random.
const VERSION: usize = 2;
const RANDOM: usize = 32;

/// What AES-GCM adds to a plaintext: the explicit part of the nonce, and the tag (RFC 5288 §3).
pub(super) const SEALED: usize = 8 + 16;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// DTLS 1.0 and 1.2 are 254.255 and 254.253.
const MAJOR: u8 = 254;

/// The random of a ClientHello, which identifies a handshake.
pub type Random = [u8; RANDOM];

/// A datagram that begins with an unencrypted ClientHello, or with its first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// Distinguishes handshakes.
    pub random: Random,
    /// Its record.
    pub record: &'a [u8],
    /// The records after it.
    pub rest: &'a [u8],
}

/// Whether `datagram` begins with a ClientHello.
pub fn client_hello(datagram: &[u8]) -> Option<ClientHello<'_>> {
    let (header, body) = datagram.split_first_chunk::<HEADER>()?;
    let [HANDSHAKE, MAJOR, _, 0, 0, ..] = header else {
        return None;
    };
    let (record, _) = body.split_at_checked(usize::from(u16::from_be_bytes([header[11], header[12]])))?;
    let (handshake, message) = record.split_first_chunk::<HANDSHAKE_HEADER>()?;
    let offset = &handshake[6..9];
    if handshake[0] != CLIENT_HELLO || offset != [0, 0, 0] {
        return None;
    }
    let random = message.get(VERSION..VERSION + RANDOM)?.try_into().ok()?;
    let (record, rest) = datagram.split_at(HEADER + record.len());
    Some(ClientHello { random, record, rest })
}

/// The records at the start of `datagram` that are long enough for their type. OpenSSL 3.0 treats
/// an encrypted record that is shorter than its nonce and tag as an error of its own and ends the
/// association. Without this check any sender could end it.
pub(super) fn whole(datagram: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some((header, body)) = datagram[end..].split_first_chunk::<HEADER>() {
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let sealed = header[3..5] != [0, 0];
        if len > body.len() || (sealed && len < SEALED) {
            break;
        }
        end += HEADER + len;
    }
    &datagram[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(fragment_offset: u8) -> Vec<u8> {
        let mut bytes = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0];
        bytes.extend([1, 0, 0, 60, 0, 1, 0, 0, fragment_offset, 0, 0, 60]);
        bytes.extend([254, 253]);
        bytes.extend([9; 32]);
        bytes.extend([0; 26]);
        bytes[12] = (bytes.len() - HEADER) as u8;
        bytes
    }

    #[test]
    fn a_client_hello_is_known_by_its_record_and_what_follows_is_told_apart() {
        let mut bytes = hello(0);
        let len = bytes.len();
        bytes.extend([22, 254, 253]);
        let found = client_hello(&bytes).unwrap();
        assert_eq!(
            (found.random, found.record.len(), found.rest),
            ([9; 32], len, &[22, 254, 253][..])
        );
    }

    #[test]
    fn records_too_short_to_be_opened_and_all_behind_them_are_left_out() {
        let record = |epoch: u8, len: u8| {
            let mut record = vec![23, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 1, 0, len];
            record.resize(HEADER + usize::from(len), 7);
            record
        };
        let good = [record(0, 2), record(1, 24), record(1, 60)].concat();
        assert_eq!(whole(&good), good);
        assert!(whole(&[]).is_empty());
        for bad in [
            record(1, 23),
            record(1, 0),
            record(2, 23),
            record(1, 60)[..72].to_vec(),
            vec![23],
        ] {
            assert_eq!(
                whole(&[&good[..], &bad, &good].concat()[..good.len() + bad.len()]),
                good
            );
            assert!(whole(&bad).is_empty());
        }
    }

    #[test]
    fn what_is_cut_short_encrypted_or_another_message_is_none() {
        let bytes = hello(0);
        for end in 0..bytes.len() {
            assert_eq!(client_hello(&bytes[..end]), None, "{end} bytes");
        }
        for (at, value) in [(0, 23), (0, 20), (1, 3), (4, 1), (3, 1), (13, 2), (21, 1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(client_hello(&bytes), None, "byte {at} is {value}");
        }
        assert_eq!(client_hello(&hello(4)), None, "a later fragment");
    }
}
