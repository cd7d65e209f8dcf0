//! One connection, from its first byte to whoever serves it.

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::accept::stopped;
use super::admission::{ConnectionGuard, Displacement};
use super::classify::{FirstBytes, recognise};
use super::http::{self, ConnectionInfo};
use super::preface::{Arrival, HeaderError};
use super::proxy::Ends;
use super::routes::BackendRoute;
use super::splice::{Activity, SpliceEnd};
use super::{Accepts, Behind, ConnectionOutcome, FrontDoor};
use crate::base::address::Transport;
use crate::edge::certificates::{ALPN_HTTP, ALPN_TURN};
use crate::net::stream::KERNEL_UNSENT;
use crate::shard::stream_intake::NewStream;

/// Room for the first plaintext of a client.
const FIRST_PLAINTEXT: usize = 2048;
/// A connection on which nothing moves is probed after this long, and as often.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Whom a connection is for.
enum Destination {
    Shard {
        socket: TcpStream,
        tls: Option<Box<rustls::ServerConnection>>,
        early: Vec<u8>,
    },
    Http {
        tls: Box<TlsStream<TcpStream>>,
        early: Vec<u8>,
    },
    Backend {
        route: Arc<BackendRoute>,
        arrival: Arrival,
    },
}

/// Whose a connection is, and that it counts.
pub(super) struct Party {
    pub(super) ends: Ends,
    /// The other end is a proxy, which has not told yet whom it speaks for.
    pub(super) proxied: bool,
    pub(super) guard: ConnectionGuard,
}

impl FrontDoor {
    /// Finds out what the client wants, and passes it on.
    pub(super) async fn receive(
        self: Arc<Self>,
        arrival: Arrival,
        mut party: Party,
        accepts: Accepts,
        mut stop: watch::Receiver<bool>,
    ) {
        prepare(&arrival.socket);
        let displacement = party.guard.displacement();
        // In this order: who is past the handshake is told of the stop.
        let told_apart = tokio::select! {
            biased;
            told_apart = self.tell_apart(arrival, &mut party, accepts, stop.clone()) => told_apart,
            () = displacement.told() => Err(ConnectionOutcome::Evicted),
            () = stopped(&mut stop) => Err(ConnectionOutcome::Stopped),
        };
        let Ends { client, server } = party.ends;
        match told_apart {
            Ok(Destination::Shard { socket, tls, early }) => {
                let transport = if tls.is_some() { Transport::Tls } else { Transport::Tcp };
                let Ok(socket) = socket.into_std() else {
                    self.counters.count(ConnectionOutcome::ClientClosed);
                    return;
                };
                self.counters.count(match transport {
                    Transport::Tls => ConnectionOutcome::Tls,
                    _ => ConnectionOutcome::Tcp,
                });
                let guard = Box::new(party.guard);
                (self.streams)(NewStream {
                    socket,
                    tls,
                    early,
                    client,
                    server,
                    transport,
                    guard,
                });
            }
            Ok(Destination::Http { tls, early }) => {
                self.counters.count(ConnectionOutcome::Https);
                let visit = ConnectionInfo {
                    activity: Activity::default(),
                    guard: Arc::new(party.guard),
                    stop,
                };
                let router = self.http.clone();
                tokio::select! {
                    () = http::serve(*tls, early, client, visit, router, &self.limits, &self.behind) => {}
                    () = displacement.told() => {}
                }
            }
            Ok(Destination::Backend { route, arrival }) => {
                let Behind { bounds, counters, .. } = &self.behind;
                let place = Arc::clone(&displacement);
                match route.take(arrival, party.ends, bounds, place).await {
                    Ok(routed) => {
                        self.counters.count(ConnectionOutcome::Routed);
                        routed.carry(bounds, counters, over(&mut stop, &displacement)).await;
                    }
                    Err(outcome) => self.counters.count(outcome),
                }
            }
            Err(outcome) => {
                self.counters.count(outcome);
                let outcome = outcome.as_str();
                tracing::debug!(client = %self.log_client.show(client), outcome, "connection closed");
            }
        }
    }

    /// By its first bytes, behind those of a proxy. A proxy has no place of its own: it would hold those of all its clients.
    async fn tell_apart(
        &self,
        mut arrival: Arrival,
        party: &mut Party,
        accepts: Accepts,
        stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        let deadline = Instant::now() + self.limits.handshake_timeout;
        if party.proxied {
            self.read_proxy_header(&mut arrival, party, deadline).await?;
        }
        let mut place = self.admission.enter(party.ends.client.ip());
        tokio::select! {
            biased;
            told_apart = self.tell_client_apart(arrival, party, accepts, deadline, stop) => told_apart,
            () = place.lost() => Err(ConnectionOutcome::Evicted),
        }
    }

    async fn tell_client_apart(
        &self,
        mut arrival: Arrival,
        party: &Party,
        accepts: Accepts,
        deadline: Instant,
        stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        match arrival.opening(deadline).await? {
            FirstBytes::Tls if accepts.tls || accepts.https => self.accept_tls(arrival, accepts, deadline, stop).await,
            FirstBytes::Turn if accepts.tcp => Ok(Destination::Shard {
                socket: arrival.socket,
                tls: None,
                early: arrival.read,
            }),
            FirstBytes::Http if accepts.https => {
                let _ = timeout(self.limits.http_header_timeout, http::refuse_plain(&mut arrival.socket)).await;
                Err(ConnectionOutcome::NotServed)
            }
            FirstBytes::Tls | FirstBytes::Turn | FirstBytes::Http => Err(ConnectionOutcome::NotServed),
            FirstBytes::Proxy => {
                self.tell_of_stranger(party.ends.client);
                Err(ConnectionOutcome::UntrustedProxy)
            }
            FirstBytes::More | FirstBytes::Unknown => Err(ConnectionOutcome::Unrecognised),
        }
    }

    /// Learns from a proxy whose connection this is.
    async fn read_proxy_header(
        &self,
        arrival: &mut Arrival,
        party: &mut Party,
        deadline: Instant,
    ) -> Result<(), ConnectionOutcome> {
        let proxy = party.ends.client;
        let ends = match arrival.proxy_header(deadline).await {
            Ok(ends) => ends,
            Err(HeaderError::Missed(outcome)) => return Err(outcome),
            Err(HeaderError::Bad(why)) => {
                tracing::warn!(
                    %proxy,
                    why,
                    "closed a connection of a trusted proxy for its PROXY header; make the proxy send one (HAProxy: \
                     send-proxy-v2, nginx: proxy_protocol on), or take it off trusted_proxies"
                );
                return Err(ConnectionOutcome::BadProxyHeader);
            }
        };
        // What it tells of itself, and what no header can say, is what the connection says.
        if let Some(ends) = ends {
            party.guard.belongs_to(ends)?;
            party.ends = ends;
        }
        party.proxied = false;
        Ok(())
    }

    /// Leaves alone what is a backend's. Of the rest, ends TLS, then looks at the first plaintext.
    async fn accept_tls(
        &self,
        mut arrival: Arrival,
        accepts: Accepts,
        deadline: Instant,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        let Some(store) = &self.tls else {
            return Err(ConnectionOutcome::NotServed);
        };
        let accepted = arrival.client_hello(deadline).await?;
        let hello = accepted.client_hello();
        if accepts.https
            && let Some(route) = hello.server_name().and_then(|name| self.behind.routes.find(name))
        {
            let route = Arc::clone(route);
            return Ok(Destination::Backend { route, arrival });
        }
        let config = store.answer(&hello, accepts.https);
        let handshake = StartHandshake::from_parts(accepted, arrival.socket);
        let mut tls = in_time(deadline, handshake.into_stream(config)).await?;

        let (turn, https) = allowed(accepts, tls.get_ref().1.alpn_protocol());
        let mut early = Vec::with_capacity(FIRST_PLAINTEXT);
        let opening = async {
            loop {
                match recognise(&early) {
                    FirstBytes::More => {}
                    opening => return Ok(opening),
                }
                if !matches!(tls.read_buf(&mut early).await, Ok(1..)) {
                    return Err(ConnectionOutcome::ClientClosed);
                }
            }
        };
        let opened = tokio::select! {
            opened = timeout(self.limits.handshake_timeout, opening) => opened.unwrap_or(Err(ConnectionOutcome::SilentTls)),
            () = stopped(&mut stop) => Err(ConnectionOutcome::Stopped),
        };
        let outcome = match opened {
            Ok(FirstBytes::Turn) if turn => return Ok(into_shard(tls, early)),
            Ok(FirstBytes::Http) if https => {
                let tls = Box::new(tls);
                return Ok(Destination::Http { tls, early });
            }
            Ok(FirstBytes::Turn | FirstBytes::Http) => ConnectionOutcome::NotServed,
            Ok(_) => ConnectionOutcome::Unrecognised,
            Err(outcome) => outcome,
        };
        // To OpenSSL the end of a stream without close_notify is an error.
        let _ = timeout(self.limits.http_header_timeout, tls.shutdown()).await;
        Err(outcome)
    }

    /// Somebody claims to be a proxy, or comes where only proxies may.
    pub(super) fn tell_of_stranger(&self, client: SocketAddr) {
        tracing::warn!(
            client = %self.log_client.show(client),
            "refused a connection that is not a trusted proxy's; if it is one, add its address to trusted_proxies of the \
             listener"
        );
    }
}

/// Returns when a connection that is passed on has to end, and why.
pub(super) async fn over(stop: &mut watch::Receiver<bool>, displacement: &Displacement) -> SpliceEnd {
    tokio::select! {
        () = stopped(stop) => SpliceEnd::Stopped,
        () = displacement.told() => SpliceEnd::Displaced,
    }
}

/// TURN and HTTP, each whether it may come. A protocol agreed on by ALPN excludes the other.
fn allowed(accepts: Accepts, alpn: Option<&[u8]>) -> (bool, bool) {
    match alpn {
        None => (accepts.tls, accepts.https),
        Some(ALPN_HTTP) => (false, accepts.https),
        Some(alpn) => (accepts.tls && ALPN_TURN.contains(&alpn), false),
    }
}

/// One step of the handshake, within the time for all of it.
async fn in_time<T>(deadline: Instant, step: impl Future<Output = std::io::Result<T>>) -> Result<T, ConnectionOutcome> {
    match timeout_at(deadline, step).await {
        Err(_) => Err(ConnectionOutcome::HandshakeTimeout),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            Err(ConnectionOutcome::HandshakeFailed)
        }
        Ok(Ok(done)) => Ok(done),
    }
}

/// Takes everything that was decrypted along.
fn into_shard(tls: TlsStream<TcpStream>, mut early: Vec<u8>) -> Destination {
    let (socket, mut connection) = tls.into_inner();
    let mut reader = connection.reader();
    // An error says that there is no more.
    while let Ok(chunk @ [_, ..]) = reader.fill_buf() {
        early.extend_from_slice(chunk);
        let len = chunk.len();
        reader.consume(len);
    }
    Destination::Shard {
        socket,
        tls: Some(Box::new(connection)),
        early,
    }
}

/// Socket options. None is worth losing a client for.
pub(super) fn prepare(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(3);
    let set = socket
        .set_tcp_nodelay(true)
        .and(socket.set_tcp_notsent_lowat(KERNEL_UNSENT))
        .and(socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "socket option refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= XPORT-12
    #[test]
    fn alpn_binds_a_client_to_what_it_asked_for() {
        let both = Accepts {
            tcp: false,
            tls: true,
            https: true,
        };
        let turn_only = Accepts { https: false, ..both };
        let http_only = Accepts { tls: false, ..both };
        type Case = (Accepts, Option<&'static [u8]>, (bool, bool));
        let cases: [Case; 9] = [
            (both, None, (true, true)),
            (both, Some(b"stun.turn"), (true, false)),
            (both, Some(b"stun.nat-discovery"), (true, false)),
            (both, Some(b"http/1.1"), (false, true)),
            (both, Some(b"acme-tls/1"), (false, false)),
            (turn_only, None, (true, false)),
            (turn_only, Some(b"stun.turn"), (true, false)),
            (http_only, None, (false, true)),
            (http_only, Some(b"stun.turn"), (false, false)),
        ];
        for (accepts, alpn, expected) in cases {
            assert_eq!(allowed(accepts, alpn), expected, "{accepts:?} {alpn:?}");
        }
    }

    #[tokio::test]
    async fn a_client_is_answered_without_delay_and_probed_when_nothing_moves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&socket);
        assert!(socket.nodelay().unwrap());
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    #[test]
    fn who_only_claims_to_be_a_proxy_is_told_of_as_much_as_the_log_may_show() {
        let limits = super::super::FrontDoorLimits {
            connections: 1,
            connections_per_source: 1,
            connections_per_network: 1,
            new_connections_per_second: 1,
            unproven: 1,
            handshake_timeout: Duration::ZERO,
            http_header_timeout: Duration::ZERO,
            http_lifetime: Duration::ZERO,
            stop_timeout: Duration::ZERO,
        };
        let truncated = crate::shard::LogClient::Truncated;
        let door = FrontDoor::new(limits, truncated, None, axum::Router::new(), Behind::default(), |_| ());
        let heard = crate::edge::capture::LogCapture::new();
        door.tell_of_stranger("192.0.2.77:5000".parse().unwrap());
        assert_eq!(heard.count(&[" WARN ", "client=192.0.2.0/24", "trusted_proxies"]), 1);
    }
}
