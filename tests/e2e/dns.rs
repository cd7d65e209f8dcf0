//! A name server for one domain, in a client's namespace. Chromium resolves the host of a TURN
//! server over UDP only by DNS and ignores `/etc/hosts`.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Namespace;

/// Answers on 127.0.0.1:53 of its namespace until dropped.
pub(crate) struct Dns {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Starts it. `name` and other names below the same domain resolve to `address`; no other name
    /// exists.
    pub(crate) fn start(namespace: &Namespace, name: &str, address: Ipv4Addr) -> Self {
        let socket = namespace
            .within(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)))
            .expect("port 53 is free");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout that is not zero");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let domain = wire_name(name.split_once('.').map_or(name, |(_, domain)| domain));
        let thread = thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv_from(&mut query) {
                    Ok((length, client)) => {
                        if let Some(answer) = answer(&query[..length], &domain, address) {
                            let _ = socket.send_to(&answer, client);
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("the lab's name server: {error}"),
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Length-prefixed labels and the empty one at the end, in lower case.
fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).expect("a label is at most 63 bytes"));
        wire.extend(label.to_ascii_lowercase().into_bytes());
    }
    wire.push(0);
    wire
}

/// The answer to one query; `None` for anything else. Only A records exist (RFC 1035 §4.1).
fn answer(query: &[u8], domain: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const TYPE_A: u16 = 1;
    const HEADER: usize = 12;
    if query.len() < HEADER || query[2] & 0x80 != 0 || query[4..6] != [0, 1] {
        return None;
    }
    let name_length = query[HEADER..].iter().position(|&byte| byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + name_length + 4)?;
    let below = question[..name_length].len().checked_sub(domain.len());
    let known = below.is_some_and(|at| question[at..name_length].eq_ignore_ascii_case(domain));
    let wanted = u16::from_be_bytes([question[name_length], question[name_length + 1]]);
    let answers = u8::from(known && wanted == TYPE_A);
    let code = if known { 0 } else { 3 };
    let mut reply = vec![query[0], query[1], 0x85, code, 0, 1, 0, answers, 0, 0, 0, 0];
    reply.extend_from_slice(question);
    if answers == 1 {
        // A pointer to the question's name, type A, class IN, 60 s, four bytes.
        reply.extend_from_slice(&[0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(&address.octets());
    }
    Some(reply)
}
