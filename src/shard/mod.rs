//! One worker thread per core: each owns a `turn::Server`, its UDP sockets and its clients' streams.
//!
//! The kernel deals clients out to the shards (SO_REUSEPORT keeps a five-tuple on one), and an allocation's relay sockets
//! are opened by the shard that has the allocation, so shards have nothing to do with each other, but for packets from
//! one relayed address of this server to another (`hairpin_ring`), and for allocations that move with their clients
//! (`worker::migration`). The rest of the process talks to them through [`Shards`].
//!
//! ```text
//! worker         the loop, and every `impl Worker`
//! table          what a worker holds: streams, DTLS associations, HTTP/3 flows
//! udp            UDP sockets, the slab of what was received, the send batch
//! hairpin_ring   packets between shards      stream_intake  streams that change hands
//! token          names of sockets            pace           when to let packets gather
//! counters       what is counted             shares         how many of a kind all shards may have
//! log            lines for the operator      audit          how many lines about allocations
//! refusals       lines about refused requests
//! ```

mod audit;
pub mod counters;
mod hairpin_ring;
mod log;
mod pace;
mod refusals;
mod shares;
pub mod stream_intake;
mod table;
mod token;
mod udp;
mod worker;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

pub use self::counters::ShardCounters;
pub use self::log::{LogClient, log as log_event};
use self::pace::Pace;
use self::refusals::RefusalLog;
use self::stream_intake::HandoverSender;
pub use self::stream_intake::StreamHandover;
#[cfg(feature = "dtls")]
pub use self::table::dtls::DtlsConfig;
#[cfg(feature = "dtls")]
use self::table::dtls::{Dtls, DtlsShared};
use self::table::http3::{Http3, Http3Shared};
pub use self::table::http3::{Http3Config, SharedBackend};
use self::table::streams::Streams;
use self::udp::Carrier;
pub use self::udp::sockets::Listener;
use self::udp::sockets::Sockets;
use self::worker::tcp_relay::TcpRelays;
use self::worker::{Control, EVENT_BATCH, Inlets, Worker};
use crate::base::log_throttle::Seldom;
use crate::net::clock::Clock;
use crate::net::epoll::{Epoll, Waker};
use crate::net::stream::StreamLimits;
use crate::net::udp::UdpOptions;
use crate::turn::types::ShardIndex;
use crate::turn::{Config, Counters, OwnSockets, PortGauges, Response, Server, Shared};

/// Streams that may wait to be taken over by one shard.
const HANDOVERS: usize = 1024;

/// What a worker calls with its index when its thread starts.
pub type ThreadStart = Arc<dyn Fn(usize) + Send + Sync>;

/// How the shards work. Nothing in it concerns the protocol.
#[derive(Clone)]
pub struct ShardConfig {
    /// Bounds of one stream.
    pub stream: StreamLimits,
    /// A stream is closed after this long without an allocation.
    pub idle_timeout: Duration,
    /// Answers a stream or DTLS association has before it logs in; then it is closed.
    pub unauthenticated_requests: u32,
    /// Lines about allocations, per second.
    pub allocation_lines: u32,
    /// TURN over DTLS; `None`: not served.
    #[cfg(feature = "dtls")]
    pub dtls: Option<DtlsConfig>,
    /// QUIC for a web server behind this one; `None`: there is none.
    pub http3: Option<Http3Config>,
    /// How relay sockets are set up.
    pub relay: UdpOptions,
    /// Receive slots of a shard, 64 KiB each: what it takes in before it sends.
    pub slots: usize,
    /// Bytes of the mailbox between each two shards.
    pub mailbox: usize,
    /// Longest pause to let packets gather at moderate load (`shard::pace`); zero: none.
    pub pause: Duration,
    /// How much of a client's address the log shows.
    pub log_client: LogClient,
    /// Listeners for TCP that are bound to loopback: clients from there are nobody's proxy.
    pub local_listeners: Vec<SocketAddr>,
    /// Called first thing in each worker's thread: to pin it to a core, or to restrict what it may do.
    pub on_thread_start: Option<ThreadStart>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            stream: StreamLimits::default(),
            idle_timeout: Duration::from_secs(10),
            unauthenticated_requests: 16,
            allocation_lines: 1000,
            #[cfg(feature = "dtls")]
            dtls: None,
            http3: None,
            relay: UdpOptions {
                // The memory is used only while packets wait in it; the system's maximum may be lower.
                receive_buffer: 1 << 20,
                send_buffer: 1 << 20,
                offload: true,
                errors: true,
                traffic_class: true,
            },
            slots: 64,
            mailbox: 256 * 1024,
            pause: Duration::from_micros(100),
            log_client: LogClient::Full,
            local_listeners: Vec::new(),
            on_thread_start: None,
        }
    }
}

impl fmt::Debug for ShardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardConfig")
            .field("stream", &self.stream)
            .field("idle_timeout", &self.idle_timeout)
            .field("relay", &self.relay)
            .field("slots", &self.slots)
            .field("mailbox", &self.mailbox)
            .field("pause", &self.pause)
            .field("log_client", &self.log_client)
            .finish_non_exhaustive()
    }
}

/// What leads to one worker.
struct Shard {
    control: mpsc::Sender<Control>,
    handovers: HandoverSender,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// All workers.
pub struct Shards {
    shards: Vec<Shard>,
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
    /// Starts one worker for each element of `sockets`, with those listeners, and returns when all of them run.
    ///
    /// # Errors
    /// No worker is wanted, or a thread, an epoll instance or randomness cannot be had; nothing is left running then.
    pub fn start(
        config: ShardConfig,
        turn: Arc<Config>,
        shared: Arc<Shared>,
        sockets: Vec<Vec<impl Into<Listener>>>,
    ) -> io::Result<Self> {
        let count = sockets.len();
        if count == 0 {
            let why = "at least one worker is needed";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let clock = Clock::default();
        let wakers = (0..count).map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?;
        let mut ends = mailboxes(config.mailbox, &wakers);
        let (controls, control_rxs): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel()).unzip();
        let peers: Vec<_> = controls.iter().cloned().zip(wakers.iter().cloned()).collect();
        #[cfg(feature = "dtls")]
        let dtls_shared = new_dtls_shared(&config)?;
        let http3_shared = Http3Shared::new(u64::from_ne_bytes(random_seed()?));
        let (handover_to, handovers) = stream_intake::channels(HANDOVERS, &wakers);
        let mut all = Self {
            shards: Vec::new(),
            counters: Vec::new(),
            shard_counters: Vec::new(),
            shared: Arc::clone(&shared),
            clock,
            refusals: refusal_log(&config)?,
            next: AtomicUsize::new(0),
        };
        let ways_in = sockets.into_iter().zip(control_rxs).zip(handovers);
        for (index, ((listeners, control_rx), handovers)) in ways_in.enumerate() {
            let counters = Arc::new(Counters::default());
            let stats = Arc::new(ShardCounters::default());
            let (mail_to, mail) = std::mem::take(&mut ends[index]);
            let seed = Seed {
                index: ShardIndex { index, count },
                config: config.clone(),
                clock,
                turn: Arc::clone(&turn),
                shared: Arc::clone(&shared),
                random: random_seed()?,
                #[cfg(feature = "dtls")]
                dtls_shared: dtls_shared.clone(),
                http3_shared: http3_shared.clone(),
                listeners: listeners.into_iter().map(Into::into).collect(),
                inlets: Inlets {
                    control: control_rx,
                    handovers,
                    mail,
                    waker: wakers[index].clone(),
                },
                mail_to,
                peers: peers.clone(),
                handover_to: handover_to.clone(),
                counters: Arc::clone(&counters),
                stats: Arc::clone(&stats),
                refusals: Arc::clone(&all.refusals),
            };
            let thread = seed.spawn()?;
            all.shards.push(Shard {
                control: controls[index].clone(),
                handovers: handover_to[index].clone(),
                waker: wakers[index].clone(),
                thread,
            });
            all.counters.push(counters);
            all.shard_counters.push(stats);
        }
        Ok(all)
    }

    /// Hands a client's stream to the shard with the fewest. Never waits: if that shard has too many to take over, the
    /// stream is closed, and counted.
    pub fn adopt(&self, stream: StreamHandover) {
        let first = self.next.fetch_add(1, Relaxed);
        let count = self.shards.len();
        let index = (0..count)
            .map(|i| (first + i) % count)
            .min_by_key(|&i| self.shard_counters[i].streams.get())
            .unwrap_or(0);
        if !self.shards[index].handovers.adopt(stream) {
            self.shard_counters[index].stream_refused();
        }
    }

    /// Gives every shard a new configuration. Live allocations stay.
    pub fn set_config(&self, config: Arc<Config>) {
        for shard in &self.shards {
            // A worker that is gone has taken the process with it.
            let _ = shard.control.send(Control::Config(Arc::clone(&config)));
            shard.waker.wake();
        }
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

    /// Where other sockets of this process are noted, so that they are nobody's peers.
    pub fn own_sockets(&self) -> OwnSockets {
        self.shared.own_sockets()
    }

    /// How long ago each worker last turned. Beyond a few seconds it hangs: it turns once a second even when idle.
    pub fn heartbeat_ages(&self) -> Vec<Duration> {
        let now = self.clock.mono();
        self.shard_counters
            .iter()
            .map(|stats| now - crate::base::time::Instant::from_nanos(stats.heartbeat.get()))
            .collect()
    }

    /// Ends every allocation, flushes and closes every stream and socket, and waits for the workers to end, at most
    /// `timeout`. Returns whether all did. A stream adopted from here on is closed at once.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        for shard in &self.shards {
            let _ = shard.control.send(Control::Shutdown(timeout));
            shard.waker.wake();
        }
        let deadline = self.clock.mono() + timeout + Duration::from_millis(100);
        while self.shards.iter().any(|shard| !shard.thread.is_finished()) {
            if self.clock.mono() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.refusals.say_left_out();
        self.refusals.allocations.say_left_out();
        true
    }
}

type Ends = (Vec<Option<hairpin_ring::Sender>>, Vec<hairpin_ring::Receiver>);

/// A mailbox for every ordered pair of shards: what each writes to, and what each reads from.
fn mailboxes(bytes: usize, wakers: &[Waker]) -> Vec<Ends> {
    let mut ends: Vec<Ends> = wakers.iter().map(|_| Ends::default()).collect();
    for from in 0..wakers.len() {
        for (to, waker) in wakers.iter().enumerate() {
            let sender = (from != to).then(|| {
                let (sender, receiver) = hairpin_ring::mailbox(bytes, waker.clone());
                ends[to].1.push(receiver);
                sender
            });
            ends[from].0.push(sender);
        }
    }
    ends
}

fn refusal_log(config: &ShardConfig) -> io::Result<Arc<RefusalLog>> {
    let seed = u64::from_ne_bytes(random_seed()?);
    Ok(Arc::new(RefusalLog::new(
        seed,
        config.local_listeners.clone(),
        config.allocation_lines,
    )))
}

fn new_http3(config: Option<Http3Config>, shared: Http3Shared) -> io::Result<Option<Http3>> {
    let seed = random_seed()?;
    Ok(config.map(|config| Http3::new(config, shared, u64::from_ne_bytes(seed))))
}

#[cfg(feature = "dtls")]
fn new_dtls_shared(config: &ShardConfig) -> io::Result<Option<DtlsShared>> {
    let seed = random_seed()?;
    let shared = |dtls| DtlsShared::new(dtls, u64::from_ne_bytes(seed));
    Ok(config.dtls.as_ref().map(shared))
}

fn random_seed<const N: usize>() -> io::Result<[u8; N]> {
    let mut seed = [0; N];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// Everything a worker is made of. It is put together in its own thread, because parts of it never leave that.
struct Seed {
    index: ShardIndex,
    config: ShardConfig,
    clock: Clock,
    turn: Arc<Config>,
    shared: Arc<Shared>,
    random: [u8; 32],
    #[cfg(feature = "dtls")]
    dtls_shared: Option<DtlsShared>,
    http3_shared: Http3Shared,
    listeners: Vec<Listener>,
    inlets: Inlets,
    mail_to: Vec<Option<hairpin_ring::Sender>>,
    peers: Vec<(mpsc::Sender<Control>, Waker)>,
    handover_to: Vec<HandoverSender>,
    counters: Arc<Counters>,
    stats: Arc<ShardCounters>,
    refusals: Arc<RefusalLog>,
}

impl Seed {
    /// Starts the thread and waits until the worker stands.
    fn spawn(self) -> io::Result<JoinHandle<()>> {
        let (ready, started) = mpsc::channel();
        let index = self.index.index;
        let thread = std::thread::Builder::new()
            .name(format!("relay-shard-{index}"))
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    if let Some(hook) = &self.config.on_thread_start {
                        hook(index);
                    }
                    match self.grow() {
                        Ok(mut worker) => {
                            let _ = ready.send(Ok(()));
                            worker.run()
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                            Ok(())
                        }
                    }
                }));
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => die(index, &error.to_string()),
                    Err(_) => die(index, "it panicked (see above)"),
                }
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the worker's thread did not start")),
        }
    }

    fn grow(self) -> io::Result<Worker> {
        let Self {
            index,
            config,
            clock,
            turn,
            shared,
            random,
            #[cfg(feature = "dtls")]
            dtls_shared,
            http3_shared,
            listeners,
            inlets,
            mail_to,
            peers,
            handover_to,
            counters,
            stats,
            refusals,
        } = self;
        #[cfg(feature = "dtls")]
        let dtls = match config.dtls.zip(dtls_shared) {
            Some((dtls, shared)) => Some(Dtls::new(dtls, shared, &random_seed()?)?),
            None => None,
        };
        #[cfg(not(feature = "dtls"))]
        let dtls = None;
        let own = shared.own_sockets();
        let now = clock.now();
        let server = Server::new(now.mono, turn, shared, index, random, Arc::clone(&counters));
        let http3 = new_http3(config.http3, http3_shared)?;
        let most_flows = http3.as_ref().map_or(0, Http3::most_flows);
        let sockets = Sockets::new(listeners, most_flows, config.relay, own);
        stats.heartbeat.set(now.mono.as_nanos());
        Ok(Worker {
            index: index.index,
            clock,
            now,
            server,
            response: Response::new(),
            epoll: Epoll::new(EVENT_BATCH)?,
            carrier: Carrier::new(sockets, config.slots, Arc::clone(&counters), Arc::clone(&stats)),
            tcp: TcpRelays::new(config.stream.write_timeout),
            streams: Streams::new(config.stream),
            dtls,
            http3,
            departed: Vec::new(),
            inlets,
            mail_to,
            peers,
            detached: Vec::new(),
            handover_to,
            counters,
            stats,
            pace: Pace::new(config.pause),
            idle_timeout: config.idle_timeout,
            unauthenticated_requests: config.unauthenticated_requests,
            log_client: config.log_client,
            refusals,
            turns: 0,
            packets: 0,
            visits: 0,
            backends_wait: false,
            relay_batch: 0,
            next_scan: now.mono,
            scan_part: 0,
            no_relay_socket: Seldom::default(),
            stop_at: None,
        })
    }
}

/// A server without one of its shards would go on taking that shard's clients and serve none of them. So it ends, and
/// whoever supervises it starts it anew.
fn die(shard: usize, why: &str) -> ! {
    tracing::error!(target: "relay::shard", shard, why, "a worker has failed; the server ends");
    eprintln!("relay: worker {shard} has failed: {why}; the server ends");
    std::process::exit(70)
}

#[cfg(test)]
mod tests;
