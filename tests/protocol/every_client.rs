//! Clients over every transport and of both IP versions, and requests written by hand.
//!
//! Nothing here uses the codec's own HMAC, CRC or key derivation. Otherwise an error that affects
//! both sides would pass.

use std::cell::Cell;
use std::net::SocketAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use relay_proto::base::address::Transport;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::{Class, Method, message_type};
use sha1::Sha1;
use sha2::Sha256;

use relay_testkit::world::*;

/// One client for each transport and IP version, with different numbers.
pub(crate) fn every_client() -> impl Iterator<Item = Client> {
    let versions = [false, true].into_iter();
    versions.flat_map(|v6| Transport::ALL.map(|transport| client_of(1 + u16::from(v6), transport, v6)))
}

/// Describes a case in failure messages.
pub(crate) fn story(client: &Client) -> String {
    let version = if client.addr().is_ipv4() { 4 } else { 6 };
    format!("{} over IPv{version}", client.client.five_tuple.transport)
}

/// Requests a nonce and stores it.
pub(crate) fn challenge(world: &mut World, client: &mut Client) -> Answer {
    let answer = client.send_plain(world, &allocate());
    assert_eq!(answer.code(), 401);
    client.nonce = answer.attribute(AttributeType::NONCE);
    answer
}

/// A request under construction.
#[derive(Clone)]
pub(crate) struct Raw(Vec<u8>);

pub(crate) fn raw(method: Method) -> Raw {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    let mut id = [0xA7; 12];
    id[4..].copy_from_slice(&NEXT.replace(NEXT.get() + 1).to_be_bytes());
    Raw::with_id(message_type(Class::Request, method), id)
}

/// An Allocate that requests UDP.
pub(crate) fn raw_allocate() -> Raw {
    raw(Method::Allocate).attribute(AttributeType::REQUESTED_TRANSPORT, [17, 0, 0, 0])
}

impl Raw {
    pub(crate) fn with_id(kind: u16, id: [u8; 12]) -> Self {
        Self([&kind.to_be_bytes()[..], &[0, 0, 0x21, 0x12, 0xA4, 0x42], &id].concat())
    }

    /// A message to be continued.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Pads with 0xFF, because padding may have any value.
    pub(crate) fn attribute(mut self, kind: AttributeType, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.0.extend(kind.0.to_be_bytes());
        self.0.extend((value.len() as u16).to_be_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0xFF);
        self
    }

    /// USERNAME, REALM and NONCE.
    pub(crate) fn login(self, client: &Client) -> Self {
        self.attribute(AttributeType::USERNAME, &client.username)
            .attribute(AttributeType::REALM, &client.realm)
            .attribute(AttributeType::NONCE, client.nonce.as_ref().expect("a nonce"))
    }

    /// PASSWORD-ALGORITHMS as offered, and SHA-256 as the choice.
    pub(crate) fn sha256_chosen(self) -> Self {
        self.attribute(AttributeType::PASSWORD_ALGORITHMS, [0, 2, 0, 0, 0, 1, 0, 0])
            .attribute(AttributeType::PASSWORD_ALGORITHM, [0, 2, 0, 0])
    }

    /// XOR-PEER-ADDRESS of an IPv4 peer.
    pub(crate) fn peer(self, peer: &str) -> Self {
        let SocketAddr::V4(peer) = addr(peer) else {
            panic!("{peer} is not IPv4")
        };
        let [p0, p1] = (peer.port() ^ 0x2112).to_be_bytes();
        let [a, b, c, d] = (peer.ip().to_bits() ^ 0x2112_A442).to_be_bytes();
        self.attribute(AttributeType::XOR_PEER_ADDRESS, [0, 1, p0, p1, a, b, c, d])
    }

    /// MESSAGE-INTEGRITY.
    pub(crate) fn sha1(self, key: &[u8]) -> Self {
        let mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
        let value = mac.chain_update(self.covered(20)).finalize().into_bytes();
        self.attribute(AttributeType::MESSAGE_INTEGRITY, value)
    }

    /// MESSAGE-INTEGRITY-SHA256, truncated to `len`.
    pub(crate) fn sha256(self, key: &[u8], len: usize) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        let value = mac.chain_update(self.covered(len)).finalize().into_bytes();
        self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &value[..len])
    }

    /// FINGERPRINT, XORed with `wrong`.
    pub(crate) fn fingerprint(self, wrong: u32) -> Self {
        self.fingerprint_before(0, wrong)
    }

    /// A FINGERPRINT that is correct although `more` bytes will follow it, XORed with `wrong`.
    pub(crate) fn fingerprint_before(self, more: usize, wrong: u32) -> Self {
        let crc = crc32(&self.covered(4 + more)) ^ 0x5354_554E ^ wrong;
        self.attribute(AttributeType::FINGERPRINT, crc.to_be_bytes())
    }

    /// Everything so far, with a length that includes one more attribute of `len` bytes.
    fn covered(&self, len: usize) -> Vec<u8> {
        let mut covered = self.0.clone();
        let total = covered.len() - 20 + 4 + len;
        covered[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        covered
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        let len = self.0.len() - 20;
        self.0[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        self.0
    }
}

/// The long-term key of RFC 5389.
pub(crate) fn md5_key(client: &Client) -> Vec<u8> {
    md5_key_of(client.username.as_bytes(), &client.realm, &client.password)
}

pub(crate) fn md5_key_of(username: &[u8], realm: &str, password: &str) -> Vec<u8> {
    Md5::digest([username, b":", realm.as_bytes(), b":", password.as_bytes()].concat()).to_vec()
}

/// And the one of RFC 8489.
pub(crate) fn sha256_key(client: &Client) -> Vec<u8> {
    Sha256::digest(format!("{}:{}:{}", client.username, client.realm, client.password)).to_vec()
}

/// USERHASH (RFC 8489 §14.4).
pub(crate) fn userhash(client: &Client) -> Vec<u8> {
    Sha256::digest(format!("{}:{}", client.username, client.realm)).to_vec()
}

/// CRC-32 of ITU-T V.42, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
