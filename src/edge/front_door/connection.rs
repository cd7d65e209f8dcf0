//! One connection, from its first byte to its destination.

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::admission::ConnectionGuard;
use super::classify::{FirstBytes, classify};
use super::connection_info::ConnectionInfo;
use super::preface::{HeaderError, Preface};
use super::proxy::Ends;
use super::routes::BackendRoute;
use super::socket::prepare;
use super::splice::Activity;
use super::stop::{over, stopped};
use super::{Accepts, Backends, ConnectionOutcome, FrontDoor, http};
use crate::base::address::Transport;
use crate::edge::certificates::{ALPN_HTTP, ALPN_TURN};
use crate::shard::stream_intake::NewStream;

/// Size of the first read of a client's plaintext.
const FIRST_PLAINTEXT: usize = 2048;

/// The destination of a connection.
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
        preface: Preface,
    },
}

/// A connection whose client is known and counted.
pub(super) struct ClientConnection {
    pub(super) ends: Ends,
    /// The other end is a proxy, whose header has not arrived yet.
    pub(super) proxied: bool,
    pub(super) guard: ConnectionGuard,
}

impl FrontDoor {
    /// Classifies the connection, and passes it to its destination.
    pub(super) async fn receive(
        self: Arc<Self>,
        preface: Preface,
        mut connection: ClientConnection,
        accepts: Accepts,
        mut stop: watch::Receiver<bool>,
    ) {
        prepare(&preface.socket);
        let displacement = connection.guard.displacement();
        // In this order, so that a connection past its handshake learns of the stop.
        let classified = tokio::select! {
            biased;
            classified = self.classify_connection(preface, &mut connection, accepts, stop.clone()) => classified,
            () = displacement.told() => Err(ConnectionOutcome::Evicted),
            () = stopped(&mut stop) => Err(ConnectionOutcome::Stopped),
        };
        let Ends { client, server } = connection.ends;
        match classified {
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
                let guard = Box::new(connection.guard);
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
                    guard: Arc::new(connection.guard),
                    stop,
                };
                let router = self.http.clone();
                tokio::select! {
                    () = http::serve(*tls, early, client, visit, router, &self.limits, &self.backends) => {}
                    () = displacement.told() => {}
                }
            }
            Ok(Destination::Backend { route, preface }) => {
                let Backends { bounds, counters, .. } = &self.backends;
                let place = Arc::clone(&displacement);
                match route.take(preface, connection.ends, bounds, place).await {
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

    /// Classifies by the first bytes, behind those of a proxy. A proxy has no place of its own,
    /// because it would hold those of all its clients.
    async fn classify_connection(
        &self,
        mut preface: Preface,
        connection: &mut ClientConnection,
        accepts: Accepts,
        stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        let deadline = Instant::now() + self.limits.handshake_timeout;
        if connection.proxied {
            self.read_proxy_header(&mut preface, connection, deadline).await?;
        }
        let mut place = self.admission.enter(connection.ends.client.ip());
        tokio::select! {
            biased;
            classified = self.classify_client(preface, connection, accepts, deadline, stop) => classified,
            () = place.lost() => Err(ConnectionOutcome::Evicted),
        }
    }

    async fn classify_client(
        &self,
        mut preface: Preface,
        connection: &ClientConnection,
        accepts: Accepts,
        deadline: Instant,
        stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        match preface.first_bytes(deadline).await? {
            FirstBytes::Tls if accepts.tls || accepts.https => self.accept_tls(preface, accepts, deadline, stop).await,
            FirstBytes::Turn if accepts.tcp => Ok(Destination::Shard {
                socket: preface.socket,
                tls: None,
                early: preface.read,
            }),
            FirstBytes::Http if accepts.https => {
                let _ = timeout(self.limits.http_header_timeout, http::refuse_plain(&mut preface.socket)).await;
                Err(ConnectionOutcome::NotServed)
            }
            FirstBytes::Tls | FirstBytes::Turn | FirstBytes::Http => Err(ConnectionOutcome::NotServed),
            FirstBytes::Proxy => {
                self.tell_of_stranger(connection.ends.client);
                Err(ConnectionOutcome::UntrustedProxy)
            }
            FirstBytes::More | FirstBytes::Unknown => Err(ConnectionOutcome::Unrecognised),
        }
    }

    /// Reads the client's address from a PROXY header.
    async fn read_proxy_header(
        &self,
        preface: &mut Preface,
        connection: &mut ClientConnection,
        deadline: Instant,
    ) -> Result<(), ConnectionOutcome> {
        let proxy = connection.ends.client;
        let ends = match preface.proxy_header(deadline).await {
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
        // Without addresses in the header, the connection's own apply.
        if let Some(ends) = ends {
            connection.guard.belongs_to(ends)?;
            connection.ends = ends;
        }
        connection.proxied = false;
        Ok(())
    }

    /// Forwards connections of backends unchanged. For the rest, ends TLS and reads the first
    /// plaintext.
    async fn accept_tls(
        &self,
        mut preface: Preface,
        accepts: Accepts,
        deadline: Instant,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Destination, ConnectionOutcome> {
        let Some(store) = &self.tls else {
            return Err(ConnectionOutcome::NotServed);
        };
        let accepted = preface.client_hello(deadline).await?;
        let hello = accepted.client_hello();
        if accepts.https
            && let Some(route) = hello.server_name().and_then(|name| self.backends.routes.find(name))
        {
            let route = Arc::clone(route);
            return Ok(Destination::Backend { route, preface });
        }
        let config = store.answer(&hello, accepts.https);
        let handshake = StartHandshake::from_parts(accepted, preface.socket);
        let mut tls = in_time(deadline, handshake.into_stream(config)).await?;

        let (turn, https) = allowed(accepts, tls.get_ref().1.alpn_protocol());
        let mut early = Vec::with_capacity(FIRST_PLAINTEXT);
        let reading = async {
            loop {
                match classify(&early) {
                    FirstBytes::More => {}
                    first_bytes => return Ok(first_bytes),
                }
                if !matches!(tls.read_buf(&mut early).await, Ok(1..)) {
                    return Err(ConnectionOutcome::ClientClosed);
                }
            }
        };
        let opened = tokio::select! {
            opened = timeout(self.limits.handshake_timeout, reading) => opened.unwrap_or(Err(ConnectionOutcome::SilentTls)),
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
        // OpenSSL reports the end of a stream without close_notify as an error.
        let _ = timeout(self.limits.http_header_timeout, tls.shutdown()).await;
        Err(outcome)
    }

    /// Logs a client that sends a PROXY header without being a proxy, or connects where only
    /// proxies may.
    pub(super) fn tell_of_stranger(&self, client: SocketAddr) {
        tracing::warn!(
            client = %self.log_client.show(client),
            "refused a connection that is not from a trusted proxy; if it is, add its address to trusted_proxies of the \
             listener"
        );
    }
}

/// Whether TURN and HTTP are allowed. A protocol negotiated by ALPN excludes the other.
fn allowed(accepts: Accepts, alpn: Option<&[u8]>) -> (bool, bool) {
    match alpn {
        None => (accepts.tls, accepts.https),
        Some(ALPN_HTTP) => (false, accepts.https),
        Some(alpn) => (accepts.tls && ALPN_TURN.contains(&alpn), false),
    }
}

/// One step of the handshake, within the deadline of all steps.
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

/// Passes all decrypted bytes along.
fn into_shard(tls: TlsStream<TcpStream>, mut early: Vec<u8>) -> Destination {
    let (socket, mut connection) = tls.into_inner();
    let mut reader = connection.reader();
    // An error means that there is no more.
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

#[cfg(test)]
mod tests {
    use core::time::Duration;

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
        let door = FrontDoor::new(
            limits,
            truncated,
            None,
            axum::Router::new(),
            Backends::default(),
            |_| (),
        );
        let heard = crate::edge::capture::LogCapture::new();
        door.tell_of_stranger("192.0.2.77:5000".parse().unwrap());
        assert_eq!(heard.count(&[" WARN ", "client=192.0.2.0/24", "trusted_proxies"]), 1);
    }
}
