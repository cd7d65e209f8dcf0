//! Families of the workers: sockets, batches, mailboxes, streams.

use core::time::Duration;
use std::sync::Arc;

use super::exposition::{Exposition, Sample, ShardSum};
use super::{dtls_families, http3_families};
use crate::base::cell::Cell;
use crate::net::udp::SendError;
use crate::shard::counters::{AGE_BUCKETS_MS, STREAM_CLOSE_REASONS, ShardCounters};

/// Adds them to `out`.
pub(super) fn collect(shards: &[Arc<ShardCounters>], out: &mut Exposition) {
    let sum = |cell: &dyn Fn(&ShardCounters) -> &Cell| shards.iter().map(|shard| cell(shard).get()).sum::<u64>();
    out.counter(
        "relay_worker_turns_total",
        "Turns of the workers' loops.",
        Sample::plain(sum(&|c| &c.turns)),
    );
    out.counter(
        "relay_worker_busy_seconds_total",
        "Time the workers spent working, not waiting.",
        Sample::plain(Duration::from_nanos(sum(&|c| &c.busy_nanos)).as_secs_f64()),
    );
    out.counter(
        "relay_worker_pauses_total",
        "Pauses between turns, to let a batch grow.",
        Sample::plain(sum(&|c| &c.pauses)),
    );
    out.counter(
        "relay_refusals_left_out_total",
        "Refused requests without a line in the log, because there were too many.",
        Sample::plain(sum(&|c| &c.refusals_left_out)),
    );
    out.counter(
        "relay_allocation_lines_left_out_total",
        "Allocations that began, moved or ended without a line in the log, because there were too many.",
        Sample::plain(sum(&|c| &c.allocation_lines_left_out)),
    );
    received(&sum, out);
    sent(&sum, out);
    let on = |cell: fn(&ShardCounters) -> &Cell| shards.iter().all(|shard| cell(shard).get() == 1);
    out.gauge(
        "relay_udp_offload",
        "1 if the kernel coalesces received datagrams (gro) or segments sent ones (gso).",
        [
            Sample::with([("kind", "gro")], on(|c| &c.gro)),
            Sample::with([("kind", "gso")], on(|c| &c.gso)),
        ],
    );
    between(&sum, out);
    relay_sockets(&sum, out);
    streams(shards, &sum, out);
    dtls_families::collect(&sum, out);
    http3_families::collect(&sum, out);
}

fn received(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.counter(
        "relay_udp_receive_calls_total",
        "System calls that received datagrams.",
        Sample::plain(sum(&|c| &c.receive_calls)),
    );
    out.counter(
        "relay_udp_received_messages_total",
        "Messages received over UDP; datagrams coalesced by the kernel count as one.",
        Sample::plain(sum(&|c| &c.received_messages)),
    );
    out.counter(
        "relay_udp_received_datagrams_total",
        "Datagrams received from clients and peers.",
        Sample::plain(sum(&|c| &c.received_datagrams)),
    );
    out.counter(
        "relay_udp_receive_errors_total",
        "Errors that were pending on a socket when the relay read it.",
        Sample::plain(sum(&|c| &c.receive_errors)),
    );
    out.counter(
        "relay_udp_truncated_messages_total",
        "Received messages that were truncated and discarded.",
        Sample::plain(sum(&|c| &c.receive_truncated)),
    );
}

fn sent(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.counter(
        "relay_udp_send_calls_total",
        "System calls that sent datagrams.",
        Sample::plain(sum(&|c| &c.send_calls)),
    );
    out.counter(
        "relay_udp_sent_messages_total",
        "Messages sent over UDP; datagrams segmented by the kernel count as one.",
        Sample::plain(sum(&|c| &c.sent_messages)),
    );
    out.counter(
        "relay_udp_sent_datagrams_total",
        "Datagrams sent to clients and peers.",
        Sample::plain(sum(&|c| &c.sent_datagrams)),
    );
    out.counter(
        "relay_udp_segmented_messages_total",
        "Sent messages that hold several datagrams.",
        Sample::plain(sum(&|c| &c.gso_messages)),
    );
    out.counter(
        "relay_udp_segmented_datagrams_total",
        "Datagrams in those messages.",
        Sample::plain(sum(&|c| &c.gso_datagrams)),
    );
    out.counter(
        "relay_udp_segmentation_refused_total",
        "Messages that the kernel refused to segment; their datagrams were sent one at a time.",
        Sample::plain(sum(&|c| &c.gso_refused)),
    );
    out.counter(
        "relay_send_errors_total",
        "Datagrams that the kernel refused to send, by reason.",
        SendError::ALL
            .iter()
            .enumerate()
            .map(|(i, reason)| Sample::with([("reason", reason.as_str())], sum(&|c| &c.send_failed[i]))),
    );
}

fn between(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.counter(
        "relay_mailbox_packets_total",
        "Packets between workers (two clients of this server), by outcome.",
        [
            Sample::with([("outcome", "sent")], sum(&|c| &c.mailbox_sent)),
            Sample::with([("outcome", "received")], sum(&|c| &c.mailbox_received)),
            Sample::with([("outcome", "full")], sum(&|c| &c.mailbox_full)),
        ],
    );
}

fn relay_sockets(sum: &ShardSum<'_>, out: &mut Exposition) {
    out.gauge(
        "relay_peer_sockets",
        "Open relay sockets.",
        Sample::plain(sum(&|c| &c.relay_sockets)),
    );
    out.counter(
        "relay_peer_socket_errors_total",
        "Relay sockets that could not be opened: no descriptor or memory left (exhausted), or other.",
        [
            Sample::with([("reason", "exhausted")], sum(&|c| &c.relay_exhausted)),
            Sample::with([("reason", "other")], sum(&|c| &c.relay_open_failed)),
        ],
    );
    out.counter(
        "relay_icmp_errors_total",
        "ICMP errors about relayed datagrams.",
        Sample::plain(sum(&|c| &c.icmp_errors)),
    );
}

fn streams(shards: &[Arc<ShardCounters>], sum: &ShardSum<'_>, out: &mut Exposition) {
    out.gauge(
        "relay_streams",
        "Open TCP and TLS streams of clients.",
        Sample::plain(sum(&|c| &c.streams)),
    );
    out.counter(
        "relay_streams_adopted_total",
        "Streams that workers took over from the front door.",
        Sample::plain(sum(&|c| &c.streams_adopted)),
    );
    let refused = shards
        .iter()
        .map(|shard| shard.streams_refused.load(core::sync::atomic::Ordering::Relaxed));
    out.counter(
        "relay_streams_refused_total",
        "Streams closed at once because a worker was too busy to take them.",
        Sample::plain(refused.sum::<u64>()),
    );
    out.counter(
        "relay_streams_closed_total",
        "Streams closed, by why.",
        STREAM_CLOSE_REASONS
            .iter()
            .enumerate()
            .map(|(i, why)| Sample::with([("why", why)], sum(&|c| &c.streams_closed[i]))),
    );
    out.counter(
        "relay_stream_received_bytes_total",
        "Bytes read from streams.",
        Sample::plain(sum(&|c| &c.stream_bytes_received)),
    );
    let [flushes, blocked, held] = [
        sum(&|c| &c.stream_flushes),
        sum(&|c| &c.stream_blocked),
        sum(&|c| &c.stream_held),
    ];
    out.counter(
        "relay_stream_flushes_total",
        "Flushes of streams: done, blocked by a client that reads too slowly, or held because the path to it is full.",
        [
            Sample::with([("outcome", "blocked")], blocked),
            Sample::with([("outcome", "held")], held),
            Sample::with([("outcome", "done")], flushes.saturating_sub(blocked + held)),
        ],
    );
    out.counter(
        "relay_stream_dropped_frames_total",
        "Frames dropped for a client that reads too slowly: they had waited too long (aged) or the queue was full.",
        [
            Sample::with([("reason", "aged")], sum(&|c| &c.stream_dropped_aged)),
            Sample::with([("reason", "overflowed")], sum(&|c| &c.stream_dropped_overflowed)),
        ],
    );
    queue_age(sum, out);
}

fn queue_age(sum: &ShardSum<'_>, out: &mut Exposition) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "bounds are below 1000 ms; sums stay below 2^53 µs, 285 years"
    )]
    let seconds = |value: u64, per_second: f64| value as f64 / per_second;
    let counts = (0..=AGE_BUCKETS_MS.len())
        .map(|i| sum(&|c| &c.stream_queue_age.buckets[i]))
        .collect::<Vec<_>>();
    let buckets = AGE_BUCKETS_MS
        .iter()
        .map(|&ms| seconds(ms, 1e3))
        .zip(counts.iter().copied())
        .collect::<Vec<_>>();
    let beyond = counts.last().copied().unwrap_or(0);
    let total = seconds(sum(&|c| &c.stream_queue_age.sum_micros), 1e6);
    out.histogram(
        "relay_stream_queue_age_seconds",
        "Age of the oldest application data waiting for a slow client whenever it can be written to again.",
        &buckets,
        beyond,
        total,
    );
}
