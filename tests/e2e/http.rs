//! The HTTP/1.1 that the lab needs: a client for APIs inside a namespace, and a server of one page.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Namespace;

/// Janus delays the response to a request for events for up to 30 seconds.
const TIMEOUT: Duration = Duration::from_secs(35);

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// 200, 404, …
    pub(crate) status: u16,
    /// The body as text.
    pub(crate) body: String,
}

/// Sends one request from inside `namespace` and reads the response.
pub(crate) fn request(
    namespace: &Namespace,
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> io::Result<Response> {
    let mut stream = namespace.within(|| TcpStream::connect_timeout(&server, Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    stream.write_all(text.as_bytes())?;
    read_response(BufReader::new(stream))
}

fn read_response(mut reader: BufReader<TcpStream>) -> io::Result<Response> {
    let broken = || io::Error::new(ErrorKind::InvalidData, "not an HTTP response");
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(broken)?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Err(broken());
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(|_| broken())?;
            if size == 0 {
                break;
            }
            reader.by_ref().take(size).read_to_end(&mut body)?;
            line.clear();
            reader.read_line(&mut line)?;
        }
    } else if let Some(length) = length {
        reader.take(length).read_to_end(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Response {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Serves one page on http://localhost:PORT inside a namespace until dropped. A browser treats that
/// origin as secure, which it requires for access to a camera.
pub(crate) struct PageServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PageServer {
    /// Starts it; every path returns `page`.
    pub(crate) fn start(namespace: &Namespace, port: u16, page: &'static str) -> Self {
        let listener = namespace
            .within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .expect("the port is free");
        listener.set_nonblocking(true).expect("a listener can be polled");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A browser that disconnects midway does not matter here.
                    Ok((stream, _)) => drop(serve_page(stream, page)),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_page(stream: TcpStream, page: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    // Browsers open connections in advance and send nothing on them.
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n";
    write!(reader.get_mut(), "{head}Content-Length: {}\r\n\r\n{page}", page.len())
}
