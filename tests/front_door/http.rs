use std::time::{Duration, Instant};

use relay::edge::front_door::{Accepts, ConnectionOutcome, FrontDoorLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n";

#[tokio::test]
async fn https_is_served_behind_the_same_tls_and_knows_its_client() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[b"http/1.1"]).await.unwrap();
    let address = client.get_ref().0.local_addr().unwrap().to_string();
    // Twice on one connection.
    for _ in 0..2 {
        client.write_all(GET).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(address.as_bytes()) {
            let read = in_time("the answer", client.read_buf(&mut answer)).await;
            assert_ne!(read.unwrap(), 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    drop(client);
    door.empties().await;
    assert_eq!(door.door.counters().outcome(ConnectionOutcome::Https), 1);
}

#[tokio::test]
async fn a_request_in_pieces_is_still_a_request() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[]).await.unwrap();
    for piece in [
        &b"G"[..],
        b"E",
        b"T / HTTP/1.1\r\nHost: x\r\nConn",
        b"ection: close\r\n\r\n",
    ] {
        client.write_all(piece).await.unwrap();
        client.flush().await.unwrap();
        // So that each comes alone.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(until_closed(&mut client).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    door.empties().await;
}

#[tokio::test]
async fn an_unfinished_head_and_an_idle_connection_are_closed_in_time() {
    let short = Duration::from_millis(150);
    let door = Door::open(
        ALL,
        FrontDoorLimits {
            http_header_timeout: short,
            ..limits()
        },
    );
    let mut unfinished = door.connect_tls(&[]).await.unwrap();
    unfinished.write_all(&GET[..20]).await.unwrap();
    let mut idle = door.connect_tls(&[]).await.unwrap();
    idle.write_all(GET).await.unwrap();
    until_closed(&mut unfinished).await;
    assert!(until_closed(&mut idle).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    door.empties().await;
}

#[tokio::test]
async fn a_connection_that_never_ends_is_ended() {
    let door = Door::open(
        ALL,
        FrontDoorLimits {
            http_lifetime: Duration::from_millis(200),
            ..limits()
        },
    );
    let mut client = door.connect_tls(&[]).await.unwrap();
    let begun = Instant::now();
    let requests = async { while client.write_all(GET).await.is_ok() && !read_some(&mut client).await.is_empty() {} };
    in_time("the end of a connection that is busy", requests).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    door.empties().await;
}

async fn read_some(client: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = client.read_buf(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn a_head_over_8_kib_is_refused() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[]).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nPad: {}\r\n\r\n", "x".repeat(9000));
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(until_closed(&mut client).await.starts_with(b"HTTP/1.1 431 "));
    door.empties().await;
}

#[tokio::test]
async fn http_without_tls_is_told_to_use_https_where_there_is_any() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect().await;
    client.write_all(GET).await.unwrap();
    let answer = String::from_utf8(until_closed(&mut client).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 400 Bad Request\r\n") && body.contains("https://"),
        "{answer}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{answer}"
    );
    // The rest of the request is read until the client closes, lest a reset take the answer back.
    drop(client);
    door.reaches(ConnectionOutcome::NotServed, 1).await;
    door.empties().await;
}

//= XPORT-03
#[tokio::test]
async fn http_on_a_turn_port_is_closed_without_a_word() {
    for accepts in [
        Accepts { https: false, ..ALL },
        Accepts {
            tcp: true,
            ..Accepts::default()
        },
    ] {
        let door = Door::open(accepts, limits());
        let mut client = door.connect().await;
        client.write_all(GET).await.unwrap();
        assert_eq!(until_closed(&mut client).await, b"");
        door.reaches(ConnectionOutcome::NotServed, 1).await;
    }
}

#[tokio::test]
async fn stopping_lets_a_request_finish() {
    let mut door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[]).await.unwrap();
    client
        .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    in_time("the request to arrive", door.started.notified()).await;
    door.stop.send(true).unwrap();
    door.refuses().await;
    door.finish.notify_one();
    assert!(until_closed(&mut client).await.starts_with(b"HTTP/1.1 200 OK\r\n"));
    in_time("the end of the front door", &mut door.served).await.unwrap();
}

#[tokio::test]
async fn stopping_waits_no_longer_than_its_bound() {
    let mut door = Door::open(
        ALL,
        FrontDoorLimits {
            stop_timeout: Duration::from_millis(100),
            ..limits()
        },
    );
    let mut client = door.connect_tls(&[]).await.unwrap();
    client
        .write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    in_time("the request to arrive", door.started.notified()).await;
    let begun = Instant::now();
    door.stop.send(true).unwrap();
    in_time("the end of the front door", &mut door.served).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    door.empties().await;
}
