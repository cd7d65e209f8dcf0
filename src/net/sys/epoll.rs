//! Readiness (`epoll(7)`, level triggered) and a waker (`eventfd(2)`).
//!
//! Level triggered, because a worker takes a bounded batch from each socket and moves on. The
//! kernel puts a socket that is still readable at the end of its ready list. That is the round
//! robin that prevents one flood from starving the rest.

#![expect(unsafe_code, reason = "eventfd")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::check;

/// Which events of a descriptor to report. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable.
    Read,
    /// Readable or writable.
    ReadWrite,
    /// Writable.
    Write,
    /// Only errors and hang-ups.
    None,
}

impl Interest {
    const fn bits(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::ReadWrite => EventFlags::IN.union(EventFlags::OUT),
            Self::Write => EventFlags::OUT,
            Self::None => EventFlags::empty(),
        }
    }
}

/// One ready descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyDescriptor {
    /// As given to [`Epoll::add`].
    pub token: u64,
    /// Data to read, or the end of the stream.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
    /// An error is pending; for UDP, in the error queue.
    pub error: bool,
    /// Both directions are shut.
    pub hangup: bool,
}

/// An epoll instance with space for the events of one wait.
pub struct Epoll {
    fd: OwnedFd,
    /// The events of the last wait.
    events: Vec<Event>,
}

impl Epoll {
    /// An instance that reports at most `capacity` events at a time.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(capacity.max(1)),
        })
    }

    /// Watches `fd`. Closing the descriptor ends that.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), interest.bits())?)
    }

    /// Changes the watched events.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), interest.bits())?)
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits until a descriptor is ready or `timeout` has passed (rounded up to milliseconds;
    /// `None`: no limit). Returns the number of events; a signal counts as none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // The longest wait that the system supports: 25 days.
        let most = Duration::from_millis(i32::MAX as u64);
        let timeout = timeout.map(|timeout| {
            let timeout = timeout.min(most);
            Timespec {
                tv_sec: timeout.as_secs().cast_signed(),
                tv_nsec: timeout.subsec_nanos().into(),
            }
        });
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.len()),
            Err(error) => Err(error.into()),
        }
    }

    /// Event `index` of the last wait.
    pub fn event(&self, index: usize) -> Option<ReadyDescriptor> {
        let &Event { flags, data } = self.events.get(index)?;
        Some(ReadyDescriptor {
            token: data.u64(),
            readable: flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            error: flags.contains(EventFlags::ERR),
            hangup: flags.contains(EventFlags::HUP),
        })
    }
}

/// Ends another thread's [`Epoll::wait`]. Cheap to clone; wakes sent before the wait are not lost.
#[derive(Clone, Debug)]
pub struct Waker {
    file: Arc<File>,
}

impl Waker {
    /// A waker, to be added to an [`Epoll`] with [`Interest::Read`].
    pub fn new() -> io::Result<Self> {
        // `rustix` has this too, but bypasses the C library, which the worker's tests simulate.
        // SAFETY: no pointer is passed.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            file: Arc::new(File::from(fd)),
        })
    }

    /// Wakes the waiting thread. The only possible error, a full counter of unread wakes, means
    /// that it is awake already.
    pub fn wake(&self) {
        let _ = (&*self.file).write(&1u64.to_ne_bytes());
    }

    /// Clears all wakes so far.
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
        let awaited = waker.clone();
        let thread = std::thread::spawn(move || {
            let mut epoll = Epoll::new(1).unwrap();
            epoll.add(awaited.as_fd(), 1, Interest::Read).unwrap();
            epoll.wait(Some(Duration::from_secs(20))).unwrap()
        });
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
