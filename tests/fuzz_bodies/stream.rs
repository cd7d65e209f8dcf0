//! Streams: however their bytes arrive, the same messages come out.

use std::io::{self, ErrorKind, Read};

use relay::base::time::Instant;
use relay::net::stream::{StreamConn, StreamError, StreamLimits};
use relay::wire::framing::{Framing, MAX_FRAME, next_frame};

use super::Bytes;

/// Bytes that arrive in portions.
struct Portions<'a> {
    left: &'a [u8],
    sizes: &'a [u8],
    next: usize,
    paused: bool,
}

impl Read for Portions<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.paused = !self.paused;
        if self.paused && self.next > 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let size = match self.sizes {
            [] => usize::MAX,
            sizes => usize::from(sizes[self.next % sizes.len()]).max(1),
        };
        self.next += 1;
        let len = size.min(out.len()).min(self.left.len());
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let (now, later) = self.left.split_at(len);
        out[..len].copy_from_slice(now);
        self.left = later;
        Ok(len)
    }
}

fn receive(bytes: &[u8], early: usize, sizes: &[u8], authenticated: bool) -> (Vec<Vec<u8>>, Option<&'static str>) {
    let (early, bytes) = bytes.split_at(early.min(bytes.len()));
    let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), None, early.to_vec());
    if authenticated {
        conn.set_authenticated();
    }
    let mut portions = Portions {
        left: bytes,
        sizes,
        next: 0,
        paused: false,
    };
    let mut messages = Vec::new();
    let mut take = |conn: &mut StreamConn| -> Result<(), StreamError> {
        while let Some(message) = conn.next_message()? {
            messages.push(message.to_vec());
        }
        Ok(())
    };
    let mut ended = take(&mut conn).err();
    while ended.is_none() && !portions.left.is_empty() {
        ended = conn
            .receive(Instant::ZERO, &mut portions)
            .err()
            .or_else(|| take(&mut conn).err());
    }
    assert!(conn.memory() <= 4 * MAX_FRAME, "{} bytes held", conn.memory());
    (messages, ended.map(|error| error.reason()))
}

/// Of a message that is too long and no TURN either, the portions decide what shows first: its length or its cookie.
fn judged(reason: &'static str) -> &'static str {
    if reason == "frame_too_long" { "framing" } else { reason }
}

/// F4: any bytes in any portions.
pub(crate) fn stream_deframer(input: &[u8]) {
    let mut input = Bytes(input);
    let (mode, early) = (input.byte(), input.byte());
    let (sizes, bytes) = (input.take(usize::from(mode % 16)), input.0);
    let authenticated = mode >= 0x40;
    let whole = receive(bytes, 0, &[], authenticated);
    for other in [
        receive(bytes, early.into(), sizes, authenticated),
        receive(bytes, 0, &[1], authenticated),
    ] {
        assert_eq!(other.0, whole.0);
        assert_eq!(other.1.map(judged), whole.1.map(judged));
    }

    // The messages are the bytes, cut.
    let joined = whole.0.concat();
    assert_eq!(bytes[..joined.len()], joined);
    for message in &whole.0 {
        assert_eq!(next_frame(message), Ok(Framing::Message(message.len())));
    }
    let rest = &bytes[joined.len()..];
    match whole.1 {
        Some("framing") => assert!(next_frame(rest).is_err()),
        Some("frame_too_long" | "unauthenticated_bytes") => {
            assert!(!authenticated, "no message is longer than it can be")
        }
        None => assert!(matches!(next_frame(rest), Ok(Framing::Need(_)))),
        Some(other) => panic!("{other}"),
    }
}
