//! One worker thread per core: each owns a `turn::Server`, its UDP sockets and its clients'
//! streams.
//!
//! The kernel spreads clients over the shards (SO_REUSEPORT keeps a five-tuple on one), and the
//! shard of an allocation opens its relay sockets. So shards exchange only packets from one relayed
//! address of this server to another (`hairpin_ring`), and allocations and streams that move
//! (`control`). The rest of the process uses [`Shards`].
//!
//! ```text
//! worker         the loop, and every `impl Worker`
//! table          what a worker holds, by slot: streams, DTLS associations, HTTP/3 flows, TCP peers
//! udp            UDP sockets, receive slab, send batch
//! spawn          threads                     config         how the shards work
//! control        messages to a worker        stream_intake  new streams for a worker
//! hairpin_ring   packets between shards      token          names of sockets
//! pace           when packets gather         shares         process-wide caps
//! counters       what is counted             log            lines about allocations
//! audit          how many of those           refusals       lines about refused requests
//! ```

mod audit;
mod config;
mod control;
pub mod counters;
mod hairpin_ring;
mod log;
mod pace;
pub mod question;
mod refusals;
mod shares;
mod spawn;
pub mod stream_intake;
mod table;
mod token;
mod udp;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

#[cfg(feature = "dtls")]
pub use self::config::DtlsConfig;
pub use self::config::{
    DtlsLimits, HANDSHAKE_TIMEOUT, Http3Config, Http3Limits, NEW_PER_SECOND, ShardConfig, SharedBackend, ThreadStart,
};
use self::control::{Control, ShardHandle};
pub use self::counters::ShardCounters;
pub use self::log::{LogClient, log as log_event};
use self::question::Question;
use self::refusals::RefusalLog;
pub use self::stream_intake::NewStream;
pub use self::udp::sockets::Listener;
use crate::net::clock::Clock;
use crate::turn::{Config, Counters, OwnSockets, PortGauges, Shared};

/// New streams that may wait at one shard.
const NEW_STREAMS: usize = 1024;

/// All workers.
pub struct Shards {
    shards: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    shard_counters: Vec<Arc<ShardCounters>>,
    shared: Arc<Shared>,
    clock: Clock,
    refusals: Arc<RefusalLog>,
    /// Turns over ties between equally loaded shards.
    next: AtomicUsize,
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards")
            .field("count", &self.shards.len())
            .finish_non_exhaustive()
    }
}

impl Shards {
    /// Starts one worker for each element of `sockets`, with those listeners, and returns when all
    /// of them run.
    ///
    /// # Errors
    /// `sockets` is empty, or a thread, an epoll instance or randomness cannot be had; nothing is
    /// left running then.
    pub fn start(
        config: ShardConfig,
        turn: Arc<Config>,
        shared: Arc<Shared>,
        sockets: Vec<Vec<impl Into<Listener>>>,
    ) -> io::Result<Self> {
        let listeners = |sockets: Vec<_>| sockets.into_iter().map(Into::into).collect();
        let sockets: Vec<Vec<Listener>> = sockets.into_iter().map(listeners).collect();
        let parts = spawn::parts(&config, &turn, &shared, sockets, NEW_STREAMS)?;
        let Some(first) = parts.first() else {
            let why = "at least one worker is needed";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        };
        let mut all = Self {
            shards: first.outlets.shards.clone(),
            threads: Vec::new(),
            counters: parts.iter().map(|parts| Arc::clone(&parts.counters)).collect(),
            shard_counters: parts.iter().map(|parts| Arc::clone(&parts.stats)).collect(),
            shared,
            clock: first.clock,
            refusals: Arc::clone(&first.refusals),
            next: AtomicUsize::new(0),
        };
        for parts in parts {
            all.threads.push(spawn::spawn(parts)?);
        }
        Ok(all)
    }

    /// Hands a client's stream to the shard with the fewest. Never waits: if too many wait at that
    /// shard, the stream is closed and counted.
    pub fn add_stream(&self, stream: NewStream) {
        let first = self.next.fetch_add(1, Relaxed);
        let count = self.shards.len();
        let index = (0..count)
            .map(|i| (first + i) % count)
            .min_by_key(|&i| self.shard_counters[i].streams.get())
            .unwrap_or(0);
        if !self.shards[index].add_stream(stream) {
            self.shard_counters[index].stream_refused();
        }
    }

    /// Gives every shard a new configuration. Live allocations stay.
    pub fn set_config(&self, config: Arc<Config>) {
        for shard in &self.shards {
            shard.send(Control::Config(Arc::clone(&config)));
        }
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// Asks worker `shard` something; it answers in its next turn. Whoever asks waits for the
    /// answer before it asks that worker again, so that no turn grows long. The answer of a worker
    /// that does not exist or has ended never comes.
    pub fn ask(&self, shard: usize, question: Question) {
        if let Some(shard) = self.shards.get(shard) {
            shard.send(Control::Question(question));
        }
    }

    /// What all workers hold together: revocations are made and taken back there.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The clock of the workers.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The protocol's counters, by shard.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// The workers' own counters, by shard.
    pub fn shard_counters(&self) -> &[Arc<ShardCounters>] {
        &self.shard_counters
    }

    /// Relay ports: of all shards together.
    pub fn port_gauges(&self) -> Arc<PortGauges> {
        self.shared.port_gauges()
    }

    /// Registers other sockets of this process, which the peer policy then denies.
    pub fn own_sockets(&self) -> OwnSockets {
        self.shared.own_sockets()
    }

    /// How long ago each worker's loop last turned. An idle worker turns once a second, so beyond a
    /// few seconds it hangs.
    pub fn heartbeat_ages(&self) -> Vec<Duration> {
        let now = self.clock.mono();
        self.shard_counters
            .iter()
            .map(|stats| now - crate::base::time::Instant::from_nanos(stats.heartbeat.get()))
            .collect()
    }

    /// Ends every allocation, flushes and closes every stream and socket, and waits for the workers
    /// to end, at most `timeout`. Returns whether all did. A stream added from here on is closed at
    /// once.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        for shard in &self.shards {
            shard.send(Control::Shutdown(timeout));
        }
        let deadline = self.clock.mono() + timeout + Duration::from_millis(100);
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if self.clock.mono() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.refusals.report_left_out();
        self.refusals.allocations.report_left_out();
        true
    }
}

#[cfg(test)]
mod tests;
