use std::time::{Duration, Instant};

use relay::edge::front_door::{ConnectionOutcome, FrontDoorLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::*;

const SHORT: Duration = Duration::from_millis(200);

fn hasty() -> FrontDoorLimits {
    FrontDoorLimits {
        handshake_timeout: SHORT,
        ..limits()
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_in_time() {
    let door = Door::open(ALL, hasty());
    let begun = Instant::now();
    let mut client = door.connect().await;
    assert_eq!(until_closed(&mut client).await, b"");
    assert!(begun.elapsed() >= SHORT);
    door.reaches(ConnectionOutcome::Silent, 1).await;
    door.empties().await;
}

#[tokio::test]
async fn a_handshake_that_never_finishes_is_closed_in_time() {
    let door = Door::open(ALL, hasty());
    let hello = client_hello();
    // Nothing but its first byte, half of it, and all of it with no Finished to follow.
    for (count, len) in (1..).zip([1, hello.len() / 2, hello.len()]) {
        let mut client = door.connect().await;
        client.write_all(&hello[..len]).await.unwrap();
        until_closed(&mut client).await;
        door.reaches(ConnectionOutcome::HandshakeTimeout, count).await;
    }
    door.empties().await;
}

#[tokio::test]
async fn a_client_hello_that_drips_wins_no_time() {
    let door = Door::open(ALL, hasty());
    let client = door.connect().await;
    client.set_nodelay(true).unwrap();
    let sent = drip(client, client_hello(), Duration::from_millis(20)).await;
    assert!(sent < 100, "{sent} bytes were taken");
    door.reaches(ConnectionOutcome::HandshakeTimeout, 1).await;
    door.empties().await;
}

#[tokio::test]
async fn silence_after_the_handshake_is_closed_in_time() {
    let door = Door::open(ALL, hasty());
    let mut client = door.connect_tls(&[]).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    // With close_notify: without it this is an error.
    assert_eq!(
        in_time("the end of the connection", client.read(&mut [0]))
            .await
            .unwrap(),
        0
    );
    // The beginning of a method is not enough either.
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(b"GE").await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    door.reaches(ConnectionOutcome::SilentTls, 2).await;
    door.empties().await;
}

//= XPORT-03
#[tokio::test]
async fn garbage_is_closed_without_a_word() {
    let door = Door::open(ALL, limits());
    for first in [0xFF, 0x15, 0x80, 0x7F, b'P', b'\n'] {
        let mut client = door.connect().await;
        client.write_all(&[first; 300]).await.unwrap();
        assert_eq!(until_closed(&mut client).await, b"", "first byte {first:#04x}");
    }
    door.reaches(ConnectionOutcome::Unrecognised, 6).await;
    door.empties().await;
}

#[tokio::test]
async fn garbage_that_looks_like_tls_fails_its_handshake() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect().await;
    client.write_all(&[0x16; 300]).await.unwrap();
    // An alert is all it may hear.
    assert!(until_closed(&mut client).await.len() <= 7);
    door.reaches(ConnectionOutcome::HandshakeFailed, 1).await;
    door.empties().await;
}

#[tokio::test]
async fn garbage_inside_tls_is_closed() {
    let door = Door::open(ALL, limits());
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(&[0xFF; 300]).await.unwrap();
    assert_eq!(until_closed(&mut client).await, b"");
    door.reaches(ConnectionOutcome::Unrecognised, 1).await;
    door.empties().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let door = Door::open(ALL, limits());
    drop(door.connect().await);
    let mut client = door.connect().await;
    client.write_all(&client_hello()[..50]).await.unwrap();
    drop(client);
    drop(door.connect_tls(&[]).await.unwrap());
    door.empties().await;
    assert_eq!(door.door.counters().outcome(ConnectionOutcome::ClientClosed), 2);
    assert_eq!(door.door.counters().outcome(ConnectionOutcome::HandshakeFailed), 1);
}

#[tokio::test]
async fn half_open_connections_delay_nobody() {
    let mut door = Door::open(
        ALL,
        FrontDoorLimits {
            unproven: 20,
            ..limits()
        },
    );
    let hello = client_hello();
    let mut half_open = Vec::new();
    for index in 0..60 {
        let mut client = door.connect().await;
        // A third each: silent, in the ClientHello, waiting for Finished.
        client
            .write_all(&hello[..[0, 1, hello.len()][index % 3]])
            .await
            .unwrap();
        half_open.push(client);
    }
    let begun = Instant::now();
    let mut client = door.connect_tls(&[]).await.unwrap();
    client.write_all(&stun(1)).await.unwrap();
    door.new_stream().await;
    assert!(begun.elapsed() < PATIENCE, "before the time of any half-open one is up");
    assert!(door.door.unproven_connections() <= 20);
    // 60 and one came, 20 places there are; the last one left its own.
    door.reaches(ConnectionOutcome::Evicted, 41).await;
    drop(half_open);
    door.empties().await;
}

#[tokio::test]
async fn stopping_closes_strangers_at_once_and_the_listener() {
    let door = Door::open(ALL, limits());
    let mut silent = door.connect().await;
    let mut half_open = door.connect().await;
    half_open.write_all(&client_hello()).await.unwrap();
    eventually("both to be accepted", || door.door.unproven_connections() == 2).await;
    door.stop.send(true).unwrap();
    until_closed(&mut silent).await;
    until_closed(&mut half_open).await;
    door.reaches(ConnectionOutcome::Stopped, 2).await;
    door.refuses().await;
    door.empties().await;
}
