//! `recvmmsg`, `sendmmsg` and the error queue.
//!
//! The arrays for these calls persist between calls, so no call allocates. Each call first writes
//! pointers to the caller's buffers into them, and nothing reads these pointers after the call.

#![expect(unsafe_code, reason = "recvmmsg, sendmmsg and recvmsg read arrays of pointers")]

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::RawAddress;
use super::check;
use super::control::{Ancillary, ControlBuffer, ExtendedError};

fn empty_header() -> libc::mmsghdr {
    // SAFETY: all zeroes are a valid mmsghdr: null pointers with zero lengths. (Its padding differs
    // between libcs, so there is no literal.)
    unsafe { std::mem::zeroed() }
}

/// A `size_t` in glibc, a `socklen_t` in musl.
fn control_len(header: &libc::mmsghdr) -> usize {
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between libcs")]
    {
        header.msg_hdr.msg_controllen as usize
    }
}

/// The arrays of `recvmmsg`.
pub(crate) struct ReceiveCall {
    names: Vec<RawAddress>,
    controls: Vec<ControlBuffer>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// One datagram from the kernel, or several of one flow and size (`ancillary.segment`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes written into the slot.
    pub(crate) len: usize,
    /// Sender; `None` if it had no IP address.
    pub(crate) source: Option<SocketAddr>,
    /// Its control data.
    pub(crate) ancillary: Ancillary,
    /// Data or control messages did not fit: do not use it.
    pub(crate) truncated: bool,
}

impl ReceiveCall {
    /// Arrays for at most `capacity` messages at a time.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            names: vec![RawAddress::EMPTY; capacity],
            controls: vec![ControlBuffer::EMPTY; capacity],
            iovecs: vec![
                libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0
                };
                capacity
            ],
            headers: (0..capacity).map(|_| empty_header()).collect(),
        }
    }

    /// Receives into `slots` without waiting, one message each, and returns their number.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to receive. Any other is the socket's pending error, which
    /// this call has cleared.
    pub(crate) fn receive<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        slots: impl Iterator<Item = &'a mut [u8]>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (iovec, slot) in self.iovecs.iter_mut().zip(slots) {
            *iovec = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            };
            count += 1;
        }
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        let iovecs = self.iovecs.as_mut_ptr();
        for (i, header) in self.headers[..count].iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_name = names.wrapping_add(i).cast();
            header.msg_namelen = RawAddress::CAPACITY as libc::socklen_t;
            header.msg_iov = iovecs.wrapping_add(i);
            header.msg_iovlen = 1;
            header.msg_control = controls.wrapping_add(i).cast();
            header.msg_controllen = ControlBuffer::CAPACITY as _;
            header.msg_flags = 0;
        }
        if let [header] = &mut self.headers[..count] {
            return receive_one(fd, header).map(|()| 1);
        }
        // SAFETY: the first `count` headers were just filled with pointers to live memory: names,
        // controls and iovecs are fields of `self`, not resized since; each iovec covers one `&'a
        // mut` slot, borrowed until this function returns.
        let result = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        check(result).map(|n| n as usize)
    }

    /// Message `index` of the last successful [`Self::receive`].
    pub(crate) fn message(&self, index: usize) -> Received {
        let header = &self.headers[index];
        let control = self.controls[index].messages(control_len(header));
        Received {
            len: header.msg_len as usize,
            source: self.names[index].decode(header.msg_hdr.msg_namelen as usize),
            ancillary: Ancillary::read(control),
            truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        }
    }
}

/// Receives a single message, which costs the kernel less than a list of one.
fn receive_one(fd: BorrowedFd<'_>, header: &mut libc::mmsghdr) -> io::Result<()> {
    // SAFETY: only `ReceiveCall::receive` calls this, and it has just filled the header with
    // pointers to live memory.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header.msg_hdr, libc::MSG_DONTWAIT) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // No datagram is longer than 65535 bytes.
    header.msg_len = result as libc::c_uint;
    Ok(())
}

/// Destination and options of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    /// Destination; `None` on a connected socket.
    pub(crate) destination: Option<SocketAddr>,
    /// Local address to send from, on a wildcard socket.
    pub(crate) source: Option<IpAddr>,
    /// DSCP and ECN; 0 keeps those of the socket.
    pub(crate) tos: u8,
    /// Split into datagrams of this size (UDP_SEGMENT).
    pub(crate) segment: Option<u16>,
    /// The socket's family.
    pub(crate) ipv6: bool,
}

/// The arrays of `sendmmsg`.
pub(crate) struct SendCall {
    names: Vec<RawAddress>,
    controls: Vec<ControlBuffer>,
    shapes: Vec<Shape>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// The parts of the arrays that one message uses.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name_len: usize,
    control_len: usize,
    first_iovec: usize,
}

impl SendCall {
    /// Arrays for `messages` messages of `parts` pieces in total. More are possible, but allocate.
    pub(crate) fn new(messages: usize, parts: usize) -> Self {
        Self {
            names: vec![RawAddress::EMPTY; messages],
            controls: vec![ControlBuffer::EMPTY; messages],
            shapes: Vec::with_capacity(messages),
            iovecs: Vec::with_capacity(parts),
            headers: Vec::with_capacity(messages),
        }
    }

    /// Starts an empty list of messages whose bytes live for `'a`.
    pub(crate) fn compose<'a>(&mut self) -> Composer<'_, 'a> {
        self.shapes.clear();
        self.iovecs.clear();
        self.headers.clear();
        Composer {
            call: self,
            bytes: PhantomData,
        }
    }
}

/// Messages to be sent. Borrows every byte that it points to. Pointers left in the arrays
/// afterwards are dangling, and are cleared before the next use.
pub(crate) struct Composer<'c, 'a> {
    call: &'c mut SendCall,
    bytes: PhantomData<&'a [u8]>,
}

impl<'c, 'a> Composer<'c, 'a> {
    /// Begins a message; [`Self::part`] appends to it.
    pub(crate) fn message(&mut self, envelope: &Envelope) {
        let i = self.call.shapes.len();
        if i == self.call.names.len() {
            self.call.names.push(RawAddress::EMPTY);
            self.call.controls.push(ControlBuffer::EMPTY);
        }
        let mut name_len = 0;
        if let Some(destination) = envelope.destination {
            (self.call.names[i], name_len) = RawAddress::encode(destination);
        }
        let control = &mut self.call.controls[i];
        let mut control_len = 0;
        if let Some(size) = envelope.segment {
            control_len = control.segment(control_len, size);
        }
        if let Some(ip) = envelope.source {
            control_len = control.source(control_len, ip);
        }
        if envelope.tos != 0 {
            control_len = control.traffic_class(control_len, envelope.tos, envelope.ipv6);
        }
        self.call.shapes.push(Shape {
            name_len,
            control_len,
            first_iovec: self.call.iovecs.len(),
        });
    }

    /// Appends bytes to the last message.
    pub(crate) fn part(&mut self, bytes: &'a [u8]) {
        self.call.iovecs.push(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }

    /// Number of messages.
    pub(crate) fn len(&self) -> usize {
        self.call.shapes.len()
    }

    /// Number of pieces in total.
    pub(crate) fn parts(&self) -> usize {
        self.call.iovecs.len()
    }

    /// Completes the list.
    pub(crate) fn seal(self) -> Sealed<'c, 'a> {
        let call = self.call;
        let names = call.names.as_mut_ptr();
        let controls = call.controls.as_mut_ptr();
        let iovecs = call.iovecs.as_mut_ptr();
        for (i, shape) in call.shapes.iter().enumerate() {
            let end = call
                .shapes
                .get(i + 1)
                .map_or(call.iovecs.len(), |next| next.first_iovec);
            let mut header = empty_header();
            let message = &mut header.msg_hdr;
            message.msg_iov = iovecs.wrapping_add(shape.first_iovec);
            message.msg_iovlen = (end - shape.first_iovec) as _;
            if shape.name_len > 0 {
                message.msg_name = names.wrapping_add(i).cast();
                message.msg_namelen = shape.name_len as libc::socklen_t;
            }
            if shape.control_len > 0 {
                message.msg_control = controls.wrapping_add(i).cast();
                message.msg_controllen = shape.control_len as _;
            }
            call.headers.push(header);
        }
        Sealed {
            headers: &mut call.headers,
            iovecs: &call.iovecs,
            bytes: PhantomData,
        }
    }
}

/// A complete list of messages, which can be sent from any index on. Keeps the arrays and the bytes
/// borrowed.
pub(crate) struct Sealed<'c, 'a> {
    headers: &'c mut Vec<libc::mmsghdr>,
    iovecs: &'c [libc::iovec],
    bytes: PhantomData<&'a [u8]>,
}

impl Sealed<'_, '_> {
    /// Sends messages `from..` without waiting. `Ok(n)`: the first n were sent; if any is left, the
    /// next one failed.
    ///
    /// # Errors
    /// That of message `from`; nothing was sent.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        if let ([header], [iovec]) = (&self.headers[..], self.iovecs)
            && header.msg_hdr.msg_controllen == 0
        {
            return send_plain(fd, &header.msg_hdr, iovec).map(|()| 1);
        }
        let headers = &mut self.headers[from..];
        // SAFETY: `seal` filled every header with pointers into the arrays of one SendCall, which
        // stays mutably borrowed for `'c`, so none of them is resized or refilled; each iovec
        // covers bytes borrowed for `'a`. The kernel writes only `msg_len`.
        let result = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        check(result).map(|n| n as usize)
    }
}

/// Sends the only message, which does not need `sendmmsg`. A single packet per socket is the most
/// common case, and the kernel copies and checks less.
fn send_plain(fd: BorrowedFd<'_>, header: &libc::msghdr, iovec: &libc::iovec) -> io::Result<()> {
    // SAFETY: only `Sealed::send` calls this, and its pointers are valid: the piece and the name,
    // each with its length.
    let result = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            iovec.iov_base,
            iovec.iov_len,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            header.msg_name.cast(),
            header.msg_namelen,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuedError {
    /// The destination of the datagram that caused it.
    pub(crate) destination: Option<SocketAddr>,
    /// The error.
    pub(crate) error: ExtendedError,
}

/// Takes one entry from the error queue of a socket with `set_receive_errors`.
///
/// # Errors
/// `WouldBlock` if the queue is empty.
pub(crate) fn receive_error(fd: BorrowedFd<'_>) -> io::Result<Option<QueuedError>> {
    let mut name = RawAddress::EMPTY;
    let mut control = ControlBuffer::EMPTY;
    let mut header = empty_header();
    let message = &mut header.msg_hdr;
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = RawAddress::CAPACITY as libc::socklen_t;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = ControlBuffer::CAPACITY as _;
    // SAFETY: name and control point to live locals of the given lengths. There is no iovec, so the
    // kernel truncates the quoted datagram, which is not needed.
    let result = unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &raw mut header.msg_hdr,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let destination = name.decode(header.msg_hdr.msg_namelen as usize);
    let report = ExtendedError::read(control.messages(control_len(&header)));
    Ok(report.map(|error| QueuedError { destination, error }))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
