//! HTTP that is not ours: what the web server behind us gets, and what it never does.

use std::time::Duration;

use relay::config::settings::FrontDoorSettings;
use relay::edge::front_door::{Failure, Forwarded, FrontDoorLimits, SpliceEnd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// A web server that the test plays itself, byte by byte.
struct Web {
    listener: TcpListener,
    settings: FrontDoorSettings,
}

impl Web {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = FrontDoorSettings {
            http_upstream: Some(address_of(&listener)),
            ..FrontDoorSettings::default()
        };
        Self { listener, settings }
    }

    async fn accept(&self) -> TcpStream {
        in_time("a connection to the web server", self.listener.accept())
            .await
            .unwrap()
            .0
    }
}

/// Reads until `end` has come.
async fn read_to(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        while !all.ends_with(end.as_bytes()) {
            assert_ne!(
                stream.read_buf(&mut all).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&all)
            );
        }
    };
    if timeout(PATIENCE, read).await.is_err() {
        panic!("no {end:?} in {:?}", String::from_utf8_lossy(&all));
    }
    String::from_utf8(all).unwrap()
}

async fn send(door: &Door, request: &str) -> TlsStream<TcpStream> {
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// Waits until a connection that is open now, and had to end with its lifetime, would be gone: three others live one after
/// the other.
async fn lifetimes_pass(door: &Door) {
    for _ in 0..3 {
        let mut other = send(door, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(until_closed(&mut other).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
}

/// Lines of a head, sorted, without its first.
fn fields(head: &str) -> Vec<String> {
    let mut fields: Vec<_> = head.trim_end().lines().skip(1).map(str::to_lowercase).collect();
    fields.sort();
    fields
}

#[tokio::test]
async fn a_request_is_passed_on_with_the_truth_about_its_client() {
    let web = Web::start().await;
    let door = Door::before(limits(), &web.settings);
    let mut client = send(
        &door,
        "GET /page?x=1 HTTP/1.1\r\nHost: relay.test:443\r\nAccept: text/html\r\nConnection: close, X-Mine\r\n\
         X-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: close\r\nX-Forwarded-For: 10.0.0.1\r\n\
         X_Forwarded_For: 10.0.0.2\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\nX-Real-IP: 10.0.0.3\r\n\
         Forwarded: for=10.0.0.4\r\nCookie: a=b\r\n\r\n",
    )
    .await;
    let mut far = web.accept().await;
    let head = read_to(&mut far, "\r\n\r\n").await;
    assert!(head.starts_with("GET /page?x=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(
        fields(&head),
        [
            "accept: text/html",
            "cookie: a=b",
            "host: relay.test:443",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: relay.test:443",
            "x-forwarded-proto: https",
        ]
    );
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nKeep-Alive: 9\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\nbody")
        .await
        .unwrap();
    let answer = String::from_utf8(until_closed(&mut client).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "body", "{answer}");
    let fields = fields(head);
    assert!(
        fields.contains(&"x-end: 2".into()) && fields.contains(&"connection: close".into()),
        "{answer}"
    );
    assert!(!answer.contains("x-hop") && !answer.contains("keep-alive"), "{answer}");
    door.empties().await;
    assert_eq!(door.door.backends().counters().forwarded(Forwarded::Answered), 1);
}

#[tokio::test]
async fn bodies_stream_both_ways_while_they_are_made() {
    let web = Web::start().await;
    // Longer than a connection to the API may take.
    let short = FrontDoorLimits {
        http_lifetime: Duration::from_millis(100),
        stop_timeout: Duration::from_millis(100),
        ..limits()
    };
    let door = Door::before(short, &web.settings);
    let mut client = send(
        &door,
        "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    let mut far = web.accept().await;
    let head = read_to(&mut far, "\r\n\r\n").await;
    assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
    client.write_all(b"3\r\none\r\n").await.unwrap();
    read_to(&mut far, "3\r\none\r\n").await;
    far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await
        .unwrap();
    read_to(&mut client, "1\r\na\r\n").await;
    lifetimes_pass(&door).await;
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    read_to(&mut far, "3\r\ntwo\r\n0\r\n\r\n").await;
    far.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    read_to(&mut client, "1\r\nb\r\n0\r\n\r\n").await;
    drop(client);
    door.empties().await;
}

//= XPORT-21
#[tokio::test]
async fn a_request_holds_its_place_until_both_bodies_are_through() {
    let mut web = Web::start().await;
    web.settings.connections = 1;
    let door = Door::before(limits(), &web.settings);
    let nobody_else_is_served = async || {
        let mut other = send(&door, "GET /other HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(read_to(&mut other, "time.\n").await.starts_with("HTTP/1.1 503 "));
        assert_eq!(door.door.backends().open(), 1);
    };
    let place_is_given_back = || eventually("its place to be given back", || door.door.backends().open() == 0);

    let mut client = send(&door, "GET /page HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut far = web.accept().await;
    read_to(&mut far, "\r\n\r\n").await;
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo")
        .await
        .unwrap();
    read_to(&mut client, "bo").await;
    nobody_else_is_served().await;
    far.write_all(b"dy").await.unwrap();
    read_to(&mut client, "dy").await;
    place_is_given_back().await;

    // The answer is there before the request is.
    client
        .write_all(b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await
        .unwrap();
    read_to(&mut far, "3\r\none\r\n").await;
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
        .await
        .unwrap();
    read_to(&mut client, "body").await;
    nobody_else_is_served().await;
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    place_is_given_back().await;
}

#[tokio::test]
async fn nobody_can_argue_about_where_a_request_ends() {
    let web = Web::start().await;
    let door = Door::before(limits(), &web.settings);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let asked = hidden.len();
    for request in [
        // Lengths that differ, or are none.
        format!("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: {asked}\r\n\r\n{hidden}"),
        format!("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 0, {asked}\r\n\r\n{hidden}"),
        format!("POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: +{asked}\r\n\r\n{hidden}"),
        // A coding that is not known, or not last.
        format!("POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        // Names that some servers mend.
        format!("POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        // Nobody's, somebody else's, everybody's.
        "GET /p HTTP/1.1\r\n\r\n".into(),
        "GET /p HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".into(),
        "CONNECT y:443 HTTP/1.1\r\nHost: y:443\r\n\r\n".into(),
    ] {
        let mut client = send(&door, &request).await;
        let answer = String::from_utf8(until_closed_or_quiet(&mut client).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}\n{answer}");
        assert!(!answer.contains("200 OK"), "{request}\n{answer}");
    }
    let nobody = timeout(Duration::from_millis(50), web.listener.accept()).await;
    assert!(nobody.is_err(), "the web server was asked");
}

/// An answer, and whatever else comes in the moment after it.
async fn until_closed_or_quiet(client: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut all = read_to(client, "\n").await.into_bytes();
    while let Ok(Ok(1..)) = timeout(Duration::from_millis(100), client.read_buf(&mut all)).await {}
    all
}

/// RFC 9112 §6.1: chunked wins, and the connection ends with the answer.
#[tokio::test]
async fn of_two_lengths_the_web_server_sees_the_one_that_was_used() {
    let hidden = "GET /next HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = format!("Content-Length: {}", hidden.len() + 5);
    for lengths in [
        format!("{length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\n{length}"),
    ] {
        let web = Web::start().await;
        let door = Door::before(limits(), &web.settings);
        let request = format!("POST /p HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n0\r\n\r\n{hidden}");
        let mut client = send(&door, &request).await;
        let mut far = web.accept().await;
        let seen = read_to(&mut far, "\r\n0\r\n\r\n").await.to_lowercase();
        assert!(seen.contains("transfer-encoding: chunked"), "{seen}");
        assert!(!seen.contains("content-length") && !seen.contains("/next"), "{seen}");
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        let answer = String::from_utf8(until_closed(&mut client).await).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let more = timeout(Duration::from_millis(50), far.read_u8()).await;
        assert!(!matches!(more, Ok(Ok(_))), "the web server was asked again");
    }
}

#[tokio::test]
async fn a_hidden_request_stays_in_the_body_it_was_hidden_in() {
    let web = Web::start().await;
    let door = Door::before(limits(), &web.settings);
    let hidden = "GET /turn HTTP/1.1\r\nHost: x\r\n\r\n";
    let request = format!(
        "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let mut client = send(&door, &request).await;
    let mut far = web.accept().await;
    let seen = read_to(&mut far, hidden).await;
    assert!(
        seen.to_lowercase()
            .contains(&format!("content-length: {}\r\n", hidden.len())),
        "{seen}"
    );
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let answer = read_to(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn websocket_goes_through_and_counts_as_long_as_it_lives() {
    let web = Web::start().await;
    let short = FrontDoorLimits {
        http_lifetime: Duration::from_millis(100),
        stop_timeout: Duration::from_millis(100),
        ..limits()
    };
    let door = Door::before(short, &web.settings);
    let mut client = send(&door, WEBSOCKET).await;
    let mut far = web.accept().await;
    let head = read_to(&mut far, "\r\n\r\n").await.to_lowercase();
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
        assert!(fields(&head).contains(&field.to_owned()), "{head}");
    }
    far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
        .await
        .unwrap();
    let answer = read_to(&mut client, "hello").await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101 ") && answer.contains("sec-websocket-accept: x"),
        "{answer}"
    );
    lifetimes_pass(&door).await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(read_to(&mut far, "ping").await, "ping");
    eventually("this connection alone to be left", || {
        (door.door.open_connections(), door.door.backends().open()) == (1, 1)
    })
    .await;
    drop(far);
    until_closed(&mut client).await;
    drop(client);
    door.empties().await;
    let counters = door.door.backends().counters();
    assert_eq!(counters.forwarded(Forwarded::Upgraded), 1);
    assert_eq!(SpliceEnd::ALL.map(|end| counters.ends(end)).iter().sum::<u64>(), 1);
    assert_eq!(door.door.backends().open(), 0);
}

#[tokio::test]
async fn no_other_upgrade_is_passed_on_and_none_is_taken_that_was_not_asked_for() {
    let web = Web::start().await;
    let door = Door::before(limits(), &web.settings);
    let mut client = send(
        &door,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
            .replace("GET / ", "GET /h2c ")
            .as_str(),
    )
    .await;
    let mut far = web.accept().await;
    let head = read_to(&mut far, "\r\n\r\n").await.to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(until_closed_or_quiet(&mut client).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_web_server_that_is_down_silent_or_busy_costs_its_own_requests() {
    let mut web = Web::start().await;
    web.settings.answer_timeout = Duration::from_millis(200);
    web.settings.connections = 1;
    let door = Door::before(limits(), &web.settings);
    let get = "GET /slow/page HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut late = send(&door, get).await;
    let _far = web.accept().await;
    let mut busy = send(&door, get).await;
    assert!(read_to(&mut busy, "time.\n").await.starts_with("HTTP/1.1 503 "));
    assert!(read_to(&mut late, "time.\n").await.starts_with("HTTP/1.1 504 "));
    drop(web.listener);
    let mut down = send(&door, get).await;
    assert!(read_to(&mut down, "reached.\n").await.starts_with("HTTP/1.1 502 "));
    // Ours go on.
    let mut ours = send(&door, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(until_closed(&mut ours).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let counters = door.door.backends().counters();
    for why in [Failure::Busy, Failure::Late, Failure::Unreachable] {
        assert_eq!(counters.forwarded(Forwarded::Failed(why)), 1, "{why:?}");
    }
    drop((late, busy, down));
    door.empties().await;
}
