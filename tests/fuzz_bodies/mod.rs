//! What each fuzz target does with its input: shared by the fuzzer (`fuzz/`) and by `tests/corpus.rs`, which replays every
//! stored input in ordinary test runs. A body panics where something does not hold.

mod codec;
mod credential;
mod dtls;
mod log;
mod model;
mod policy;
mod proxy;
mod response;
mod server;
mod stream;

/// A fuzz target: its name, which is also the folder of its corpus, and its body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code, reason = "each fuzz target is a program of its own and names its body")]
pub(crate) const TARGETS: [Target; 13] = [
    ("stun_decode", stun_decode),
    ("signed_mutation", signed_mutation),
    ("channel_data", channel_data),
    ("stream_deframer", stream_deframer),
    ("demux", demux),
    ("server_ops", server_ops),
    ("address_policy", address_policy),
    ("rest_username", rest_username),
    ("nonce", nonce),
    ("response_size", response_size),
    ("proxy_header", proxy_header),
    ("log_line", log_line),
    ("dtls", dtls),
];

pub(crate) use codec::{channel_data, signed_mutation, stun_decode};
pub(crate) use credential::{nonce, rest_username};
pub(crate) use dtls::dtls;
pub(crate) use log::log_line;
pub(crate) use policy::address_policy;
pub(crate) use proxy::proxy_header;
pub(crate) use response::{demux, response_size};
pub(crate) use server::server_ops;
pub(crate) use stream::stream_deframer;

/// An input read from its front. Past its end there are zeros, so that every prefix of an input is an input.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// At most `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }
}
