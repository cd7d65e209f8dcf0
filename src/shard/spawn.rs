//! Starts the workers' threads, and ends the process when one of them fails.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::config::ShardConfig;
use super::control;
use super::refusals::RefusalLog;
#[cfg(feature = "dtls")]
use super::table::dtls::DtlsShared;
use super::table::http3::Http3Shared;
use super::udp::sockets::Listener;
use super::worker::{Worker, WorkerParts};
use crate::net::clock::Clock;
use crate::turn::types::ShardIndex;
use crate::turn::{Config, Shared};

/// The parts of one worker for each element of `sockets`, connected with each other. Each has room
/// for `streams` new streams.
///
/// # Errors
/// The system has no randomness, or no descriptors.
pub(super) fn parts(
    config: &ShardConfig,
    turn: &Arc<Config>,
    shared: &Arc<Shared>,
    sockets: Vec<Vec<Listener>>,
    streams: usize,
) -> io::Result<Vec<WorkerParts>> {
    let count = sockets.len();
    let clock = Clock::default();
    let refusals = Arc::new(RefusalLog::new(
        u64::from_ne_bytes(random_seed()?),
        config.local_listeners.clone(),
        config.allocation_lines,
    ));
    #[cfg(feature = "dtls")]
    let dtls_shared = {
        let seed = u64::from_ne_bytes(random_seed()?);
        config.dtls.as_ref().map(|dtls| DtlsShared::new(dtls, seed))
    };
    let http3_shared = Http3Shared::new(u64::from_ne_bytes(random_seed()?));
    let ends = control::connect(count, config.mailbox, streams)?;
    let mut all = Vec::with_capacity(count);
    for (index, (listeners, (inlets, outlets))) in sockets.into_iter().zip(ends).enumerate() {
        all.push(WorkerParts {
            index: ShardIndex { index, count },
            config: config.clone(),
            clock,
            turn: Arc::clone(turn),
            shared: Arc::clone(shared),
            random: random_seed()?,
            #[cfg(feature = "dtls")]
            dtls_random: random_seed()?,
            #[cfg(feature = "dtls")]
            dtls_shared: dtls_shared.clone(),
            http3_random: u64::from_ne_bytes(random_seed()?),
            http3_shared: http3_shared.clone(),
            listeners,
            inlets,
            outlets,
            counters: Arc::default(),
            stats: Arc::default(),
            refusals: Arc::clone(&refusals),
        });
    }
    Ok(all)
}

fn random_seed<const N: usize>() -> io::Result<[u8; N]> {
    let mut seed = [0; N];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// Starts the thread of a worker and waits until the worker is complete.
///
/// # Errors
/// The thread cannot be had, or something the worker needs.
pub(super) fn spawn(parts: WorkerParts) -> io::Result<JoinHandle<()>> {
    let (ready, started) = mpsc::channel();
    let index = parts.index.index;
    let thread = std::thread::Builder::new()
        .name(format!("relay-shard-{index}"))
        .spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if let Some(hook) = &parts.config.on_thread_start {
                    hook(index);
                }
                match Worker::new(parts) {
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
                Ok(Err(error)) => abort(index, &error.to_string()),
                Err(_) => abort(index, "it panicked (see above)"),
            }
        })?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the worker's thread did not start")),
    }
}

/// If a shard dies, the kernel still steers clients to it. So the process exits, and its supervisor
/// restarts it.
fn abort(shard: usize, why: &str) -> ! {
    tracing::error!(target: "relay::shard", shard, why, "a worker has failed; the server ends");
    eprintln!("relay: worker {shard} has failed: {why}; the server ends");
    std::process::exit(70)
}
