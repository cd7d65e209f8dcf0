//! `docs/recipes`: the servers behind the relay's port 443 get their own connections, and
//! credentials of the same page allocate.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay::base::address::Transport;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client::{Client, tls_config};
use crate::harness::{SECRET, Server, minted};
use crate::recipes::page;
use relay_testkit::ports::free_port;

/// Time limit of each step: generous, as it only bounds a failure.
const PATIENCE: Duration = Duration::from_secs(20);

const WEBSOCKET: &str = "GET /rtc?auto_subscribe=1 HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello";

/// A block in which `address`, which occurs once, is replaced by `port` on this machine.
fn pointed_at(block: &str, address: &str, port: u16) -> String {
    assert_eq!(block.matches(address).count(), 1, "{block}");
    block.replace(address, &format!("127.0.0.1:{port}"))
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nonblocking(false).expect("it can wait");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("it need not wait");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return patient(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "nobody came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).expect("it accepts"))
}

fn hello(name: &str, alpn: &[&[u8]]) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    ClientConnection::new(tls_config(alpn), name).expect("a client")
}

fn read_to(stream: &mut impl Read, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        match stream.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8(all).expect("text").to_lowercase()
}

/// Opens LiveKit's WebSocket at `name` on `server`, with `web` in LiveKit's place; returns the
/// request that arrived.
fn open_websocket(server: &Server, name: &str, web: &TcpListener) -> String {
    let mut client = StreamOwned::new(hello(name, &[b"http/1.1"]), connect(server.door));
    client
        .write_all(WEBSOCKET.replace("HOST", name).as_bytes())
        .expect("the request is taken");
    let mut far = accept(web);
    let head = read_to(&mut far, "\r\n\r\n");
    far.write_all(SWITCHED).expect("the answer is taken");
    assert!(read_to(&mut client, "hello").starts_with("http/1.1 101 "));
    client.write_all(b"join").expect("the socket is open");
    assert_eq!(read_to(&mut far, "join"), "join");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        &format!("host: {name}"),
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
    ] {
        assert!(head.lines().any(|line| line == field), "no {field:?} in {head}");
    }
    head
}

/// LiveKit's credentials are valid on the same port.
fn assert_relays(server: &Server) {
    let login = minted(SECRET, 14_400, "PA_hR7mJk2vXq9T");
    for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
        let mut client = Client::over_transport(transport, server.door).with_login(&login);
        assert!(client.allocate().is_ok(), "{transport}");
    }
}

#[test]
fn livekits_signalling_and_turn_share_one_name_and_port() {
    let (web, port) = listen();
    let server = Server::start_recipe(&pointed_at(
        page("livekit").block("relay-front.toml"),
        "10.0.8.5:7880",
        port,
    ));
    let head = open_websocket(&server, "turn.example.org", &web);
    assert!(head.starts_with("get /rtc?auto_subscribe=1 http/1.1\r\n"), "{head}");
    assert_relays(&server);
}

#[test]
fn openvidus_own_name_reaches_its_caddy_as_it_came_and_so_does_a_challenge_for_its_certificate() {
    let (caddy, port) = listen();
    let server = Server::start_recipe(&pointed_at(
        page("openvidu").block("relay-front.toml"),
        "10.0.8.5:443",
        port,
    ));
    for alpn in [&b"h2"[..], b"acme-tls/1"] {
        let mut bytes = Vec::new();
        hello("openvidu.example.org", &[alpn])
            .write_tls(&mut bytes)
            .expect("a ClientHello");
        let mut client = connect(server.door);
        client.write_all(&bytes).expect("it is taken");
        let mut far = accept(&caddy);
        let mut came = vec![0; bytes.len()];
        far.read_exact(&mut came).expect("it comes");
        assert_eq!(came, bytes);
        far.write_all(b"answer").expect("it is taken");
        assert_eq!(read_to(&mut client, "answer"), "answer");
    }
    assert_relays(&server);
}

#[test]
fn openvidu_behind_an_external_proxy_is_told_the_client_by_the_pages_nginx() {
    let page = page("openvidu");
    let mut toml: toml::Table = page.block("relay-front.toml").parse().expect("TOML");
    let route: toml::Table = page.block("route.toml").parse().expect("TOML");
    toml.extend(route);
    let port = free_port();
    let server = Server::start_recipe(&pointed_at(&toml.to_string(), "127.0.0.1:8443", port));
    let (web, plain) = listen();
    let block = pointed_at(page.block("nginx-behind.conf"), "10.0.8.5:7880", plain);
    let block = pointed_at(&block, "127.0.0.1:8443", port);
    let _nginx = Nginx::start(&server.path("nginx"), port, &block);
    open_websocket(&server, "openvidu.example.org", &web);
    assert_relays(&server);
}

#[test]
fn openvidu_behind_its_proxy_has_its_name_and_the_relay_knows_whom_nginx_speaks_for() {
    let page = page("openvidu");
    let server = Server::start_recipe(page.relay());
    let (web, plain) = listen();
    let [front, stripped] = [(); 2].map(|()| free_port());
    let block = pointed_at(page.block("nginx.conf"), "127.0.0.1:5349", server.door.port());
    let block = pointed_at(&block, "127.0.0.1:7880", plain);
    let block = block.replace("127.0.0.1:7879", &format!("127.0.0.1:{stripped}"));
    let block = block.replace("listen 443 ssl", &format!("listen 127.0.0.1:{front} ssl"));
    let _nginx = Nginx::start(&server.path("nginx"), front, &block);
    let front = SocketAddr::from(([127, 0, 0, 1], front));

    let mut browser = StreamOwned::new(hello("openvidu.example.org", &[]), connect(front));
    browser
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("the request is taken");
    assert_eq!(
        read_to(&mut accept(&web), "\r\n\r\n"),
        "get / http/1.1\r\n\r\n",
        "and no header before it"
    );

    // Any address of 127.0.0.0/8 other than nginx' own.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let own = SocketAddr::from(([127, 0, 0, 77], 0));
    socket.bind(&own.into()).expect("an address of this machine");
    socket.connect_timeout(&front.into(), PATIENCE).expect("nginx accepts");
    let stream = patient(socket.into());
    let own = stream.local_addr().expect("bound");
    let login = minted(SECRET, 14_400, "PA_hR7mJk2vXq9T");
    let mut client = Client::tls_on(stream, "turn.example.org").with_login(&login);
    assert!(client.allocate().is_ok());
    assert_eq!(client.binding(), Some(own), "what Firefox takes for its mapped address");
    // nginx has terminated TLS.
    server.wait_for_log(&format!(" client={own} transport=\"tcp\" relayed="));
}

/// Debian's nginx with blocks of a page, and generated certificates.
struct Nginx(Child);

impl Nginx {
    fn start(folder: &Path, port: u16, blocks: &str) -> Self {
        std::fs::create_dir(folder).expect("the server's folder is writable");
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a file of this test");
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["openvidu.example.org".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("a name").self_signed(&key);
        write("fullchain.pem", certificate.expect("a certificate").pem());
        write("privkey.pem", key.serialize_pem());
        let folder = folder.display().to_string();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = kinds
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
            .concat();
        let module = match blocks {
            stream if stream.starts_with("stream {") => "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n",
            http => {
                assert!(http.starts_with("http {"), "{http}");
                ""
            }
        };
        let blocks = blocks
            .replace("/etc/nginx/openvidu", &folder)
            .replace("/etc/relay", &folder);
        let blocks = blocks.replacen("http {", &format!("http {{\naccess_log off;\n{paths}"), 1);
        let text = format!(
            "{module}daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n{blocks}"
        );
        write("nginx.conf", text);
        let child = Command::new("nginx")
            .args(["-p", &folder, "-e", "stderr", "-c", &format!("{folder}/nginx.conf")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("nginx (sudo tests/install-packages): {error}"));
        let mut nginx = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(nginx.0.try_wait().expect("the child is ours"), None, "nginx ended");
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
