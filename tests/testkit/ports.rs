//! Ports for programs that are told theirs in advance.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A port that is free for UDP and TCP on 127.0.0.1, below the range the kernel hands out by itself. No other test of this
/// process gets it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes of one test run start at different places; each goes its own way from there.
    let first = std::process::id().wrapping_mul(61);
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Relaxed)) % 9_000;
        let port = 10_000 + u16::try_from(number).expect("below 9,000");
        let local = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(local).is_ok() && UdpSocket::bind(local).is_ok() {
            return port;
        }
    }
}
