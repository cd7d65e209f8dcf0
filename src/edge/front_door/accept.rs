//! The accept loop. It waits only for the next connection.

use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;
use std::fs::File;
use std::io;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::connection::ClientConnection;
use super::preface::Preface;
use super::proxy::{Ends, Neighbour, Proxies};
use super::stop::stopped;
use super::{AcceptError, Accepts, ConnectionOutcome, FrontDoor};

/// First pause after running out of file descriptors; each further one doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum of connections closed at a time without being served.
const SHED: usize = 64;

impl FrontDoor {
    /// Accepts connections until `stop` holds `true` or is gone, then lets HTTP requests finish
    /// within their bound. `proxies` are expected to send a PROXY header.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        accepts: Accepts,
        proxies: Proxies,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        let mut spare = Spare::new();
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        pause = FIRST_PAUSE;
                        if spare.regain() {
                            self.admit(socket, accepts, &proxies, &stop, &mut tasks);
                        } else {
                            // This is the last descriptor. If it served this client, all later
                            // ones would hang.
                            close_unseen(socket);
                            self.counters.count_shed();
                            spare.regain();
                        }
                    }
                    Err(error) => {
                        let kind = kind(&error);
                        self.counters.count_accept_error(kind);
                        if kind == AcceptError::Connection {
                            continue;
                        }
                        tracing::warn!(%error, "cannot accept connections; raise the limit of open files");
                        for _ in 0..spare.shed(&listener).await {
                            self.counters.count_shed();
                        }
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stopped(&mut stop) => break,
                        }
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                },
                Some(ended) = tasks.join_next() => self.note_end(ended),
                () = stopped(&mut stop) => break,
            }
        }
        drop(listener);
        let _ = tokio::time::timeout(self.limits.stop_timeout, async {
            while let Some(ended) = tasks.join_next().await {
                self.note_end(ended);
            }
        })
        .await;
    }

    /// Admits a connection and starts to classify it.
    fn admit(
        self: &Arc<Self>,
        socket: TcpStream,
        accepts: Accepts,
        proxies: &Proxies,
        stop: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) {
        self.counters.count_accepted();
        let (Ok(client), Ok(server)) = (socket.peer_addr(), socket.local_addr()) else {
            self.counters.count(ConnectionOutcome::ClientClosed);
            return;
        };
        let ends = Ends {
            client: canonical(client),
            server: canonical(server),
        };
        let neighbour = proxies.neighbour(ends.client.ip());
        let admitted = match neighbour {
            Neighbour::Client => self.admission.admit(ends.client.ip()),
            Neighbour::Proxy => self.admission.admit_proxy(ends.client.ip()),
            Neighbour::Stranger => {
                self.tell_of_stranger(ends.client);
                Err(ConnectionOutcome::UntrustedProxy)
            }
        };
        match admitted {
            Ok(guard) => {
                let connection = ClientConnection {
                    ends,
                    proxied: neighbour == Neighbour::Proxy,
                    guard,
                };
                tasks.spawn(
                    self.clone()
                        .receive(Preface::new(socket), connection, accepts, stop.clone()),
                );
            }
            Err(outcome) => {
                self.counters.count(outcome);
                // Reset instead of FIN: a flood must not leave connections in TIME_WAIT here.
                let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn note_end(&self, ended: Result<(), JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            self.counters.count(ConnectionOutcome::Panicked);
        }
    }
}

/// Writes an IPv4-mapped address as IPv4.
fn canonical(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn kind(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        _ => AcceptError::Connection,
    }
}

/// Resets a connection that cannot be served.
fn close_unseen(socket: TcpStream) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// A reserved file descriptor for closing connections that cannot be served. Without it clients
/// would hang in the backlog, and the listener would stay readable.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Another thread may have taken the descriptor since it was last free; tries to open one
    /// again.
    ///
    /// Returns whether the descriptor is reserved.
    fn regain(&mut self) -> bool {
        if self.0.is_none() {
            *self = Self::new();
        }
        self.0.is_some()
    }

    /// Accepts and closes waiting connections. Returns their number. Never suspends while the
    /// descriptor is free.
    async fn shed(&mut self, listener: &TcpListener) -> usize {
        self.0 = None;
        let count = poll_fn(|context| {
            let mut count = 0;
            while count < SHED {
                let Poll::Ready(Ok((socket, _))) = listener.poll_accept(context) else {
                    break;
                };
                close_unseen(socket);
                count += 1;
            }
            Poll::Ready(count)
        })
        .await;
        self.regain();
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_files_is_told_from_a_connection_gone() {
        let kind = |code| kind(&io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(kind(code), AcceptError::Exhausted);
        }
        for code in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::ENETDOWN] {
            assert_eq!(kind(code), AcceptError::Connection);
        }
    }

    #[test]
    fn a_client_over_ipv4_has_an_ipv4_address_on_either_kind_of_socket() {
        for (written, meant) in [
            ("[::ffff:192.0.2.1]:5000", "192.0.2.1:5000"),
            ("192.0.2.1:5000", "192.0.2.1:5000"),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ] {
            let address: std::net::SocketAddr = written.parse().expect("an address");
            assert_eq!(canonical(address).to_string(), meant);
        }
    }

    #[tokio::test]
    async fn what_waits_is_closed_unseen_so_many_at_a_time_and_the_spare_descriptor_is_had_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut waiting = Vec::new();
        for _ in 0..SHED + 6 {
            waiting.push(TcpStream::connect(address).await.expect("the kernel accepts it"));
        }
        let mut spare = Spare::new();
        let mut shed = Vec::new();
        let all = async {
            while shed.iter().sum::<usize>() < waiting.len() {
                shed.push(spare.shed(&listener).await);
                assert!(spare.0.is_some());
                tokio::task::yield_now().await;
            }
        };
        let all = tokio::time::timeout(Duration::from_secs(20), all).await;
        all.expect("the listener learns of all who wait");
        shed.retain(|count| *count > 0);
        assert_eq!(shed, [SHED, 6]);
        spare.0 = None;
        assert!(spare.regain() && spare.0.is_some());
    }
}
