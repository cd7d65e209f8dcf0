//! The system calls of the program under test, which replace those of the C library.
//!
//! A symbol that this program defines takes precedence over the C library's, also for calls from
//! the standard library and other crates. So the code under test is exactly the code that runs
//! elsewhere. A call about a descriptor of the simulated kernel, or from a thread in a simulated
//! world, goes to the simulation; every other call goes to the real kernel.

#![expect(unsafe_code, reason = "functions of the C library take pointers")]

use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use core::slice;
use std::net::SocketAddr;

use libc::{epoll_event, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use crate::bytes::{decode_address, encode_address};
use crate::kernel::{Answer, BASE, Fd};
use crate::world::{World, here};

/// The world of a call about `fd`; `None`: the real one.
fn world_of(fd: Fd) -> Option<std::sync::Arc<World>> {
    if fd < BASE { None } else { here() }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the C library's own, of this thread.
    unsafe { *libc::__errno_location() = errno };
    -1
}

fn answer(result: Answer<usize>) -> ssize_t {
    match result {
        Ok(value) => value as ssize_t,
        Err(errno) => fail(errno) as ssize_t,
    }
}

fn answer_int(result: Answer<usize>) -> c_int {
    answer(result) as c_int
}

/// The result of the real call, for a descriptor of the real kernel.
macro_rules! real {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: the arguments are those of the caller, passed on as they are.
        unsafe { libc::syscall(libc::$number $(, $argument)*) as _ }
    };
}

/// # Safety
/// `address` is null or valid for `len` bytes.
unsafe fn address_at(address: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    decode_address(unsafe { slice::from_raw_parts(address.cast(), len as usize) })
}

/// # Safety
/// `address` and `len` are null or valid, as `getsockname` wants them.
unsafe fn write_address(from: SocketAddr, address: *mut sockaddr, len: *mut socklen_t) {
    if address.is_null() || len.is_null() {
        return;
    }
    let bytes = encode_address(from);
    // SAFETY: the caller's promise; no more is written than it has room for.
    unsafe {
        let room = (*len as usize).min(bytes.len());
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast(), room);
        *len = bytes.len() as socklen_t;
    }
}

/// # Safety
/// The pieces are valid for their lengths.
unsafe fn gather(pieces: *const iovec, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for i in 0..count {
        // SAFETY: the caller's promise.
        unsafe {
            let piece = &*pieces.add(i);
            all.extend_from_slice(slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len));
        }
    }
    all
}

/// # Safety
/// As for `recvmsg`.
unsafe fn receive_message(world: &World, fd: Fd, header: &mut msghdr, flags: c_int) -> Answer<usize> {
    // SAFETY: as promised; there is one piece or none.
    let room = unsafe {
        match header.msg_iov.as_ref().filter(|_| header.msg_iovlen > 0) {
            Some(piece) => slice::from_raw_parts_mut(piece.iov_base.cast::<u8>(), piece.iov_len),
            None => &mut [],
        }
    };
    let got = if flags & libc::MSG_ERRQUEUE != 0 {
        world.receive_error(fd)?
    } else {
        world.receive_datagram(fd, room, flags)?
    };
    if let Some(from) = got.from {
        // SAFETY: as promised.
        unsafe { write_address(from, header.msg_name.cast(), &raw mut header.msg_namelen) };
    }
    let control_room = header.msg_controllen.min(got.control.len());
    // SAFETY: as promised, within the room given.
    unsafe { core::ptr::copy_nonoverlapping(got.control.as_ptr(), header.msg_control.cast(), control_room) };
    header.msg_controllen = control_room as _;
    header.msg_flags = got.flags;
    Ok(got.len)
}

/// # Safety
/// As for `sendmsg`.
unsafe fn send_message(world: &World, fd: Fd, header: &msghdr) -> Answer<usize> {
    // SAFETY: as promised.
    unsafe {
        let to = address_at(header.msg_name.cast(), header.msg_namelen);
        let control = match header.msg_controllen {
            0 => &[],
            len => slice::from_raw_parts(header.msg_control.cast::<u8>(), len),
        };
        let bytes = gather(header.msg_iov, header.msg_iovlen);
        world.send_datagram(fd, to, control, bytes)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvmmsg(
    fd: c_int,
    headers: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_recvmmsg, fd, headers, count, flags, timeout);
    };
    let mut done = 0;
    for i in 0..world.batch(count as usize) {
        // SAFETY: the caller's array has `count` headers.
        let header = unsafe { &mut *headers.add(i) };
        // SAFETY: the caller's promise.
        match unsafe { receive_message(&world, fd, &mut header.msg_hdr, flags) } {
            Ok(len) => header.msg_len = len as c_uint,
            Err(errno) if done == 0 => return fail(errno),
            Err(_) => break,
        }
        done += 1;
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvmsg(fd: c_int, header: *mut msghdr, flags: c_int) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_recvmsg, fd, header, flags);
    };
    // SAFETY: the caller's promise.
    answer(unsafe { receive_message(&world, fd, &mut *header, flags) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmmsg(fd: c_int, headers: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_sendmmsg, fd, headers, count, flags);
    };
    let mut done = 0;
    for i in 0..world.batch(count as usize) {
        // SAFETY: the caller's array has `count` headers.
        let header = unsafe { &mut *headers.add(i) };
        // SAFETY: the caller's promise.
        match unsafe { send_message(&world, fd, &header.msg_hdr) } {
            Ok(len) => header.msg_len = len as c_uint,
            Err(errno) if done == 0 => return fail(errno),
            Err(_) => break,
        }
        done += 1;
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: c_int, header: *const msghdr, flags: c_int) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_sendmsg, fd, header, flags);
    };
    // SAFETY: the caller's promise.
    answer(unsafe { send_message(&world, fd, &*header) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    bytes: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_sendto, fd, bytes, len, flags, to, to_len);
    };
    // SAFETY: the caller's promise.
    let (bytes, to) = unsafe { (slice::from_raw_parts(bytes.cast::<u8>(), len), address_at(to, to_len)) };
    answer(if world.is_datagram(fd) {
        world.send_datagram(fd, to, &[], bytes.to_vec())
    } else {
        world.write(fd, bytes)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise, passed on.
    unsafe { sendto(fd, bytes, len, flags, core::ptr::null(), 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvfrom(
    fd: c_int,
    into: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_recvfrom, fd, into, len, flags, from, from_len);
    };
    // SAFETY: the caller's promise.
    let room = unsafe { slice::from_raw_parts_mut(into.cast::<u8>(), len) };
    if !world.is_datagram(fd) {
        return answer(world.read(fd, room));
    }
    answer(world.receive_datagram(fd, room, flags).map(|got| {
        if let Some(address) = got.from {
            // SAFETY: the caller's promise.
            unsafe { write_address(address, from, from_len) };
        }
        got.len
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, into: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise, passed on.
    unsafe { recvfrom(fd, into, len, flags, core::ptr::null_mut(), core::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, into: *mut c_void, len: size_t) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_read, fd, into, len);
    };
    // SAFETY: the caller's promise.
    answer(world.read(fd, unsafe { slice::from_raw_parts_mut(into.cast::<u8>(), len) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_write, fd, bytes, len);
    };
    // SAFETY: the caller's promise.
    answer(world.write(fd, unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    let Some(world) = world_of(fd) else {
        return real!(SYS_writev, fd, pieces, count);
    };
    // SAFETY: the caller's promise.
    answer(world.write(fd, &unsafe { gather(pieces, count as usize) }))
}

#[unsafe(no_mangle)]
extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    match here() {
        Some(world) if domain == libc::AF_INET || domain == libc::AF_INET6 => answer_int(world.socket(kind)),
        _ => real!(SYS_socket, domain, kind, protocol),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_bind, fd, address, len);
    };
    // SAFETY: the caller's promise.
    let address = unsafe { address_at(address, len) };
    answer_int(address.map_or(Err(libc::EINVAL), |address| world.bind(fd, address)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_connect, fd, address, len);
    };
    // SAFETY: the caller's promise.
    let address = unsafe { address_at(address, len) };
    answer_int(address.map_or(Err(libc::EINVAL), |address| world.connect(fd, address)))
}

#[unsafe(no_mangle)]
extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_listen, fd, backlog);
    };
    answer_int(world.listen(fd, backlog as usize))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_accept4, fd, address, len, flags);
    };
    answer_int(world.accept(fd).map(|(socket, from)| {
        // SAFETY: the caller's promise.
        unsafe { write_address(from, address, len) };
        socket as usize
    }))
}

#[unsafe(no_mangle)]
extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_shutdown, fd, how);
    };
    answer_int(world.shutdown(fd))
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    if fd < BASE {
        return real!(SYS_close, fd);
    }
    // A thread that is leaving the world has nothing left in it.
    here().map_or(0, |world| answer_int(world.close(fd)))
}

/// # Safety
/// As for `getsockname`.
unsafe fn name(found: Answer<SocketAddr>, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    answer_int(found.map(|found| {
        // SAFETY: the caller's promise.
        unsafe { write_address(found, address, len) };
        0
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_getsockname, fd, address, len);
    };
    // SAFETY: the caller's promise.
    unsafe { name(world.local_name(fd), address, len) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_getpeername, fd, address, len);
    };
    // SAFETY: the caller's promise.
    unsafe { name(world.peer_name(fd), address, len) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(fd: c_int, level: c_int, option: c_int, value: *const c_void, len: socklen_t) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_setsockopt, fd, level, option, value, len);
    };
    // SAFETY: the caller's promise.
    let value = unsafe { slice::from_raw_parts(value.cast::<u8>(), len as usize) };
    answer_int(world.set_option(fd, level, option, value))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_getsockopt, fd, level, option, value, len);
    };
    answer_int(world.option(fd, level, option).map(|bytes| {
        // SAFETY: the caller's promise; no more is written than there is room for.
        unsafe {
            let room = (*len as usize).min(bytes.len());
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), room);
            *len = room as socklen_t;
        }
        0
    }))
}

/// Variadic in C. On the supported processors its one additional argument is passed the same way.
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: libc::c_ulong, argument: *mut c_int) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_ioctl, fd, request, argument);
    };
    assert_eq!(
        request,
        libc::FIONBIO as libc::c_ulong,
        "an ioctl the simulated kernel has not"
    );
    // SAFETY: the caller's promise for this request.
    world.set_nonblocking(fd, unsafe { *argument } != 0);
    0
}

/// Variadic like `ioctl`. The standard library uses it to check whether a descriptor that it closes
/// is open.
#[unsafe(no_mangle)]
extern "C" fn fcntl(fd: c_int, command: c_int, argument: libc::c_ulong) -> c_int {
    let Some(world) = world_of(fd) else {
        return real!(SYS_fcntl, fd, command, argument);
    };
    assert_eq!(command, libc::F_GETFD, "an fcntl the simulated kernel has not");
    answer_int(world.is_open(fd))
}

#[unsafe(no_mangle)]
extern "C" fn eventfd(value: c_uint, flags: c_int) -> c_int {
    here().map_or_else(
        || real!(SYS_eventfd2, value, flags),
        |world| answer_int(world.eventfd()),
    )
}

#[unsafe(no_mangle)]
extern "C" fn epoll_create1(flags: c_int) -> c_int {
    here().map_or_else(|| real!(SYS_epoll_create1, flags), |world| answer_int(world.epoll()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    let Some(world) = world_of(epoll) else {
        return real!(SYS_epoll_ctl, epoll, operation, fd, event);
    };
    // SAFETY: the caller's promise; packed, so copied out.
    let event = unsafe { event.as_ref().map(|event| (event.events, event.u64)) };
    answer_int(world.watch(epoll, operation, fd, event.unwrap_or_default()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(epoll: c_int, events: *mut epoll_event, most: c_int, timeout: c_int) -> c_int {
    let Some(world) = world_of(epoll) else {
        let none: *const c_void = core::ptr::null();
        return real!(SYS_epoll_pwait, epoll, events, most, timeout, none, 8_usize);
    };
    answer_int(world.wait(epoll, most as usize, timeout).map(|ready| {
        for (i, &(bits, token)) in ready.iter().enumerate() {
            // SAFETY: the caller's array has room for `most`, and there are no more.
            unsafe {
                *events.add(i) = epoll_event {
                    events: bits,
                    u64: token,
                };
            }
        }
        ready.len()
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut timespec) -> c_int {
    let simulated = matches!(clock, libc::CLOCK_MONOTONIC | libc::CLOCK_REALTIME);
    let Some(world) = here().filter(|_| simulated) else {
        return real!(SYS_clock_gettime, clock, time);
    };
    let now = world.read_clock(clock == libc::CLOCK_REALTIME);
    // SAFETY: the caller's promise.
    unsafe {
        (*time).tv_sec = (now / 1_000_000_000) as _;
        (*time).tv_nsec = (now % 1_000_000_000) as c_long;
    }
    0
}

/// OpenSSL's clock, for the flights of a handshake.
#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, zone: *mut c_void) -> c_int {
    let Some(world) = here() else {
        return real!(SYS_gettimeofday, time, zone);
    };
    let now = world.read_clock(true);
    // SAFETY: the caller's promise.
    unsafe {
        (*time).tv_sec = (now / 1_000_000_000) as _;
        (*time).tv_usec = (now % 1_000_000_000 / 1_000) as _;
    }
    0
}

/// # Safety
/// As for `nanosleep`.
unsafe fn sleep(world: &World, length: *const timespec) -> c_int {
    // SAFETY: the caller's promise.
    let (seconds, nanos) = unsafe { ((*length).tv_sec, (*length).tv_nsec) };
    world.sleep(seconds as u64 * 1_000_000_000 + nanos as u64);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(length: *const timespec, left: *mut timespec) -> c_int {
    match here() {
        // SAFETY: the caller's promise.
        Some(world) => unsafe { sleep(&world, length) },
        None => real!(SYS_nanosleep, length, left),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: libc::clockid_t,
    flags: c_int,
    length: *const timespec,
    left: *mut timespec,
) -> c_int {
    match here() {
        // The standard library sleeps until an absolute time only in functions that nothing here
        // calls.
        // SAFETY: the caller's promise.
        Some(world) if flags == 0 => unsafe { sleep(&world, length) },
        _ => {
            let result: c_long = real!(SYS_clock_nanosleep, clock, flags, length, left);
            // Returns its error instead of setting errno.
            if result < 0 {
                std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
            } else {
                0
            }
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    let Some(world) = here().filter(|_| len > 0) else {
        return real!(SYS_getrandom, into, len, flags);
    };
    // SAFETY: the caller's promise.
    world.fill_random(unsafe { slice::from_raw_parts_mut(into.cast::<u8>(), len) });
    len as ssize_t
}

/// Callers look up the random number generator by name at run time, which would find the C
/// library's, so this function intercepts the name.
#[unsafe(no_mangle)]
unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    type Lookup = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    // SAFETY: the caller's promise: a C string.
    if unsafe { CStr::from_ptr(name) } == c"getrandom" {
        return getrandom as *mut c_void;
    }
    // SAFETY: constant C strings. The versions are those of glibc 2.34 and, before it, of each
    // processor's first.
    let own = [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"]
        .into_iter()
        .map(|version| unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) })
        .find(|found| !found.is_null());
    match own {
        // SAFETY: found under the name of a function of this type.
        Some(own) => unsafe { core::mem::transmute::<*mut c_void, Lookup>(own)(handle, name) },
        None => core::ptr::null_mut(),
    }
}
