//! Names that are another server's: spliced there as they came, still encrypted.

use std::io::ErrorKind;
use std::time::Duration;

use relay::config::settings::{FrontDoorSettings, RouteSettings};
use relay::edge::front_door::proxy::Proxies;
use relay::edge::front_door::{Accepts, ConnectionOutcome, SpliceEnd};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// A server that names lead to.
struct Backend {
    listener: TcpListener,
    settings: FrontDoorSettings,
}

impl Backend {
    async fn start(proxy_header: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = FrontDoorSettings {
            routes: vec![RouteSettings {
                names: vec!["www.example.org".into(), "*.app.example.org".into()],
                backend: address_of(&listener),
                proxy_header,
            }],
            own_names: vec!["relay.app.example.org".into()],
            ..FrontDoorSettings::default()
        };
        Self { listener, settings }
    }

    async fn accept(&self) -> TcpStream {
        in_time("a connection to the backend", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// Both ends of a connection that leads to it: the client's and its own.
    async fn route(&self, mut client: TcpStream) -> (TcpStream, TcpStream) {
        let hello = client_hello_for("www.example.org");
        client.write_all(&hello).await.unwrap();
        let mut far = self.accept().await;
        expect(&mut far, &hello).await;
        (client, far)
    }
}

async fn expect(socket: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    in_time(&format!("{} bytes", bytes.len()), socket.read_exact(&mut read))
        .await
        .unwrap();
    assert_eq!(read, bytes);
}

/// Everything until the other end is done, or how else it ends.
async fn until_end(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    in_time("the end of the connection", socket.read_to_end(&mut all)).await?;
    Ok(all)
}

#[tokio::test]
async fn a_backend_gets_every_byte_as_it_came_and_its_own_go_back() {
    let backend = Backend::start(false).await;
    let door = Door::before(limits(), &backend.settings);
    for name in ["www.example.org", "one.app.example.org"] {
        let hello = client_hello_for(name);
        let mut client = door.connect().await;
        // What follows the ClientHello in the same packet is not lost either.
        client.write_all(&[&hello[..], b"early"].concat()).await.unwrap();
        let mut far = backend.accept().await;
        expect(&mut far, &[&hello[..], b"early"].concat()).await;
        far.write_all(b"ServerHello").await.unwrap();
        expect(&mut client, b"ServerHello").await;
        // One side may be done while the other still talks.
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(until_end(&mut far).await.unwrap(), b"last");
        eventually("this connection alone to be left", || door.door.backends().open() == 1).await;
        far.write_all(b"answer").await.unwrap();
        drop(far);
        assert_eq!(until_closed(&mut client).await, b"answer");
    }
    door.empties().await;
    assert_eq!(door.door.counters().outcome(ConnectionOutcome::Routed), 2);
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Closed), 2);
    assert_eq!(door.door.backends().open(), 0);
}

#[tokio::test]
async fn a_backend_may_be_done_while_its_client_goes_on() {
    let backend = Backend::start(false).await;
    let door = Door::before(limits(), &backend.settings);
    let (mut client, mut far) = backend.route(door.connect().await).await;
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(until_end(&mut client).await.unwrap(), b"answer");
    client.write_all(b"the rest of the upload").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(until_end(&mut far).await.unwrap(), b"the rest of the upload");
    door.empties().await;
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Closed), 1);
}

/// A download without its end must not look whole.
#[tokio::test]
async fn a_reset_of_one_end_reaches_the_other_as_a_reset() {
    let backend = Backend::start(false).await;
    let door = Door::before(limits(), &backend.settings);
    for backend_resets in [true, false] {
        let (mut client, mut far) = backend.route(door.connect().await).await;
        let (resetting, other) = if backend_resets {
            (&mut far, &mut client)
        } else {
            (&mut client, &mut far)
        };
        resetting.write_all(b"beginning").await.unwrap();
        expect(other, b"beginning").await;
        resetting.set_zero_linger().unwrap();
        let other = if backend_resets {
            drop(far);
            &mut client
        } else {
            drop(client);
            &mut far
        };
        assert_eq!(until_end(other).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        door.empties().await;
    }
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Broken), 2);
}

#[tokio::test]
async fn an_answer_whose_end_was_passed_on_arrives_whole_however_the_rest_ends() {
    // Less than the front door lets wait there unsent: its end is passed on.
    const ANSWER: [u8; 6000] = [b'a'; 6000];
    let mut backend = Backend::start(false).await;
    backend.settings.idle_timeout = Duration::from_millis(300);
    let door = Door::before(limits(), &backend.settings);
    // What the client does not read yet waits in the front door's socket.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let client = in_time("a connection", socket.connect(door.address)).await;
    let (mut client, mut far) = backend.route(client.unwrap()).await;
    far.write_all(&ANSWER).await.unwrap();
    far.shutdown().await.unwrap();
    door.empties().await;
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Idle), 1);
    assert_eq!(until_end(&mut client).await.unwrap(), ANSWER);
    assert_eq!(
        until_end(&mut far).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_client_hello_in_pieces_finds_its_backend() {
    let backend = Backend::start(false).await;
    let door = Door::before(limits(), &backend.settings);
    let hello = client_hello_for("www.example.org");
    let mut client = door.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in &hello {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    expect(&mut backend.accept().await, &hello).await;
}

#[tokio::test]
async fn a_backend_is_told_the_client_where_it_wants_to_be() {
    let backend = Backend::start(true).await;
    let door = Door::before(limits(), &backend.settings);
    let hello = client_hello_for("www.example.org");
    let mut client = door.connect().await;
    client.write_all(&hello).await.unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\x7F\0\0\x01\x7F\0\0\x01".to_vec();
    header.extend(client.local_addr().unwrap().port().to_be_bytes());
    header.extend(door.address.port().to_be_bytes());
    let mut far = backend.accept().await;
    expect(&mut far, &[header, hello].concat()).await;
}

/// A client that has shaken hands with the server of that name.
async fn tls(door: &Door, name: &'static str) -> TlsStream<TcpStream> {
    let name = ServerName::try_from(name).unwrap();
    let handshake = connector(&[]).connect(name, door.connect().await);
    in_time("the end of the TLS handshake", handshake).await.unwrap()
}

#[tokio::test]
async fn other_names_and_none_are_ours() {
    let backend = Backend::start(false).await;
    let mut door = Door::before(limits(), &backend.settings);
    for name in [
        "example.org",
        "a.b.app.example.org",
        "relay.app.example.org",
        "127.0.0.1",
    ] {
        let mut client = tls(&door, name).await;
        client.write_all(&stun(1)).await.unwrap();
        door.new_stream().await;
    }
    assert_eq!(door.door.counters().outcome(ConnectionOutcome::Routed), 0);
    // A listener without HTTPS is no front door: whoever comes there wants TURN.
    let turn = Accepts { https: false, ..ALL };
    let mut door = Door::with(turn, Proxies::default(), limits(), &backend.settings);
    let mut client = tls(&door, "www.example.org").await;
    client.write_all(&stun(2)).await.unwrap();
    door.new_stream().await;
}

#[tokio::test]
async fn a_backend_that_is_down_is_counted_and_harms_nobody() {
    let backend = Backend::start(false).await;
    let mut door = Door::before(limits(), &backend.settings);
    drop(backend.listener);
    let mut client = door.connect().await;
    client.write_all(&client_hello_for("www.example.org")).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    door.reaches(ConnectionOutcome::BackendDown, 1).await;
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(&stun(1)).await.unwrap();
    drop(door.new_stream().await);
    drop(client);
    door.empties().await;
}

#[tokio::test]
async fn backends_take_no_more_than_their_share() {
    let mut backend = Backend::start(false).await;
    backend.settings.connections = 1;
    let door = Door::before(limits(), &backend.settings);
    let hello = client_hello_for("www.example.org");
    let mut first = door.connect().await;
    first.write_all(&hello).await.unwrap();
    let mut far = backend.accept().await;
    expect(&mut far, &hello).await;
    let mut second = door.connect().await;
    second.write_all(&hello).await.unwrap();
    assert_eq!(until_closed(&mut second).await, b"");
    door.reaches(ConnectionOutcome::TooManyRouted, 1).await;
    drop((first, far));
    door.empties().await;
    let mut third = door.connect().await;
    third.write_all(&hello).await.unwrap();
    expect(&mut backend.accept().await, &hello).await;
}

#[tokio::test]
async fn what_rests_too_long_is_closed_and_a_stop_waits_for_none() {
    let mut backend = Backend::start(false).await;
    backend.settings.idle_timeout = Duration::from_millis(300);
    let door = Door::before(limits(), &backend.settings);
    let mut client = door.connect().await;
    client.write_all(&client_hello_for("www.example.org")).await.unwrap();
    let _far = backend.accept().await;
    assert_eq!(
        until_end(&mut client).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    door.empties().await;
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Idle), 1);

    let backend = Backend::start(false).await;
    let mut door = Door::before(limits(), &backend.settings);
    let mut client = door.connect().await;
    client.write_all(&client_hello_for("www.example.org")).await.unwrap();
    let _far = backend.accept().await;
    door.reaches(ConnectionOutcome::Routed, 1).await;
    door.stop.send(true).unwrap();
    in_time("the end of the front door", &mut door.served).await.unwrap();
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Stopped), 1);
}
