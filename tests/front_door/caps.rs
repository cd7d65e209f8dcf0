use std::time::Duration;

use relay::edge::front_door::{ConnectionOutcome, FrontDoorLimits};
use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test]
async fn connections_are_capped_until_the_shard_lets_one_go() {
    let mut door = Door::open(
        ALL,
        FrontDoorLimits {
            connections: 2,
            ..limits()
        },
    );
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for id in 0..2 {
        let mut client = door.connect().await;
        client.write_all(&stun(id)).await.unwrap();
        streams.push(door.new_stream().await);
        clients.push(client);
    }
    let mut refused = door.connect().await;
    assert_eq!(until_closed(&mut refused).await, b"");
    door.reaches(ConnectionOutcome::TooManyConnections, 1).await;
    // The connection itself is not what counts, but what the shard holds of it.
    clients.clear();
    assert_eq!(door.door.open_connections(), 2);
    streams.pop();
    assert_eq!(door.door.open_connections(), 1);
    let mut client = door.connect().await;
    client.write_all(&stun(3)).await.unwrap();
    streams.push(door.new_stream().await);
    streams.clear();
    door.empties().await;
}

#[tokio::test]
async fn a_source_that_opens_connections_too_often_is_refused_for_a_while() {
    let mut door = Door::open(
        ALL,
        FrontDoorLimits {
            connections_per_source: 3,
            new_connections_per_second: 1,
            ..limits()
        },
    );
    for n in 1..=3 {
        let mut client = door.connect().await;
        client.write_all(&stun(n)).await.unwrap();
        drop(door.new_stream().await);
        door.empties().await;
    }
    let mut refused = door.connect().await;
    assert_eq!(until_closed(&mut refused).await, b"");
    door.reaches(ConnectionOutcome::TooFast, 1).await;
    let served = async {
        loop {
            let mut client = door.connect().await;
            // One that is refused may be reset before.
            let _ = client.write_all(&stun(4)).await;
            tokio::select! {
                Some(_) = door.handovers.recv() => break,
                _ = until_closed(&mut client) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    in_time("a connection that is served again", served).await;
}

#[tokio::test]
async fn connections_of_one_source_are_capped() {
    let mut door = Door::open(
        ALL,
        FrontDoorLimits {
            connections_per_source: 1,
            ..limits()
        },
    );
    let mut client = door.connect().await;
    client.write_all(&stun(1)).await.unwrap();
    let stream = door.new_stream().await;
    let mut refused = door.connect().await;
    assert_eq!(until_closed(&mut refused).await, b"");
    door.reaches(ConnectionOutcome::TooManyFromSource, 1).await;
    // Another source is served: all of 127/8 is this machine.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = in_time("a connection", other.connect(door.address)).await.unwrap();
    other.write_all(&stun(2)).await.unwrap();
    assert_eq!(door.new_stream().await.client, other.local_addr().unwrap());
    drop(stream);
    door.empties().await;
}
