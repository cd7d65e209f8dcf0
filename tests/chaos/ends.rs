//! Both ends of a connection of a TCP allocation (RFC 6062): the client's and the peer's.
//!
//! An end begins with its number, and the position of every later byte determines its value. So a
//! reader knows the sender, and that nothing was lost, duplicated or mixed up on the way.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::plug::Plug;
use crate::world::World;

const MAGIC: [u8; 4] = [0xb1, 0x7e, 0xb1, 0x7e];
/// Bytes before the pattern.
const HEAD: u64 = 12;
/// Most written at once.
const CHUNK: u64 = 8 * 1024;

/// How the connection ended for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The other end has ended its direction.
    Ended,
    /// It was reset.
    Reset,
    /// It closed its socket itself.
    Left,
}

pub(crate) struct End {
    /// Its index among all ends.
    pub(crate) number: usize,
    /// The address that the other end knows it by, and the address that it knows the other by.
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    stream: Option<Plug>,
    /// Bytes that it plans to have sent.
    planned: u64,
    pub(crate) sent: u64,
    /// It ends its direction once everything is sent; and it has done so.
    shuts: bool,
    pub(crate) shut: bool,
    pub(crate) got: u64,
    head: Vec<u8>,
    /// The end whose bytes it receives.
    pub(crate) heard: Option<usize>,
    pub(crate) over: Option<Over>,
    /// The kernel broke the connection.
    pub(crate) broken: bool,
    /// It has not read since then.
    deaf_since: Option<u64>,
    /// It has not read for so long that the server may have given up.
    pub(crate) was_deaf: bool,
}

fn byte(number: usize, at: u64) -> u8 {
    match at {
        0..4 => MAGIC[at as usize],
        4..HEAD => (number as u64).to_le_bytes()[at as usize - 4],
        _ => (number as u64).wrapping_mul(29).wrapping_add(at.wrapping_mul(11) >> 2) as u8,
    }
}

impl End {
    pub(crate) fn new(number: usize, local: SocketAddr, remote: SocketAddr, stream: Plug) -> Self {
        Self {
            number,
            local,
            remote,
            stream: Some(stream),
            planned: 0,
            sent: 0,
            shuts: false,
            shut: false,
            got: 0,
            head: Vec::new(),
            heard: None,
            over: None,
            broken: false,
            deaf_since: None,
            was_deaf: false,
        }
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Plug> {
        self.stream.as_mut()
    }

    /// Plans to send this many more bytes, unless it has ended its direction.
    pub(crate) fn plan(&mut self, bytes: u64) {
        if !self.shuts {
            self.planned += bytes + if self.planned == 0 { HEAD } else { 0 };
        }
    }

    pub(crate) fn shut_down(&mut self) {
        self.shuts = true;
    }

    pub(crate) fn be_deaf(&mut self, now: u64) {
        self.deaf_since.get_or_insert(now);
    }

    pub(crate) fn listen_again(&mut self, now: u64, patience: Duration) {
        let deaf = self.deaf_since.take().map_or(0, |since| now - since);
        self.was_deaf |= u128::from(deaf) >= patience.as_nanos();
    }

    /// Closes its socket, or resets the connection.
    pub(crate) fn leave(&mut self, reset: bool) {
        if let Some(stream) = self.stream.take()
            && reset
        {
            stream.resets();
        }
        self.over = Some(Over::Left);
    }

    /// Writes what it plans to send, as far as its socket accepts it.
    pub(crate) fn send(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while self.sent < self.planned {
            let most = self.planned.min(self.sent + CHUNK);
            let bytes: Vec<u8> = (self.sent..most).map(|at| byte(self.number, at)).collect();
            match stream.write(&bytes) {
                Ok(len) => self.sent += len as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Reported when it reads.
                Err(_) => {
                    self.shuts = true;
                    self.planned = self.sent;
                    return;
                }
            }
        }
        if self.shuts && !self.shut {
            self.shut = stream.shut_down();
        } else {
            // What TLS holds back; reading reports an error.
            let _ = stream.flush();
        }
    }

    /// Reads what has arrived. Returns what is wrong with it.
    pub(crate) fn receive(&mut self, world: &World) -> Option<String> {
        if self.deaf_since.is_some() {
            return None;
        }
        let mut buffer = vec![0; 65_536];
        loop {
            let stream = self.stream.as_mut()?;
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.over.get_or_insert(Over::Ended);
                    break;
                }
                Ok(len) => {
                    if let Some(wrong) = self.take(&buffer[..len]) {
                        return Some(wrong);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Some(format!("end {}: {error}", self.number));
                }
                Err(_) => {
                    self.over = Some(Over::Reset);
                    break;
                }
            }
        }
        self.broken |= self.stream.as_ref().is_some_and(|it| world.was_broken(it.fd()));
        None
    }

    /// Bytes from the other end.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Option<String> {
        for &found in bytes {
            let at = self.got;
            self.got += 1;
            if at < HEAD {
                self.head.push(found);
                if at + 1 < HEAD {
                    continue;
                }
                let number = self.head[4..]
                    .first_chunk()
                    .map_or(0, |&number| u64::from_le_bytes(number));
                if self.head[..4] != MAGIC {
                    return Some(format!("end {} gets {:02x?} first", self.number, self.head));
                }
                self.heard = Some(number as usize);
            } else if let Some(number) = self.heard
                && found != byte(number, at)
            {
                return Some(format!("end {} gets a wrong byte {at} of end {number}", self.number));
            }
        }
        None
    }
}
