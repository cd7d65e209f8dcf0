//! The kernel's measurements of a TCP connection's path (`TCP_INFO`).

#![expect(unsafe_code, reason = "getsockopt takes pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::check;
use crate::stream::PathState;

/// Bytes of `struct tcp_info` (`linux/tcp.h`) up to the last field used here. libc's struct ends
/// long before it.
const LEN: usize = 232;
/// Offsets of its fields. The kernel only ever appends to it.
const ROUND_TRIP: usize = 68;
const BYTES_ACKED: usize = 120;
const NOT_SENT: usize = 144;
const SHORTEST_ROUND_TRIP: usize = 148;
const BYTES_SENT: usize = 200;
const BYTES_RETRANSMITTED: usize = 208;
const SEND_WINDOW: usize = 228;

/// Reads the measurements.
///
/// # Errors
/// Not a TCP socket, or a kernel before 5.4, which does not report the window.
pub fn path_state(fd: BorrowedFd<'_>) -> io::Result<PathState> {
    let mut info = [0_u8; LEN];
    let mut len = LEN as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `len` is the exact size of `info`, which is
    // plain bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(result)?;
    if (len as usize) < LEN {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let acknowledged = u64::from_ne_bytes(field(&info, BYTES_ACKED));
    let sent = u64::from_ne_bytes(field(&info, BYTES_SENT));
    let again = u64::from_ne_bytes(field(&info, BYTES_RETRANSMITTED));
    Ok(PathState {
        acknowledged,
        outstanding: sent.saturating_sub(again).saturating_sub(acknowledged)
            + u64::from(u32::from_ne_bytes(field(&info, NOT_SENT))),
        window: u32::from_ne_bytes(field(&info, SEND_WINDOW)),
        round_trip: micros(field(&info, ROUND_TRIP)),
        shortest_round_trip: micros(field(&info, SHORTEST_ROUND_TRIP)),
    })
}

fn micros(bytes: [u8; 4]) -> Duration {
    Duration::from_micros(u64::from(u32::from_ne_bytes(bytes)))
}

fn field<const N: usize>(info: &[u8; LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&info[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Instant;

    /// The measurements of `socket` once `enough` accepts them; acknowledgements take a moment.
    fn eventually(socket: &TcpStream, mut enough: impl FnMut(&PathState) -> bool) -> PathState {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = path_state(socket.as_fd()).unwrap();
            if enough(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{state:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_tells_what_was_taken_what_waits_and_how_full_the_reader_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut writer, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        let begun = path_state(writer.as_fd()).unwrap();
        assert_eq!(begun.outstanding, 0);
        assert!(begun.window > 0);
        assert!(
            begun.shortest_round_trip <= begun.round_trip && begun.round_trip < Duration::from_secs(1),
            "{begun:?}"
        );

        // As much as the buffers of both sides hold.
        let mut written = 0;
        while let Ok(len) = writer.write(&[0; 16 * 1024]) {
            written += len as u64;
        }
        // The reader's window is nearly used up, and the rest waits here.
        let full = eventually(&writer, |state| state.window < begun.window / 2);
        assert!(full.outstanding > 0);
        let taken = full.acknowledged - begun.acknowledged;
        assert!(
            taken + full.outstanding <= written + 1 && taken + full.outstanding + 1 >= written,
            "{full:?} of {written}"
        );

        reader.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        let empty = eventually(&writer, |state| {
            while reader.read(&mut buffer).is_ok_and(|len| len > 0) {}
            state.outstanding == 0
        });
        assert!(empty.acknowledged - begun.acknowledged >= written);
        eventually(&writer, |state| state.window > begun.window / 2);
    }

    #[test]
    fn another_kind_of_socket_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(path_state(socket.as_fd()).is_err());
    }
}
