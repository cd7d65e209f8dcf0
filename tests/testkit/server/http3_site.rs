//! A web site over HTTP/3, to run behind the relay.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::body::Bytes;
use hyper::{Request, Response};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime;
use tokio::sync::oneshot;

/// The response to `/`, followed by the client's address as the site sees it.
pub const GREETING: &str = "site over HTTP/3 for ";

/// Responds to `/` with a greeting and to `/N` with N bytes, until dropped.
pub struct Site {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves on `socket`. With `retry` each client has to prove its address first (RFC 9000
    /// §8.1.2).
    pub fn start(
        socket: UdpSocket,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        retry: bool,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("QUIC's ciphers");
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let runtime = Arc::new(quinn::TokioRuntime);
                let endpoint = quinn::Endpoint::new(Default::default(), Some(config), socket, runtime);
                let endpoint = endpoint.expect("an endpoint");
                tokio::select! {
                    () = accept(&endpoint, retry) => {}
                    _ = stopped => endpoint.close(0_u32.into(), b"stopped"),
                }
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the site has panicked");
        }
    }
}

async fn accept(endpoint: &quinn::Endpoint, retry: bool) {
    while let Some(incoming) = endpoint.accept().await {
        if retry && !incoming.remote_address_validated() {
            incoming.retry().expect("it may be asked once");
            continue;
        }
        tokio::spawn(async move {
            // A client that disconnects only ends its own connection.
            let _ = converse(incoming).await;
        });
    }
}

async fn converse(incoming: quinn::Incoming) -> Result<(), Box<dyn std::error::Error>> {
    let connection = incoming.await?;
    let client = connection.remote_address();
    let mut connection = h3::server::Connection::new(h3_quinn::Connection::new(connection)).await?;
    while let Some(resolver) = connection.accept().await? {
        let (request, mut stream) = resolver.resolve_request().await?;
        let response = Response::builder()
            .header("access-control-allow-origin", "*")
            .header("timing-allow-origin", "*")
            .body(())?;
        stream.send_response(response).await?;
        stream.send_data(answer(&request, client)).await?;
        stream.finish().await?;
    }
    Ok(())
}

fn answer(request: &Request<()>, client: SocketAddr) -> Bytes {
    match request.uri().path()[1..].parse() {
        Ok(len) => body(len),
        Err(_) => format!("{GREETING}{}", client.ip()).into(),
    }
}

/// This many bytes, without repeated stretches.
pub fn body(len: usize) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}
