//! Running out of file descriptors, in a process of its own.

use std::process::Command;
use std::time::Duration;

use relay::edge::front_door::AcceptError;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::*;

const INSIDE: &str = "RELAY_TEST_FEW_FILES";

#[test]
fn without_file_descriptors_it_sheds_and_pauses_and_recovers() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\"", program.to_str().unwrap()])
        .args(["--exact", "exhaustion::inside", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs only inside the process that has few files.
#[tokio::test]
async fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let mut door = Door::open(ALL, limits());
    let ballast = std::fs::File::open("/dev/null").unwrap();
    // Each connection takes two descriptors here, ours and the server's: connect until none is left.
    let mut clients = Vec::new();
    let counters = door.door.counters().clone();
    while let Ok(client) = in_time("a connection", TcpStream::connect(door.address)).await {
        clients.push(client);
        eventually("each to be accepted or shed", || {
            counters.accepted() + counters.shed() >= clients.len() as u64
        })
        .await;
    }
    assert!(clients.len() > 5);
    // One descriptor for us, none for the server.
    drop(ballast);
    let mut unserved = in_time("a connection", TcpStream::connect(door.address)).await.unwrap();
    assert_eq!(until_closed(&mut unserved).await, b"", "closed, not left hanging");
    assert!(counters.shed() > 0);
    let errors = counters.accept_errors(AcceptError::Exhausted);
    // A span in which a loop would have gone round thousands of times.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        counters.accept_errors(AcceptError::Exhausted) < errors + 10,
        "it does not spin"
    );
    clients.clear();
    let served = async {
        loop {
            if let Ok(mut client) = TcpStream::connect(door.address).await
                && client.write_all(&stun(1)).await.is_ok()
                && tokio::time::timeout(Duration::from_secs(2), door.handovers.recv())
                    .await
                    .is_ok()
            {
                break;
            }
        }
    };
    in_time("a connection that is served again", served).await;
}
