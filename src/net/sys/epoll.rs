//! Readiness (`epoll(7)`, level triggered) and a waker (`eventfd(2)`).
//!
//! Level triggered, because a worker takes a bounded batch from each socket and goes on: the kernel puts what is still
//! readable at the end of its ready list, which is exactly the round robin that keeps one flood from starving the rest.

#![expect(unsafe_code, reason = "epoll and eventfd system calls")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::check;

/// What to be told of a descriptor. Errors and hang-ups are always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable.
    Read,
    /// Readable or writable.
    ReadWrite,
    /// Writable.
    Write,
    /// Nothing but errors and hang-ups.
    None,
}

impl Interest {
    const fn bits(self) -> u32 {
        match self {
            Self::Read => libc::EPOLLIN as u32,
            Self::ReadWrite => (libc::EPOLLIN | libc::EPOLLOUT) as u32,
            Self::Write => libc::EPOLLOUT as u32,
            Self::None => 0,
        }
    }
}

/// One ready descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyDescriptor {
    /// As given to [`Epoll::add`].
    pub token: u64,
    /// Something to read, an end of stream among it.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
    /// An error is pending: UDP has it in the error queue.
    pub error: bool,
    /// Both directions are shut.
    pub hangup: bool,
}

/// An epoll instance with room for one wait's events.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

impl Epoll {
    /// An instance that reports at most `capacity` events at a time.
    pub fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)],
            ready: 0,
        })
    }

    fn control(&self, op: libc::c_int, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: both descriptors are open (owned, borrowed) and `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Watches `fd`. Closing the descriptor ends it.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what is watched.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Watches `fd` no more.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::None)
    }

    /// Waits until something is ready or `timeout` has passed (rounded up to milliseconds; `None`: for ever).
    /// Returns how many events there are; a signal counts as none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = timeout.map_or(-1, |t| {
            i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        self.ready = 0;
        // SAFETY: `events` is a live array of as many initialised events as the third argument says.
        let result = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                millis,
            )
        };
        match check(result) {
            Ok(n) => self.ready = n as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(self.ready)
    }

    /// Event `index` of the last wait.
    pub fn event(&self, index: usize) -> Option<ReadyDescriptor> {
        let raw = self.events[..self.ready].get(index)?;
        // Copied out: the kernel's struct is packed.
        let (bits, token) = (raw.events, raw.u64);
        let has = |flag: libc::c_int| bits & flag as u32 != 0;
        Some(ReadyDescriptor {
            token,
            readable: has(libc::EPOLLIN),
            writable: has(libc::EPOLLOUT),
            error: has(libc::EPOLLERR),
            hangup: has(libc::EPOLLHUP),
        })
    }
}

/// Ends another thread's [`Epoll::wait`]. Cheap to clone; wakes sent before the wait are not lost.
#[derive(Clone, Debug)]
pub struct Waker {
    file: Arc<File>,
}

impl Waker {
    /// A waker to be added to an [`Epoll`] with [`Interest::Read`].
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            file: Arc::new(File::from(fd)),
        })
    }

    /// Wakes. The only possible error, a counter full of unread wakes, means that it is awake already.
    pub fn wake(&self) {
        let _ = (&*self.file).write(&1u64.to_ne_bytes());
    }

    /// Takes note of all wakes so far.
    pub fn clear(&self) {
        let _ = (&*self.file).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_wake_before_the_wait_is_not_lost() {
        let mut epoll = Epoll::new(4).unwrap();
        let waker = Waker::new().unwrap();
        epoll.add(waker.as_fd(), 7, Interest::Read).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
        let other = waker.clone();
        waker.wake();
        other.wake();
        assert_eq!(epoll.wait(None).unwrap(), 1);
        let event = epoll.event(0).unwrap();
        assert_eq!((event.token, event.readable, event.error), (7, true, false));
        assert_eq!(epoll.event(1), None);
        waker.clear();
        assert_eq!(
            epoll.wait(Some(Duration::ZERO)).unwrap(),
            0,
            "all wakes are taken at once"
        );
        waker.clear();
    }

    #[test]
    fn a_wake_ends_a_wait_of_another_thread() {
        let waker = Waker::new().unwrap();
        let mut epoll = Epoll::new(1).unwrap();
        epoll.add(waker.as_fd(), 1, Interest::Read).unwrap();
        let thread = std::thread::spawn(move || epoll.wait(Some(Duration::from_secs(20))).unwrap());
        waker.wake();
        assert_eq!(thread.join().unwrap(), 1);
    }

    #[test]
    fn what_is_not_drained_is_told_again_and_interest_can_change() {
        let a = UdpSocket::bind("127.0.0.1:0").unwrap();
        a.send_to(b"x", a.local_addr().unwrap()).unwrap();
        let mut epoll = Epoll::new(1).unwrap();
        epoll.add(a.as_fd(), 1, Interest::Read).unwrap();
        for _ in 0..2 {
            assert_eq!(epoll.wait(Some(Duration::from_secs(20))).unwrap(), 1);
        }
        epoll.modify(a.as_fd(), 2, Interest::Write).unwrap();
        epoll.wait(Some(Duration::from_secs(20))).unwrap();
        let event = epoll.event(0).unwrap();
        assert_eq!((event.token, event.readable, event.writable), (2, false, true));
        epoll.modify(a.as_fd(), 3, Interest::ReadWrite).unwrap();
        epoll.wait(Some(Duration::from_secs(20))).unwrap();
        assert!(epoll.event(0).unwrap().readable);
        epoll.modify(a.as_fd(), 4, Interest::None).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_closed_descriptor_is_forgotten_and_adding_twice_is_an_error() {
        let mut epoll = Epoll::new(1).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        epoll.add(socket.as_fd(), 1, Interest::ReadWrite).unwrap();
        assert!(epoll.add(socket.as_fd(), 1, Interest::Read).is_err());
        drop(socket);
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn timeouts_round_up_to_whole_milliseconds() {
        let mut epoll = Epoll::new(1).unwrap();
        let start = std::time::Instant::now();
        epoll.wait(Some(Duration::from_micros(1_200))).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(1_200));
    }
}
