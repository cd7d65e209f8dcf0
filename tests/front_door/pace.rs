//! How slowly a client may talk to what is behind the front door.

use std::time::{Duration, Instant};

use relay::edge::front_door::{Failure, Forwarded, SpliceEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::recorder::Recorder;
use crate::support::*;

/// Head of a request that announces a body.
const UPLOAD: &str =
    "POST /up HTTP/1.1\r\nHost: relay.test\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n";

//= XPORT-21
#[tokio::test]
async fn a_body_that_trickles_or_never_begins_is_answered_with_408_and_gives_its_place_back() {
    let mut web = Recorder::start().await;
    web.settings.body_rate = 1000;
    web.settings.body_pause = Duration::from_millis(300);
    web.settings.first_bytes_timeout = Duration::from_millis(200);
    let door = Door::before(limits(), &web.settings);
    for trickles in [false, true] {
        let mut client = door.connect_tls(&[]).await.unwrap();
        client.write_all(UPLOAD.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let trickle = tokio::spawn(async move {
            while trickles && writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            writer
        });
        let answer = String::from_utf8(until_closed(&mut reader).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        trickle.abort();
        eventually("its place to be given back", || door.door.backends().open() == 0).await;
    }
    let counters = door.door.backends().counters();
    assert_eq!(counters.forwarded(Forwarded::Failed(Failure::Slow)), 2);
    // An honest one, in as long a time.
    let body = "y".repeat(2000);
    let head = UPLOAD.replace("1000000", &body.len().to_string());
    let mut client = door.connect_tls(&[]).await.unwrap();
    client
        .write_all(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    for part in body.as_bytes().chunks(200) {
        client.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(until_closed(&mut client).await.starts_with(b"HTTP/1.1 200 "));
}

//= XPORT-21
#[tokio::test]
async fn the_time_for_a_whole_body_ends_one_that_keeps_its_rate() {
    let mut web = Recorder::start().await;
    web.settings.body_timeout = Duration::from_millis(500);
    let door = Door::before(limits(), &web.settings);
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(UPLOAD.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(client);
    let feed = tokio::spawn(async move {
        while writer.write_all(&[b'x'; 1000]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let answer = until_closed(&mut reader).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(begun.elapsed() >= Duration::from_millis(500));
    feed.abort();
}

//= XPORT-21
#[tokio::test]
async fn a_passed_on_connection_on_which_an_end_says_nothing_is_closed_soon() {
    let (listener, mut settings) = backend_of_all().await;
    settings.first_bytes_timeout = Duration::from_millis(300);
    let door = Door::before(limits(), &settings);
    for (client_speaks, backend_speaks) in [(false, false), (true, false), (false, true)] {
        let mut client = door.connect().await;
        client.write_all(&client_hello_for("www.example.org")).await.unwrap();
        let (mut far, _) = in_time("a connection to the backend", listener.accept()).await.unwrap();
        if client_speaks {
            // Behind its ClientHello.
            in_time("its ClientHello", far.read_u8()).await.unwrap();
            client.write_all(b"more").await.unwrap();
        }
        if backend_speaks {
            far.write_all(b"ServerHello").await.unwrap();
        }
        until_closed(&mut client).await;
        door.empties().await;
    }
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Silent), 3);

    let mut client = door.connect().await;
    client.write_all(&client_hello_for("www.example.org")).await.unwrap();
    let (mut far, _) = in_time("a connection to the backend", listener.accept()).await.unwrap();
    far.write_all(b"ServerHello").await.unwrap();
    let mut hello = [0; 11];
    in_time("the backend's answer", client.read_exact(&mut hello))
        .await
        .unwrap();
    client.write_all(b"Finished").await.unwrap();
    // Three times as long as an end may say nothing at first.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(door.door.backends().open(), 1);
}

//= XPORT-21
#[tokio::test]
async fn websocket_that_is_not_agreed_to_or_on_which_nobody_speaks_ends_soon() {
    const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const AGREE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (listener, mut settings) = backend_of_all().await;
    settings.first_bytes_timeout = Duration::from_millis(300);
    let door = Door::before(limits(), &settings);
    for agrees in [false, true] {
        let mut client = door.connect_tls(&[]).await.unwrap();
        client.write_all(ASK).await.unwrap();
        let (mut far, _) = in_time("a connection to the web server", listener.accept())
            .await
            .unwrap();
        if agrees {
            far.write_all(AGREE).await.unwrap();
            let answer = until_closed(&mut client).await;
            assert!(
                answer.starts_with(b"HTTP/1.1 101 "),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        } else {
            let mut answer = [0; 13];
            in_time("an answer", client.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 504 ");
        }
        eventually("its place to be given back", || door.door.backends().open() == 0).await;
    }
    assert_eq!(door.door.backends().counters().ends(SpliceEnd::Silent), 1);
    assert_eq!(
        door.door
            .backends()
            .counters()
            .forwarded(Forwarded::Failed(Failure::Late)),
        1
    );
}
