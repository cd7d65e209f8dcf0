//! A web site behind the front door over real QUIC and HTTP/3, on the same UDP port as TURN.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Buf as _;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::time::timeout;

use crate::client::Client;
use crate::harness::{EchoPeer, SECRET, Server, minted};
use relay_client::accept_any_certificate;
use relay_testkit_server::http3_site::{GREETING, Site, body};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "www.example.test";

fn site(retry: bool) -> (Site, SocketAddr) {
    site_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), retry)
}

fn site_on(address: SocketAddr, retry: bool) -> (Site, SocketAddr) {
    let socket = UdpSocket::bind(address).expect("a free port");
    let address = socket.local_addr().expect("bound");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new([NAME.to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let chain = vec![certificate.der().clone()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    (Site::start(socket, chain, key, retry), address)
}

fn server_before(backend: &str) -> Server {
    Server::start_with(&format!(
        "[peers]\nallow = [\"127.0.0.2/32\"]\n[front_door.http3]\nbackend = \"{backend}\"\n"
    ))
}

/// A client of HTTP/3 that accepts any certificate.
fn endpoint() -> quinn::Endpoint {
    let tls = accept_any_certificate(&[b"h3"]).expect("a TLS client");
    let crypto = QuicClientConfig::try_from(tls).expect("QUIC's ciphers");
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// The responses for each of `paths`, one after another on one connection.
async fn get(server: SocketAddr, paths: &[&str]) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let endpoint = endpoint();
    let connection = endpoint.connect(server, NAME)?.await?;
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let driver = tokio::spawn(async move { driver.wait_idle().await });
    let mut bodies = Vec::new();
    for path in paths {
        let request = Request::get(format!("https://{NAME}{path}")).body(())?;
        let mut stream = requests.send_request(request).await?;
        stream.finish().await?;
        assert_eq!(stream.recv_response().await?.status(), 200);
        let mut all = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            all.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        bodies.push(all);
    }
    drop(requests);
    let _ = driver.await;
    endpoint.close(0_u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(bodies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_is_asked_over_http3_on_the_port_where_media_flows() {
    const LEN: usize = 3_000_000;
    let (_site, backend) = site(false);
    let mut server = server_before(&backend.to_string());
    let door = server.door;
    let peer = EchoPeer::start();
    let login = minted(SECRET, 600, "caller");
    let mut turn = Client::udp(door).with_login(&login);
    turn.allocate().expect("an allocation");
    assert_eq!(turn.channel_bind(0x4000, peer.address), 0);

    let paths = ["/", &format!("/{LEN}")];
    let asked = timeout(PATIENCE, get(door, &paths));
    let media = tokio::task::spawn_blocking(move || {
        for i in 0..200_u32 {
            turn.send_channel(0x4000, &i.to_be_bytes());
            let back = turn.receive_data(PATIENCE);
            assert_eq!(back, Some((Ok(0x4000), i.to_be_bytes().to_vec())));
        }
    });
    let (bodies, media) = tokio::join!(asked, media);
    media.expect("every packet comes back");
    let bodies = bodies.expect("in time").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&bodies[0]), format!("{GREETING}127.0.0.1"));
    assert!(bodies[1] == body(LEN), "{} bytes, or others", bodies[1].len());

    server.wait_for_metric_of_at_least("relay_http3_flows_began_total", "", 1.0);
    server.wait_for_metric_of_at_least("relay_http3_bytes_total", "to_client", LEN as f64);
    server.wait_for_metric_of_at_least("relay_http3_datagrams_total", "to_backend", 1.0);
    assert_eq!(server.metric("relay_http3_dropped_datagrams_total", ""), 0.0);
    server.wait_for_metric("relay_http3_flows_unproven", "", 0.0);
    server.assert_healthy();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_a_site_that_asks_for_proof_are_kept_apart() {
    let (_site, backend) = site(true);
    let server = server_before(&backend.to_string());
    let lens: Vec<usize> = (0..20).map(|i| 30_000 + i).collect();
    let all = lens.iter().map(|&len| {
        let (door, path) = (server.door, format!("/{len}"));
        tokio::spawn(async move {
            let bodies = timeout(PATIENCE, get(door, &[&path])).await.expect("in time");
            assert!(bodies.expect("an answer") == [body(len)]);
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.expect("what it asked for");
    }
    server.wait_for_metric("relay_http3_flows_began_total", "", 20.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_may_have_a_name_and_other_ports_are_not_its_own() {
    let host = ("localhost", 0)
        .to_socket_addrs()
        .expect("it is known")
        .next()
        .expect("an address");
    let (_site, backend) = site_on(host, false);
    let server = server_before(&format!("localhost:{}", backend.port()));
    server.wait_for_log("HTTP/3 is passed on");
    let bodies = timeout(PATIENCE, get(server.door, &["/"])).await.expect("in time");
    assert!(bodies.expect("an answer")[0].starts_with(GREETING.as_bytes()));
    // Listeners without HTTPS serve only TURN.
    for port in [server.plain, server.tls] {
        let asked = timeout(Duration::from_millis(500), get(port, &["/"])).await;
        assert!(!matches!(asked, Ok(Ok(_))), "{port} passes QUIC on");
    }
    server.wait_for_metric("relay_http3_flows_began_total", "", 1.0);
}
