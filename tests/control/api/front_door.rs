//! The API where clients meet it: behind TLS on a port that also speaks TURN.

use std::net::Ipv4Addr;

use hyper_util::rt::TokioIo;
use relay::edge::certificates::{CertificateSource, SelfSigned, TlsStore};
use relay::edge::front_door::proxy::Proxies;
use relay::edge::front_door::{Accepts, Backends, FrontDoor, FrontDoorLimits};
use relay::machine::certificate::CertificateFiles;
use relay::net::clock::unix_now;
use relay::shard::LogClient;
use relay_testkit::folder::Folder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A front door on a port of its own; closed when dropped.
struct Door {
    address: SocketAddr,
    directory: Folder,
    _stop: watch::Sender<bool>,
}

impl Door {
    async fn open(api: &Api) -> Self {
        let directory = Folder::new();
        let files = CertificateFiles {
            certificate: directory.join("certificate.pem"),
            private_key: directory.join("key.pem"),
            state_dir: Some(directory.to_path_buf()),
        };
        let wanted = SelfSigned {
            names: vec!["localhost".into()],
            addresses: Vec::new(),
        };
        let source = CertificateSource::SelfSigned(files, wanted);
        let (store, _) = TlsStore::open(vec![source], unix_now()).expect("certificate");
        let limits = FrontDoorLimits {
            connections: 100,
            connections_per_source: 100,
            connections_per_network: 1000,
            new_connections_per_second: 1000,
            unproven: 100,
            handshake_timeout: PATIENCE,
            http_header_timeout: PATIENCE,
            http_lifetime: PATIENCE,
            stop_timeout: Duration::from_secs(1),
        };
        let door = FrontDoor::new(
            limits,
            LogClient::Full,
            Some(Arc::new(store)),
            front_door(api),
            Backends::default(),
            |_| {
                panic!("no TURN client is expected here");
            },
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (stop, stopping) = watch::channel(false);
        let accepts = Accepts {
            tcp: true,
            tls: true,
            https: true,
        };
        tokio::spawn(door.serve(listener, accepts, Proxies::default(), stopping));
        Self {
            address,
            directory,
            _stop: stop,
        }
    }

    /// One request over a connection of its own, whose certificate is really verified.
    async fn send(&self, call: Call) -> Answer {
        tokio::time::timeout(PATIENCE, self.exchange(call))
            .await
            .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for an answer"))
    }

    async fn exchange(&self, call: Call) -> Answer {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.directory.join("certificate.pem")).expect("PEM");
        roots.add(certificate).expect("anchor");
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.expect("connect");
        let name = ServerName::try_from("localhost").expect("name");
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .expect("handshake");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .expect("HTTP");
        tokio::spawn(connection);
        let request = call.0.header("host", "localhost").body(call.1).expect("request");
        let (parts, body) = sender.send_request(request).await.expect("answer").into_parts();
        let bytes = to_bytes(Body::new(body), usize::MAX).await.expect("body");
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }
}

#[tokio::test]
async fn both_forms_answer_over_tls_with_strict_transport_security() {
    let door = Door::open(&api(settings())).await;
    let answer = door.send(post("/v1/ice-servers").key(KEY).json(r#"{"ttl":60}"#)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.username().0, NOW + 60);
    assert!(answer.header("strict-transport-security").is_some());
    let answer = door.send(get("/turn?service=turn").key(KEY)).await;
    assert_eq!(answer.json()["ttl"], 3600);
    assert_eq!(
        door.send(get("/turn?service=turn")).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(door.send(get("/nowhere")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_limit_per_address_counts_the_address_of_the_connection() {
    let door = Door::open(&api(ApiSettings {
        mints_per_minute_per_ip: 2,
        ..settings()
    }))
    .await;
    for expected in [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        assert_eq!(door.send(post("/v1/ice-servers").key(KEY)).await.status, expected);
    }
}

#[tokio::test]
async fn a_body_over_eight_kib_is_refused_before_it_is_read() {
    let door = Door::open(&api(settings())).await;
    let answer = door
        .send(post("/v1/ice-servers").key(KEY).json(&" ".repeat(8193)))
        .await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}
