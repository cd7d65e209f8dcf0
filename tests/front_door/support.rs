//! A front door on a free port of loopback, and clients for it.

use std::net::SocketAddr;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use relay::base::time::Instant;
use relay::config::settings::{BackendAddress, FrontDoorSettings, RouteSettings};
use relay::control::api::Api;
use relay::control::health::Health;
use relay::edge::certificates::{CertificateSource, SelfSigned, TlsStore};
use relay::edge::front_door::proxy::Proxies;
use relay::edge::front_door::{Accepts, Backends, ConnectionOutcome, FrontDoor, FrontDoorLimits};
use relay::edge::listeners::tcp::listen;
use relay::machine::certificate::CertificateFiles;
use relay::net::clock::unix_now;
use relay::net::stream::{StreamConn, StreamLimits};
use relay::shard::LogClient;
use relay::shard::stream_intake::NewStream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use relay_client::accept_any_certificate;
use relay_testkit::folder::Folder;

/// Everything at once, as on port 443.
pub(crate) const ALL: Accepts = Accepts {
    tcp: true,
    tls: true,
    https: true,
};
/// What no test should take, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` gives; panics with what was waited for when it takes longer than [`PATIENCE`].
#[track_caller]
pub(crate) fn in_time<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    async move {
        let Ok(outcome) = timeout(PATIENCE, future).await else {
            panic!("{place}: waited {PATIENCE:?} for {what}")
        };
        outcome
    }
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    in_time(what, async move {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Generous bounds; tests of a bound shorten it.
pub(crate) fn limits() -> FrontDoorLimits {
    FrontDoorLimits {
        connections: 1000,
        connections_per_source: 1000,
        connections_per_network: 1000,
        new_connections_per_second: 1000,
        unproven: 1000,
        handshake_timeout: PATIENCE,
        http_header_timeout: PATIENCE,
        http_lifetime: PATIENCE,
        stop_timeout: PATIENCE,
    }
}

pub(crate) struct Door {
    pub(crate) door: Arc<FrontDoor>,
    pub(crate) address: SocketAddr,
    pub(crate) handovers: mpsc::UnboundedReceiver<NewStream>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    /// A slow request has reached its handler.
    pub(crate) started: Arc<Notify>,
    /// And answers when this is told.
    pub(crate) finish: Arc<Notify>,
    _directory: Folder,
}

impl Door {
    /// Clients connect to it themselves.
    pub(crate) fn open(accepts: Accepts, limits: FrontDoorLimits) -> Self {
        Self::with(accepts, Proxies::default(), limits, &FrontDoorSettings::default())
    }

    /// Serves everything, with other servers behind it.
    pub(crate) fn before(limits: FrontDoorLimits, settings: &FrontDoorSettings) -> Self {
        Self::with(ALL, Proxies::default(), limits, settings)
    }

    /// The same, with the credentials API under the paths that are its own.
    pub(crate) fn with_api(limits: FrontDoorLimits, settings: &FrontDoorSettings, api: &Api) -> Self {
        let health = Health::new(Vec::new(), Arc::default(), 1, || Duration::ZERO);
        Self::opened(
            ALL,
            Proxies::default(),
            limits,
            Backends::new(settings),
            |rest, _, _| api.front_door(Arc::new(health), rest),
        )
    }

    /// Serves everything, to clients of `proxies`.
    pub(crate) fn behind(proxies: Proxies, limits: FrontDoorLimits) -> Self {
        Self::with(ALL, proxies, limits, &FrontDoorSettings::default())
    }

    pub(crate) fn with(
        accepts: Accepts,
        proxies: Proxies,
        limits: FrontDoorLimits,
        settings: &FrontDoorSettings,
    ) -> Self {
        Self::opened(
            accepts,
            proxies,
            limits,
            Backends::new(settings),
            |rest, started, finish| {
                let router = pages(started, finish);
                match rest {
                    Some(rest) => router.fallback_service(rest),
                    None => router,
                }
            },
        )
    }

    /// `router` is made from what is behind it, and from who is told of slow requests.
    fn opened(
        accepts: Accepts,
        proxies: Proxies,
        limits: FrontDoorLimits,
        behind: Backends,
        router: impl FnOnce(Option<Router>, Arc<Notify>, Arc<Notify>) -> Router,
    ) -> Self {
        let directory = Folder::new();
        let files = CertificateFiles {
            certificate: directory.join("cert.pem"),
            private_key: directory.join("key.pem"),
            state_dir: Some(directory.to_path_buf()),
        };
        let wanted = SelfSigned {
            names: vec!["relay.test".to_owned()],
            addresses: Vec::new(),
        };
        let source = CertificateSource::SelfSigned(files, wanted);
        let (store, _) = TlsStore::open(vec![source], unix_now()).unwrap();
        let (started, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = router(behind.http(), started.clone(), finish.clone());
        let (sender, handovers) = mpsc::unbounded_channel();
        let door = FrontDoor::new(
            limits,
            LogClient::Full,
            Some(Arc::new(store)),
            router,
            behind,
            move |stream| {
                let _ = sender.send(stream);
            },
        );
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served =
            tokio::spawn(
                door.clone()
                    .serve(TcpListener::from_std(listener).unwrap(), accepts, proxies, stopped),
            );
        Self {
            door,
            address,
            handovers,
            stop,
            served,
            started,
            finish,
            _directory: directory,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        in_time("a connection", TcpStream::connect(self.address)).await.unwrap()
    }

    pub(crate) async fn connect_tls(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("relay.test").unwrap();
        let handshake = connector(alpn).connect(name, self.connect().await);
        in_time("the end of the TLS handshake", handshake).await
    }

    pub(crate) async fn new_stream(&mut self) -> NewStream {
        in_time("a connection that is handed over", self.handovers.recv())
            .await
            .unwrap()
    }

    /// Waits until so many connections had this outcome.
    pub(crate) async fn reaches(&self, outcome: ConnectionOutcome, count: u64) {
        let reached = async {
            while self.door.counters().outcome(outcome) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!(
                "{outcome:?} stays at {} instead of {count}",
                self.door.counters().outcome(outcome)
            );
        }
        assert_eq!(self.door.counters().outcome(outcome), count);
    }

    /// Waits until it takes no more connections.
    pub(crate) async fn refuses(&self) {
        let refused = async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        in_time("the end of the listener", refused).await;
    }

    /// Waits until no connection is open.
    pub(crate) async fn empties(&self) {
        eventually("the end of every connection", || self.door.open_connections() == 0).await;
        assert_eq!(self.door.unproven_connections(), 0);
        let counters = self.door.counters();
        let outcomes: u64 = ConnectionOutcome::ALL
            .iter()
            .map(|&outcome| counters.outcome(outcome))
            .sum();
        assert_eq!(outcomes, counters.accepted(), "each connection has one outcome");
        assert_eq!(counters.outcome(ConnectionOutcome::Panicked), 0);
    }
}

/// What a door serves that has no API.
fn pages(started: Arc<Notify>, finish: Arc<Notify>) -> Router {
    let endless = started.clone();
    Router::new()
        .route(
            "/",
            get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move { client.to_string() }),
        )
        .route(
            "/slow",
            get(async move || {
                started.notify_one();
                finish.notified().await;
            }),
        )
        .route(
            "/endless",
            get(async move || {
                endless.notify_one();
                core::future::pending::<()>().await;
            }),
        )
}

pub(crate) fn connector(alpn: &[&[u8]]) -> TlsConnector {
    let config = accept_any_certificate(alpn).expect("a TLS client");
    TlsConnector::from(Arc::new(config))
}

/// What the server sends until it closes, however it does that.
pub(crate) async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        let mut buffer = [0; 1024];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..len]);
        }
    };
    in_time("the end of the connection", read).await;
    all
}

/// A Binding request.
pub(crate) fn stun(id: u8) -> Vec<u8> {
    let mut bytes = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xA4, 0x42];
    bytes.extend([id; 12]);
    bytes
}

/// A ChannelData message.
pub(crate) fn channel_data(data: &[u8; 4]) -> Vec<u8> {
    [&[0x40, 0x00, 0x00, 0x04][..], data].concat()
}

/// Where a server of a test listens.
pub(crate) fn address_of(listener: &TcpListener) -> BackendAddress {
    let address = listener.local_addr().unwrap();
    BackendAddress {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

/// Bytes as a TLS client sends them first, without a connection.
pub(crate) fn client_hello() -> Vec<u8> {
    client_hello_for("relay.test")
}

/// The same, for a server of that name; for an address without one.
pub(crate) fn client_hello_for(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(connector(&[]).config().clone(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// What a shard does with a stream, on a blocking thread: takes `count` messages and sends `answer`.
pub(crate) async fn serve_as_shard(new_stream: NewStream, count: usize, answer: Vec<u8>) -> Vec<Vec<u8>> {
    let serve = move || {
        let NewStream {
            mut socket,
            tls,
            early,
            guard,
            ..
        } = new_stream;
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut conn = StreamConn::new(Instant::ZERO, StreamLimits::default(), tls, early);
        let mut messages = Vec::new();
        loop {
            while let Some(message) = conn.next_message().unwrap() {
                messages.push(message.to_vec());
            }
            if messages.len() >= count {
                break;
            }
            let received = conn.receive(Instant::ZERO, &mut socket).unwrap();
            assert!(
                !received.closed && received.bytes > 0,
                "the client closed or sent nothing in time"
            );
        }
        conn.queue(Instant::ZERO, relay::net::stream::QueueKind::Control, &answer, &[], 0)
            .unwrap();
        while conn.flush(Instant::ZERO, &mut socket).unwrap() == relay::net::stream::Flushed::Blocked {}
        drop(guard);
        messages
    };
    in_time("messages for the shard", tokio::task::spawn_blocking(serve))
        .await
        .unwrap()
}

/// Sends byte by byte, with pauses so that each comes alone, until the server no longer takes them.
pub(crate) async fn drip(mut stream: TcpStream, bytes: Vec<u8>, pause: Duration) -> usize {
    for (sent, byte) in bytes.into_iter().enumerate() {
        if stream.write_all(&[byte]).await.is_err() {
            return sent;
        }
        tokio::time::sleep(pause).await;
    }
    usize::MAX
}

/// A listener that names lead to, and that HTTP goes to.
pub(crate) async fn backend_of_all() -> (TcpListener, FrontDoorSettings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = FrontDoorSettings {
        routes: vec![RouteSettings {
            names: vec!["www.example.org".into()],
            backend: address_of(&listener),
            proxy_header: false,
        }],
        http_upstream: Some(address_of(&listener)),
        ..FrontDoorSettings::default()
    };
    (listener, settings)
}
