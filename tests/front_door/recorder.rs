//! A web server that writes down everything it is sent.

use std::sync::{Arc, Mutex};

use relay::config::settings::FrontDoorSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

pub(crate) struct Recorder {
    pub(crate) settings: FrontDoorSettings,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Answers every request once it has come whole, with 200, and closes.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = FrontDoorSettings {
            http_upstream: Some(address_of(&listener)),
            ..FrontDoorSettings::default()
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&record)));
            }
        });
        Self { settings, seen }
    }

    /// All that it was sent so far.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// The same, to be begun anew.
    pub(crate) fn take(&self) -> String {
        let seen = self.seen();
        self.seen.lock().unwrap().clear();
        seen
    }
}

async fn serve(mut socket: TcpStream, record: Arc<Mutex<Vec<u8>>>) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut bytes = [0; 4096];
        let Ok(len @ 1..) = socket.read(&mut bytes).await else {
            return;
        };
        request.extend_from_slice(&bytes[..len]);
        record.lock().unwrap().extend_from_slice(&bytes[..len]);
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfound";
    // Its client may be gone.
    let _ = socket.write_all(answer).await;
}

/// A head, and the body it announces.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    if head.contains("transfer-encoding: chunked") {
        body.ends_with("0\r\n\r\n")
    } else {
        body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
    }
}
