//! What one shard counts beside the protocol ([`crate::turn::counters`]): sockets, batches, queues.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use crate::base::cell::Cell;
use crate::base::closed_set::closed_set;
use crate::net::stream::StreamError;
use crate::net::udp::{SendError, SendStats};

/// Why a shard closed a stream. What [`StreamError`] does not know comes first. One that has moved
/// lives on: as the client's side of a peer connection (RFC 6062), or at the shard where that is.
pub const STREAM_CLOSE_REASONS: [&str; 8 + StreamError::REASONS.len()] = {
    let mut all = [
        "client",
        "idle",
        "server",
        "control_queue",
        "shutdown",
        "unauthenticated",
        "moved",
        "displaced",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let mut i = 0;
    while i < StreamError::REASONS.len() {
        all[8 + i] = StreamError::REASONS[i];
        i += 1;
    }
    all
};

closed_set! {
    /// Why a DTLS association ended.
    DtlsClose {
        /// close_notify from the client.
        Client => "client",
        /// Without an allocation for too long.
        Idle => "idle",
        /// The handshake, or a record, failed; or the client sent a fatal alert.
        Failed => "failed",
        /// The handshake was not complete in time.
        HandshakeTimeout => "handshake_timeout",
        /// Too many handshakes, or associations: its source had the most of those without an
        /// allocation.
        Displaced => "displaced",
        /// The same client began anew.
        Replaced => "replaced",
        /// Too many requests without a login.
        Unauthenticated => "unauthenticated",
        /// The server is stopping.
        Shutdown => "shutdown",
    }
}

closed_set! {
    /// Why a datagram of DTLS went nowhere.
    DtlsDrop {
        /// Of no association, and no ClientHello.
        NoAssociation => "no_association",
        /// A ClientHello that makes no sense.
        BadHello => "bad_hello",
        /// Too many associations, in all or from its source or network.
        Limit => "limit",
        /// Its source, or network, begins associations too often.
        TooFast => "too_fast",
        /// A ClientHello with a cookie that has begun as many associations as it may.
        CookieSpent => "cookie_spent",
        /// Over the limits for challenges: not asked for a cookie.
        ChallengeLimited => "challenge_limited",
        /// Too many datagrams of one handshake at a time.
        Queue => "queue",
        /// Records that do not prove to come from the client, or carry nothing.
        Discarded => "discarded",
    }
}

closed_set! {
    /// Why an HTTP/3 flow ended.
    Http3End {
        /// Nothing came for too long.
        Idle => "idle",
        /// Its client did not show in time that it hears the backend: forged, gone, or the backend
        /// does not answer.
        Unproven => "unproven",
        /// Too many flows: its source had the most of those without proof.
        Displaced => "displaced",
        /// Its client has an allocation now.
        Allocation => "allocation",
        /// There was no socket for it.
        Failed => "failed",
        /// The server is stopping.
        Shutdown => "shutdown",
    }
}

closed_set! {
    /// Why a datagram of QUIC went nowhere.
    Http3Drop {
        /// Would begin a flow: there are too many.
        TooMany => "too_many",
        /// The same, from its source or network.
        TooManyFromSource => "too_many_from_source",
        /// Would begin a flow: too many begin.
        TooFast => "too_fast",
        /// Would begin a flow: the backend's name leads nowhere.
        NoBackend => "no_backend",
        /// Would begin a flow: there is no socket for it.
        NoSocket => "no_socket",
        /// From the backend: too much for a client that has proved nothing (RFC 9000 §8.1).
        Unproven => "unproven",
        /// At a flow's socket, and not from the backend.
        Stranger => "stranger",
    }
}

/// Upper bounds of [`Histogram`]'s buckets, in milliseconds; one bucket more holds the rest.
pub const AGE_BUCKETS_MS: [u64; 10] = [1, 5, 10, 25, 50, 75, 100, 150, 250, 500];

/// How often a duration fell into each bucket of [`AGE_BUCKETS_MS`]. Not cumulative.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Counts; the last is for everything longer.
    pub buckets: [Cell; AGE_BUCKETS_MS.len() + 1],
    /// Sum of all, in microseconds.
    pub sum_micros: Cell,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = AGE_BUCKETS_MS
            .iter()
            .position(|&ms| micros <= ms * 1000)
            .unwrap_or(AGE_BUCKETS_MS.len());
        self.buckets[bucket].add(1);
        self.sum_micros.add(micros);
    }
}

/// Written by the shard's thread (where not said otherwise), read by the metrics endpoint at any
/// time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardCounters {
    /// When the loop last turned, in nanoseconds of the shards' clock.
    pub heartbeat: Cell,
    /// Turns of the loop.
    pub turns: Cell,
    /// Time spent in turns, waiting and pausing excluded, in nanoseconds.
    pub busy_nanos: Cell,
    /// Refused requests without a line in the log, because there were too many.
    pub refusals_left_out: Cell,
    /// Allocations that began, moved or ended without a line, because there were too many.
    pub allocation_lines_left_out: Cell,
    /// Pauses between turns (see `shard::pace`).
    pub pauses: Cell,
    /// `recvmmsg` calls that brought something.
    pub receive_calls: Cell,
    /// Messages they brought; several datagrams coalesced by the kernel are one.
    pub received_messages: Cell,
    /// Datagrams they brought.
    pub received_datagrams: Cell,
    /// Errors pending on a socket when it was read.
    pub receive_errors: Cell,
    /// Messages cut short and thrown away.
    pub receive_truncated: Cell,
    /// `sendmmsg` calls.
    pub send_calls: Cell,
    /// Messages sent; several datagrams segmented by the kernel are one.
    pub sent_messages: Cell,
    /// Datagrams sent.
    pub sent_datagrams: Cell,
    /// Messages of several datagrams sent.
    pub gso_messages: Cell,
    /// Datagrams in those.
    pub gso_datagrams: Cell,
    /// Messages the kernel would not segment, sent one by one instead.
    pub gso_refused: Cell,
    /// Datagrams not sent, by [`SendError`].
    pub send_failed: [Cell; SendError::ALL.len()],
    /// Whether the kernel coalesces received datagrams (gauge, 0 or 1).
    pub gro: Cell,
    /// Whether the kernel segments sent datagrams (gauge, 0 or 1).
    pub gso: Cell,
    /// Packets given to other shards (relayed address to relayed address).
    pub mailbox_sent: Cell,
    /// Packets taken from other shards.
    pub mailbox_received: Cell,
    /// Packets lost because another shard's mailbox was full.
    pub mailbox_full: Cell,
    /// ICMP errors about relayed datagrams.
    pub icmp_errors: Cell,
    /// Open relay sockets (gauge).
    pub relay_sockets: Cell,
    /// Relay sockets that could not be opened for lack of descriptors or memory (EMFILE, ENFILE,
    /// ENOMEM, ENOBUFS).
    pub relay_exhausted: Cell,
    /// Relay sockets that could not be opened for another reason, a port in use not counted.
    pub relay_open_failed: Cell,
    /// Open streams (gauge).
    pub streams: Cell,
    /// Streams taken over from the front door.
    pub streams_adopted: Cell,
    /// Streams closed at once because the shard's mailbox was full. Written by the front door's
    /// threads.
    pub streams_refused: AtomicU64,
    /// Streams closed, by [`STREAM_CLOSE_REASONS`].
    pub streams_closed: [Cell; STREAM_CLOSE_REASONS.len()],
    /// Bytes read from streams.
    pub stream_bytes_received: Cell,
    /// Flushes of streams.
    pub stream_flushes: Cell,
    /// Flushes that ended with the socket full.
    pub stream_blocked: Cell,
    /// Flushes put off because the queues behind the socket were long already.
    pub stream_held: Cell,
    /// Frames dropped because they had waited too long.
    pub stream_dropped_aged: Cell,
    /// Frames dropped because the queue was full.
    pub stream_dropped_overflowed: Cell,
    /// DTLS associations, handshakes under way included (gauge).
    pub dtls_associations: Cell,
    /// DTLS handshakes under way (gauge).
    pub dtls_half_open: Cell,
    /// DTLS clients that were asked for a cookie.
    pub dtls_asked: Cell,
    /// DTLS handshakes completed.
    pub dtls_handshakes: Cell,
    /// DTLS associations that ended, by [`DtlsClose`].
    pub dtls_closed: [Cell; DtlsClose::ALL.len()],
    /// Datagrams of DTLS that went nowhere, by [`DtlsDrop`].
    pub dtls_dropped: [Cell; DtlsDrop::ALL.len()],
    /// HTTP/3 flows (gauge).
    pub http3_flows: Cell,
    /// Of these, those whose client has not shown that it hears the backend (gauge).
    pub http3_unproven: Cell,
    /// HTTP/3 flows that began.
    pub http3_began: Cell,
    /// HTTP/3 flows that ended, by [`Http3End`].
    pub http3_ended: [Cell; Http3End::ALL.len()],
    /// Datagrams passed on to the HTTP/3 backend, and to clients.
    pub http3_datagrams: [Cell; 2],
    /// Bytes in them.
    pub http3_bytes: [Cell; 2],
    /// Datagrams that went nowhere, by [`Http3Drop`].
    pub http3_dropped: [Cell; Http3Drop::ALL.len()],
    /// ICMP errors from where the HTTP/3 backend should be.
    pub http3_backend_errors: Cell,
    /// Age of the oldest application data whenever a slow stream can be written again.
    pub stream_queue_age: Histogram,
}

impl ShardCounters {
    /// Adds what a batch of datagrams became.
    pub(super) fn sent(&self, stats: &SendStats) {
        self.send_calls.add(stats.calls);
        self.sent_messages.add(stats.messages);
        self.sent_datagrams.add(stats.datagrams);
        self.gso_messages.add(stats.gso_messages);
        self.gso_datagrams.add(stats.gso_datagrams);
        self.gso_refused.add(stats.gso_refused);
        for (cell, &count) in self.send_failed.iter().zip(&stats.failed) {
            if count > 0 {
                cell.add(count);
            }
        }
    }

    /// Counts a closed stream; `reason` is one of [`STREAM_CLOSE_REASONS`].
    pub(super) fn stream_closed(&self, reason: &str) {
        if let Some(i) = STREAM_CLOSE_REASONS.iter().position(|&r| r == reason) {
            self.streams_closed[i].add(1);
        }
    }

    /// Counts a datagram of DTLS that went nowhere.
    #[cfg(feature = "dtls")]
    pub(super) fn dtls_drop(&self, reason: DtlsDrop) {
        self.dtls_dropped[reason as usize].add(1);
    }

    /// Counts a datagram of QUIC that went nowhere.
    pub(super) fn http3_drop(&self, reason: Http3Drop) {
        self.http3_dropped[reason as usize].add(1);
    }

    /// Counts a stream that no shard took.
    pub(super) fn stream_refused(&self) {
        self.streams_refused.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 1_000, 1_001, 150_000, 150_001, 9_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(Cell::get).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 1, 1, 0, 1]);
        assert_eq!(histogram.sum_micros.get(), 9_302_002);
    }

    #[test]
    fn every_close_reason_is_distinct_and_counted() {
        let counters = ShardCounters::default();
        for reason in STREAM_CLOSE_REASONS {
            assert!(!reason.is_empty());
            counters.stream_closed(reason);
        }
        assert!(counters.streams_closed.iter().all(|cell| cell.get() == 1));
    }
}
