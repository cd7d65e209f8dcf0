//! A world: a simulated kernel, virtual time, and threads that run one at a time.
//!
//! The test's thread and the workers pass a baton. A worker has it from the moment it gets events
//! until it waits for the next ones. Otherwise the test has it and chooses the next worker. So all
//! actions of a run have one order, drawn from its seed. Time advances only by the cost of calls,
//! and while all are idle.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};

use crate::datagrams::Got;
use crate::faults::Faults;
use crate::kernel::{Answer, Fd, Kernel, Object, TurnRecord};
use relay_testkit::dice::Dice;

/// Cost of a worker's system call, in nanoseconds.
const CALL: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
/// Start of the simulated wall clock, in seconds since 1970.
const EPOCH: u64 = 1_800_000_000;
/// Consecutive turns without effect.
const IDLE_TURNS: usize = 3;
/// The same for a worker that must turn again at once: it takes one handshake step per turn, which
/// the kernel does not see.
const IDLE_STEPS: usize = 24;
/// The most that a worker may take of one kind in a turn: messages of a listener, errors,
/// connections, reads of a pipe.
const BOUNDS: &[(&str, usize)] = &[("messages", 64), ("errors", 16), ("connections", 16), ("reads", 16)];

thread_local! {
    static INSIDE: RefCell<Option<Inside>> = const { RefCell::new(None) };
}

/// The world of this thread. A thread that ends has left it.
pub(crate) fn here() -> Option<Arc<World>> {
    let found = INSIDE.try_with(|inside| {
        let inside = inside.try_borrow().ok()?;
        inside.as_ref().map(|inside| Arc::clone(&inside.world))
    });
    found.ok().flatten()
}

fn role() -> usize {
    INSIDE.with_borrow(|inside| inside.as_ref().map_or(0, |inside| inside.role))
}

/// A thread's membership in a world.
struct Inside {
    world: Arc<World>,
    role: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.role > 0 {
            let mut state = self.world.lock();
            state.workers[self.role - 1] = Place::Gone;
            state.running = 0;
            self.world.changed.notify_all();
        }
    }
}

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its thread has not started yet.
    Unborn,
    /// It runs, or may run.
    Running,
    /// It waits at an epoll instance until a time.
    Waiting(Fd, u64),
    Gone,
}

pub(crate) struct State {
    pub(crate) kernel: Kernel,
    workers: Vec<Place>,
    /// Holder of the baton: 0 for the test.
    running: usize,
    /// By worker: consecutive turns without effect.
    idle: Vec<usize>,
    random: Vec<Dice>,
    /// Errors found.
    pub(crate) findings: Vec<String>,
    pub(crate) turns: u64,
}

pub(crate) struct World {
    state: Mutex<State>,
    changed: Condvar,
    pub(crate) seed: u64,
}

/// The test's thread is inside until this is dropped.
pub(crate) struct Visit;

impl Drop for Visit {
    fn drop(&mut self) {
        let inside = INSIDE.with_borrow_mut(Option::take);
        drop(inside);
    }
}

impl World {
    /// A world for this many workers. The calling thread is in it from here on.
    pub(crate) fn enter(seed: u64, workers: usize, faults: Faults) -> (Arc<Self>, Visit) {
        let world = Arc::new(Self {
            state: Mutex::new(State {
                kernel: Kernel::new(seed, faults),
                workers: vec![Place::Unborn; workers],
                running: 0,
                idle: vec![0; workers],
                random: (0..=workers as u64)
                    .map(|role| Dice::new(seed ^ (role << 40)))
                    .collect(),
                findings: Vec::new(),
                turns: 0,
            }),
            changed: Condvar::new(),
            seed,
        });
        INSIDE.set(Some(Inside {
            world: Arc::clone(&world),
            role: 0,
        }));
        // A panic of a worker ends the process.
        static SAY_SEED: Once = Once::new();
        SAY_SEED.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if let Some(world) = here() {
                    eprintln!("WORKER_SEED={}", world.seed);
                }
                before(panic);
            }));
        });
        (world, Visit)
    }

    /// The first action of a worker's thread.
    pub(crate) fn hook(self: &Arc<Self>) -> Arc<dyn Fn(usize) + Send + Sync> {
        let world = Arc::clone(self);
        Arc::new(move |index| {
            INSIDE.set(Some(Inside {
                world: Arc::clone(&world),
                role: index + 1,
            }));
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The kernel, for a call of this thread.
    fn call<T>(&self, work: impl FnOnce(&mut Kernel) -> T) -> T {
        let role = role();
        let mut state = self.lock();
        let state = &mut *state;
        state.kernel.caller = role;
        if role > 0 && state.kernel.armed {
            state.kernel.now += CALL;
        }
        let result = work(&mut state.kernel);
        state.kernel.caller = 0;
        result
    }

    /// Waits until every worker waits.
    pub(crate) fn settle(&self) {
        let mut state = self.lock();
        while state
            .workers
            .iter()
            .any(|place| matches!(place, Place::Unborn | Place::Running))
        {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.kernel.armed = true;
        state.running = 0;
        state.kernel.turn = TurnRecord::default();
    }

    /// Lets one worker turn, or advances time to the next event, at most until `limit`. `false`:
    /// `limit` is reached.
    pub(crate) fn step(&self, limit: u64) -> bool {
        let mut state = self.lock();
        // After an error this might never end.
        while state.findings.is_empty() {
            state.kernel.fire();
            let now = state.kernel.now;
            let due: Vec<usize> = (0..state.workers.len()).filter(|&i| state.is_due(i)).collect();
            if !due.is_empty() {
                let worker = *state.kernel.dice.pick(&due);
                drop(state);
                self.turn(worker);
                return true;
            }
            if now >= limit {
                return false;
            }
            let waits = state.workers.iter().filter_map(|place| match place {
                Place::Waiting(_, until) => Some(*until),
                _ => None,
            });
            let timers = state.kernel.due.keys().next().map(|&(at, _)| at);
            let next = waits.chain(timers).chain([limit]).min().unwrap_or(limit);
            state.kernel.now = next.max(now);
            if next >= now + MILLISECOND {
                state.idle.fill(0);
            }
        }
        false
    }

    /// Gives a worker the baton and waits until it returns it.
    fn turn(&self, worker: usize) {
        let mut state = self.lock();
        state.kernel.turn = TurnRecord::default();
        state.running = worker + 1;
        state.workers[worker] = Place::Running;
        state.turns += 1;
        self.changed.notify_all();
        while state.running != 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.judge_turn(worker);
    }

    /// Lets the workers run for this long.
    pub(crate) fn run_for(&self, nanos: u64) {
        let limit = self.now() + nanos;
        while self.step(limit) {}
    }

    pub(crate) fn now(&self) -> u64 {
        self.lock().kernel.now
    }

    /// Repeats a call that may block, for the test's thread, while the workers run.
    fn blocking<T>(&self, fd: Fd, mut work: impl FnMut(&mut Kernel) -> Answer<T>) -> Answer<T> {
        let begun = self.now();
        loop {
            let result = self.call(&mut work);
            if role() > 0 || !matches!(result, Err(libc::EAGAIN)) {
                return result;
            }
            let (nonblocking, patience) =
                self.call(|kernel| kernel.file(fd).map(|file| (file.nonblocking, file.patience)))?;
            let limit = if patience == 0 { u64::MAX } else { begun + patience };
            if nonblocking || !self.step(limit) {
                return result;
            }
        }
    }

    // Each function below is one system call.

    pub(crate) fn wait(&self, epoll: Fd, most: usize, timeout: i32) -> Answer<Vec<(u32, u64)>> {
        let role = role();
        assert!(role > 0, "the test waits at no epoll instance");
        let mut state = self.lock();
        let until = u64::try_from(timeout).map_or(u64::MAX, |millis| state.kernel.now + millis * MILLISECOND);
        state.kernel.caller = role;
        state.kernel.note("waits", epoll, timeout as u64);
        state.workers[role - 1] = Place::Waiting(epoll, until);
        state.running = 0;
        self.changed.notify_all();
        while state.running != role {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.kernel.caller = role;
        if state.kernel.strikes(crate::faults::Fault::WaitInterrupted) {
            return Err(libc::EINTR);
        }
        Ok(state.kernel.tell_ready(epoll, most))
    }

    pub(crate) fn sleep(&self, nanos: u64) {
        if role() == 0 {
            self.run_for(nanos);
        } else {
            // No other thread runs meanwhile, as if all were idle.
            self.call(|kernel| {
                kernel.now += nanos;
                kernel.turn.progress = true;
            });
        }
    }

    pub(crate) fn read_clock(&self, wall: bool) -> u64 {
        let now = self.call(|kernel| kernel.now);
        if wall { EPOCH * 1_000_000_000 + now } else { now }
    }

    pub(crate) fn fill_random(&self, into: &mut [u8]) {
        let role = role();
        let bytes = self.lock().random[role].bytes(into.len());
        into.copy_from_slice(&bytes);
    }

    /// How many entries of a list a call processes.
    pub(crate) fn batch(&self, count: usize) -> usize {
        self.call(|kernel| {
            if count > 1 && kernel.strikes(crate::faults::Fault::ShortBatch) {
                kernel.dice.between(1, count as u64 - 1) as usize
            } else {
                count
            }
        })
    }

    pub(crate) fn is_datagram(&self, fd: Fd) -> bool {
        self.call(|kernel| kernel.udp(fd).is_ok())
    }

    pub(crate) fn receive_datagram(&self, fd: Fd, into: &mut [u8], flags: i32) -> Answer<Got> {
        if flags & libc::MSG_DONTWAIT != 0 {
            return self.call(|kernel| kernel.receive_datagram(fd, into));
        }
        self.blocking(fd, |kernel| kernel.receive_datagram(fd, into))
    }

    pub(crate) fn receive_error(&self, fd: Fd) -> Answer<Got> {
        self.call(|kernel| kernel.receive_error(fd))
    }

    pub(crate) fn send_datagram(
        &self,
        fd: Fd,
        to: Option<SocketAddr>,
        control: &[u8],
        bytes: Vec<u8>,
    ) -> Answer<usize> {
        self.call(|kernel| kernel.send_datagram(fd, to, control, bytes))
    }

    pub(crate) fn read(&self, fd: Fd, into: &mut [u8]) -> Answer<usize> {
        self.blocking(fd, |kernel| kernel.read(fd, into))
    }

    pub(crate) fn write(&self, fd: Fd, bytes: &[u8]) -> Answer<usize> {
        self.blocking(fd, |kernel| kernel.write(fd, bytes))
    }

    pub(crate) fn socket(&self, kind: i32) -> Answer<usize> {
        self.call(|kernel| kernel.socket(kind))
    }

    pub(crate) fn bind(&self, fd: Fd, address: SocketAddr) -> Answer<usize> {
        self.call(|kernel| match kernel.file(fd)?.object {
            Object::Udp(_) => kernel.bind_udp(fd, address),
            _ => kernel.bind_tcp(fd, address),
        })
    }

    pub(crate) fn connect(&self, fd: Fd, address: SocketAddr) -> Answer<usize> {
        self.call(|kernel| match kernel.file(fd)?.object {
            Object::Udp(_) => kernel.connect_udp(fd, address),
            _ => kernel.connect_tcp(fd, address),
        })
    }

    pub(crate) fn listen(&self, fd: Fd, backlog: usize) -> Answer<usize> {
        self.call(|kernel| kernel.listen(fd, backlog))
    }

    pub(crate) fn accept(&self, fd: Fd) -> Answer<(Fd, SocketAddr)> {
        self.blocking(fd, |kernel| kernel.accept(fd))
    }

    pub(crate) fn shutdown(&self, fd: Fd) -> Answer<usize> {
        self.call(|kernel| kernel.shutdown(fd))
    }

    pub(crate) fn is_open(&self, fd: Fd) -> Answer<usize> {
        self.call(|kernel| kernel.file(fd).map(|_| 0))
    }

    /// Whether the connection of this descriptor broke by a fault.
    pub(crate) fn was_broken(&self, fd: Fd) -> bool {
        self.call(|kernel| kernel.tcp(fd).is_ok_and(|tcp| tcp.broken))
    }

    pub(crate) fn close(&self, fd: Fd) -> Answer<usize> {
        self.call(|kernel| kernel.close(fd))
    }

    pub(crate) fn local_name(&self, fd: Fd) -> Answer<SocketAddr> {
        self.call(|kernel| match &kernel.file(fd)?.object {
            Object::Udp(udp) => udp.local.ok_or(libc::EINVAL),
            Object::Tcp(tcp) => tcp.local.ok_or(libc::EINVAL),
            _ => Err(libc::ENOTSOCK),
        })
    }

    pub(crate) fn peer_name(&self, fd: Fd) -> Answer<SocketAddr> {
        self.call(|kernel| match &kernel.file(fd)?.object {
            Object::Udp(udp) => udp.connected.ok_or(libc::ENOTCONN),
            Object::Tcp(tcp) => tcp.peer.ok_or(libc::ENOTCONN),
            _ => Err(libc::ENOTSOCK),
        })
    }

    pub(crate) fn set_nonblocking(&self, fd: Fd, on: bool) {
        self.call(|kernel| {
            if let Ok(file) = kernel.file(fd) {
                file.nonblocking = on;
            }
        });
    }

    pub(crate) fn set_option(&self, fd: Fd, level: i32, option: i32, value: &[u8]) -> Answer<usize> {
        let on = value.iter().any(|&byte| byte != 0);
        self.call(|kernel| {
            let file = kernel.file(fd)?;
            match (&mut file.object, level, option) {
                (_, libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                    let part = |at: usize| {
                        value
                            .get(at..)
                            .and_then(|part| part.first_chunk())
                            .map_or(0, |&b| u64::from_ne_bytes(b))
                    };
                    file.patience = part(0) * 1_000_000_000 + part(8) * 1_000;
                }
                (Object::Udp(udp), libc::SOL_SOCKET, libc::SO_REUSEPORT) => udp.shares_port = on,
                (Object::Udp(udp), libc::SOL_UDP, 104) => udp.gro = on,
                (Object::Udp(udp), libc::SOL_IP, libc::IP_RECVTOS) => udp.tells_tos = on,
                (Object::Udp(udp), libc::SOL_IP, libc::IP_PKTINFO) => udp.tells_local = on,
                (Object::Udp(udp), libc::SOL_IP, libc::IP_RECVERR) => udp.queues_errors = on,
                (Object::Tcp(tcp), libc::SOL_SOCKET, libc::SO_LINGER) => {
                    tcp.resets = value.get(4..).is_some_and(|seconds| seconds.iter().all(|&b| b == 0)) && on
                }
                _ => {}
            }
            Ok(0)
        })
    }

    pub(crate) fn option(&self, fd: Fd, level: i32, option: i32) -> Answer<Vec<u8>> {
        self.call(|kernel| match (level, option) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => match &mut kernel.file(fd)?.object {
                Object::Udp(udp) => Ok(std::mem::take(&mut udp.pending)),
                _ => kernel.pending_error(fd),
            }
            .map(|errno| errno.to_ne_bytes().to_vec()),
            (libc::IPPROTO_TCP, libc::TCP_INFO) => kernel.tcp_info(fd),
            _ => Ok(vec![0; 4]),
        })
    }

    pub(crate) fn eventfd(&self) -> Answer<usize> {
        self.call(|kernel| Ok(kernel.open(Object::Event(0)) as usize))
    }

    pub(crate) fn epoll(&self) -> Answer<usize> {
        self.call(|kernel| Ok(kernel.open(Object::Epoll(std::collections::BTreeMap::new())) as usize))
    }

    pub(crate) fn watch(&self, epoll: Fd, operation: i32, fd: Fd, event: (u32, u64)) -> Answer<usize> {
        self.call(|kernel| kernel.watch(epoll, operation, fd, event))
    }
}

impl State {
    /// Whether a worker has a reason to turn.
    fn is_due(&self, worker: usize) -> bool {
        match self.workers[worker] {
            Place::Waiting(epoll, until) => until <= self.kernel.now || !self.kernel.ready(epoll).is_empty(),
            _ => false,
        }
    }

    /// Checks what a worker has done since it got events.
    fn judge_turn(&mut self, worker: usize) {
        let turn = std::mem::take(&mut self.kernel.turn);
        if turn.progress {
            self.idle[worker] = 0;
        } else {
            self.idle[worker] += 1;
        }
        let at_once = matches!(self.workers[worker], Place::Waiting(_, until) if until <= self.kernel.now);
        if self.idle[worker] > if at_once { IDLE_STEPS } else { IDLE_TURNS } {
            let ready = match self.workers[worker] {
                Place::Waiting(epoll, _) => self.kernel.ready(epoll),
                _ => Vec::new(),
            };
            self.findings.push(format!(
                "worker {worker} turns {} times in a row and does nothing; it was told {} events; ready: {ready:x?}",
                self.idle[worker], turn.events
            ));
        }
        for ((fd, what), count) in turn.taken {
            let most = BOUNDS
                .iter()
                .find(|(name, _)| *name == what)
                .map_or(usize::MAX, |&(_, most)| most);
            if count > most {
                self.findings.push(format!(
                    "worker {worker} takes {count} {what} of descriptor {} in a turn",
                    fd - crate::kernel::BASE
                ));
            }
        }
    }
}
