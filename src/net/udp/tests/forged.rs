//! ICMP errors in large numbers, as any host that guesses a port can forge them. The kernel reports
//! each to the next send.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::*;

const SENT: usize = 20_000;

/// Causes real ICMP errors for `socket`, by sending from it to a closed port, until `stop`.
fn draw_errors(socket: std::net::UdpSocket, closed: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut drawn = 0;
    while !stop.load(Relaxed) {
        drawn += u64::from(socket.send_to(b"?", closed).is_err());
    }
    drawn
}

//= TURN-NET-05
#[test]
fn a_storm_of_icmp_errors_costs_no_datagram_to_another_peer() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let errors = true;
        let from = bind(addr, UdpOptions { errors, ..OPTIONS });
        let (to, closed) = (bind(addr, OPTIONS), bind(addr, OPTIONS).local_addr());
        let stop = AtomicBool::new(false);
        let (stats, drawn) = thread::scope(|scope| {
            let noise: Vec<_> = (0..2)
                .map(|_| {
                    let socket = from.as_fd().try_clone_to_owned().expect("a second handle").into();
                    let stop = &stop;
                    scope.spawn(move || draw_errors(socket, closed, stop))
                })
                .collect();
            let mut batch = SendBatch::new();
            let mut stats = SendStats::default();
            for round in 0..SENT {
                // Alone, and with others in one call.
                for _ in 0..=(round % 3) * 20 {
                    batch.push(&datagram(&to, 0..4)).expect("room");
                }
                batch.flush(b"data", NOW, |_| Some(&from));
                let some = batch.take_stats();
                stats.datagrams += some.datagrams;
                (0..stats.failed.len()).for_each(|class| stats.failed[class] += some.failed[class]);
            }
            stop.store(true, Relaxed);
            let drawn: u64 = noise.into_iter().map(|noise| noise.join().expect("no panic")).sum();
            (stats, drawn)
        });
        assert!(drawn > 1000, "{addr}: {drawn} errors are no storm");
        assert_eq!(
            stats.failed, [0; 8],
            "{addr}: of {} datagrams, with {drawn} errors",
            stats.datagrams
        );
    }
}
