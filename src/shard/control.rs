//! What leads to a worker: control messages, new streams and packets from other shards.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::hairpin_ring;
use super::question::Question;
use super::stream_intake::NewStream;
use crate::net::epoll::Waker;
use crate::net::udp::UdpSocket;
use crate::turn::{Config, Migration};

/// A message of the rest of the process, or of another shard, to a worker.
#[derive(Debug)]
pub(super) enum Control {
    /// Go on with this configuration.
    Config(Arc<Config>),
    /// End every allocation and stream, then stop; at the latest after this long.
    Shutdown(Duration),
    /// The control plane asks something.
    Question(Question),
    /// The front door needs the place of this stream for another one.
    Displace { slot: u32, generation: u32 },
    /// What another shard says about an allocation that moves.
    Migration(Box<MigrationEnvelope>),
}

/// A message about an allocation that moves, and the relay sockets of the allocation in it, by
/// family.
#[derive(Debug)]
pub(super) struct MigrationEnvelope {
    pub(super) migration: Migration,
    pub(super) sockets: [Option<UdpSocket>; 2],
}

/// The receiving ends of everything that leads to a worker.
pub(super) struct Inlets {
    pub(super) control: mpsc::Receiver<Control>,
    pub(super) streams: mpsc::Receiver<NewStream>,
    /// From each other shard.
    pub(super) hairpins: Vec<hairpin_ring::Receiver>,
    pub(super) waker: Waker,
}

/// Where a worker sends to other workers.
pub(super) struct Outlets {
    /// By shard, its own included.
    pub(super) shards: Vec<ShardHandle>,
    /// By shard; none to itself.
    pub(super) hairpins: Vec<Option<hairpin_ring::Sender>>,
}

/// Leads to one worker.
#[derive(Clone)]
pub(super) struct ShardHandle {
    control: mpsc::Sender<Control>,
    streams: mpsc::SyncSender<NewStream>,
    waker: Waker,
}

impl ShardHandle {
    /// Sends a message. The channel has no bound: only a worker that has ended gets none, and the
    /// process ends with it.
    pub(super) fn send(&self, message: Control) {
        let _ = self.control.send(message);
        self.waker.wake();
    }

    /// Hands a stream over. Never waits: if too many are on their way already, the stream is
    /// closed.
    ///
    /// Returns whether the worker will get it.
    pub(super) fn add_stream(&self, stream: NewStream) -> bool {
        let sent = self.streams.try_send(stream).is_ok();
        if sent {
            self.waker.wake();
        }
        sent
    }
}

/// Connects `count` workers with each other: rings of `ring_bytes`, and room for `streams` new
/// streams at each.
///
/// # Errors
/// A waker cannot be had.
pub(super) fn connect(count: usize, ring_bytes: usize, streams: usize) -> io::Result<Vec<(Inlets, Outlets)>> {
    let mut shards = Vec::with_capacity(count);
    let mut inlets = Vec::with_capacity(count);
    for _ in 0..count {
        let waker = Waker::new()?;
        let (control, control_receiver) = mpsc::channel();
        let (stream_sender, stream_receiver) = mpsc::sync_channel(streams);
        shards.push(ShardHandle {
            control,
            streams: stream_sender,
            waker: waker.clone(),
        });
        inlets.push(Inlets {
            control: control_receiver,
            streams: stream_receiver,
            hairpins: Vec::new(),
            waker,
        });
    }
    let mut outlets = Vec::with_capacity(count);
    for from in 0..count {
        let hairpins = inlets.iter_mut().enumerate().map(|(to, inlets)| {
            (from != to).then(|| {
                let (sender, receiver) = hairpin_ring::ring(ring_bytes, inlets.waker.clone());
                inlets.hairpins.push(receiver);
                sender
            })
        });
        outlets.push(Outlets {
            hairpins: hairpins.collect(),
            shards: shards.clone(),
        });
    }
    Ok(inlets.into_iter().zip(outlets).collect())
}
