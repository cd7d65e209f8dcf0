//! Functions of OpenSSL for DTLS servers that the `openssl` crate does not wrap: the stateless
//! listener and the timers.

#![expect(unsafe_code, reason = "calls into OpenSSL")]

use core::ffi::{c_int, c_long, c_uint, c_void};
use core::mem::MaybeUninit;
use core::time::Duration;

use foreign_types::ForeignTypeRef;
use openssl::ssl::SslRef;
use openssl_sys::{SSL, SSL_ctrl};

const DTLS_CTRL_GET_TIMEOUT: c_int = 73;
const DTLS_CTRL_HANDLE_TIMEOUT: c_int = 74;

/// An address in OpenSSL's form, used only by pointer.
#[repr(C)]
struct BioAddr {
    _opaque: [u8; 0],
}

type TimerCallback = extern "C" fn(*mut SSL, c_uint) -> c_uint;

// SAFETY: the declarations are those of <openssl/ssl.h> and <openssl/bio.h>, OpenSSL 1.1.1 and
// later.
unsafe extern "C" {
    fn DTLSv1_listen(ssl: *mut SSL, client: *mut BioAddr) -> c_int;
    fn DTLS_set_timer_cb(ssl: *mut SSL, callback: TimerCallback);
    fn BIO_ADDR_new() -> *mut BioAddr;
    fn BIO_ADDR_free(address: *mut BioAddr);
}

/// Where [`DTLSv1_listen`] writes the client's address. Its value is not used.
#[derive(Debug)]
pub(super) struct Scratch(*mut BioAddr);

impl Scratch {
    /// `None`: out of memory.
    pub(super) fn new() -> Option<Self> {
        // SAFETY: takes nothing; the result is checked.
        let address = unsafe { BIO_ADDR_new() };
        (!address.is_null()).then_some(Self(address))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made by `BIO_ADDR_new`, freed once.
        unsafe { BIO_ADDR_free(self.0) }
    }
}

/// Processes one datagram without keeping state. A ClientHello without a valid cookie is answered
/// with a HelloVerifyRequest. `true`: the cookie is valid, and `ssl` becomes that client's
/// connection (RFC 6347 §4.2.1).
pub(super) fn listen(ssl: &SslRef, scratch: &Scratch) -> bool {
    // SAFETY: both pointers are live for the call; `ssl` is used by this thread only (`Ssl` is not
    // `Sync`).
    unsafe { DTLSv1_listen(ssl.as_ptr(), scratch.0) == 1 }
}

/// Time until the last flight must be retransmitted; `None` if no flight awaits an answer.
pub(super) fn timeout(ssl: &SslRef) -> Option<Duration> {
    let mut left = MaybeUninit::<libc::timeval>::zeroed();
    // SAFETY: the call writes a `timeval` if it returns 1, to memory that has room for one; zeros
    // are a valid one.
    let left = unsafe {
        if SSL_ctrl(
            ssl.as_ptr(),
            DTLS_CTRL_GET_TIMEOUT,
            0,
            left.as_mut_ptr().cast::<c_void>(),
        ) != 1
        {
            return None;
        }
        left.assume_init()
    };
    let part = |value: c_long| u64::try_from(value).unwrap_or(0);
    Some(Duration::from_secs(part(left.tv_sec)) + Duration::from_micros(part(left.tv_usec)))
}

/// Retransmits the last flight if it is due. `false`: too many retransmissions.
pub(super) fn handle_timeout(ssl: &SslRef) -> bool {
    // SAFETY: `ssl` is live and used by this thread only; the call takes no argument.
    unsafe { SSL_ctrl(ssl.as_ptr(), DTLS_CTRL_HANDLE_TIMEOUT, 0, core::ptr::null_mut()) >= 0 }
}

/// Replaces OpenSSL's retransmission times, which start at one second and double up to a minute.
pub(super) fn set_timer(ssl: &SslRef, callback: TimerCallback) {
    // SAFETY: `ssl` is live; the callback is a plain function.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), callback) }
}

/// For tests: 100 ms for the first and every later retransmission.
pub(super) extern "C" fn soon(_: *mut SSL, _: c_uint) -> c_uint {
    100_000
}
