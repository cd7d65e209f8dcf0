//! One HTTP connection to a server's control socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::control::operator::socket::{RUNTIME_DIRECTORY, SOCKET};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum ControlFailure {
    /// The server refuses the request for this reason.
    Refused(String),
    /// No server can be reached.
    NoServer(String),
}

impl fmt::Display for ControlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(text) | Self::NoServer(text)) = self;
        f.write_str(text)
    }
}

fn broken(error: impl fmt::Display) -> ControlFailure {
    ControlFailure::NoServer(format!("the server does not answer: {error}"))
}

/// A connection to a server, and the runtime that drives it.
pub(super) struct ControlConnection {
    runtime: Runtime,
    requests: SendRequest<Full<Bytes>>,
}

impl ControlConnection {
    /// Connects to the socket at `path`, or to the first usual place that exists.
    pub(super) fn connect(path: Option<&Path>) -> Result<Self, ControlFailure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(broken)?;
        let path = match path {
            Some(path) => path.to_owned(),
            None => usual_places()
                .into_iter()
                .find(|place| place.exists())
                .ok_or_else(no_socket)?,
        };
        let requests = runtime.block_on(async {
            let socket = UnixStream::connect(&path)
                .await
                .map_err(|error| refused(&path, &error))?;
            let (requests, connection) = handshake(TokioIo::new(socket)).await.map_err(broken)?;
            // The task ends with the connection. Its errors appear as errors of the request.
            tokio::spawn(connection);
            Ok(requests)
        })?;
        Ok(Self { runtime, requests })
    }

    /// Sends a request. The response is JSON; `null` if it is empty.
    pub(super) fn order(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ControlFailure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "relay")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let Self { runtime, requests } = self;
        let (status, body) = runtime.block_on(async {
            requests.ready().await.map_err(broken)?;
            let response = requests.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(broken)?;
            Ok((status, body.to_bytes()))
        })?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let answer: Value = serde_json::from_slice(&body).map_err(broken)?;
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer["error"].as_str().unwrap_or("refused").to_owned();
        Err(ControlFailure::Refused(text))
    }
}

/// The usual places of the socket: of the unit, and of a server started by hand as root or as
/// another user.
fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(RUNTIME_DIRECTORY), PathBuf::from("/var/lib/relay")];
    let home = |name: &str| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    places.extend(home("XDG_STATE_HOME").map(|it| it.join("relay")));
    places.extend(home("HOME").map(|it| it.join(".local/state/relay")));
    places.into_iter().map(|place| place.join(SOCKET)).collect()
}

fn no_socket() -> ControlFailure {
    let places: Vec<_> = usual_places().iter().map(|place| place.display().to_string()).collect();
    ControlFailure::NoServer(format!(
        "no server's control socket is at {}; start the server, or name its socket with --socket (it logs \
         \"control interface\" at start)",
        places.join(", ")
    ))
}

fn refused(path: &Path, error: &io::Error) -> ControlFailure {
    let path = path.display();
    ControlFailure::NoServer(match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{path}: {error}; run this as root, as the server's user, or in the server's group")
        }
        io::ErrorKind::ConnectionRefused => format!("{path}: its server has ended; start it again"),
        _ => format!("{path}: {error}"),
    })
}

/// Encodes a component of a path.
pub(super) fn encoded(text: &str) -> String {
    // In a path a plus is a plus, not a space.
    form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}
