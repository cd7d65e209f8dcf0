//! The Unix socket of the control interface. Its mode is 0660, and it belongs to the server's user
//! and group: permission to open it is permission to connect.

use core::time::Duration;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// The socket's name in its directory.
pub const SOCKET: &str = "control.sock";
/// The directory under the systemd unit (`RuntimeDirectory=relay`).
pub const RUNTIME_DIRECTORY: &str = "/run/relay";
/// Set by systemd for a unit with `RuntimeDirectory=`.
pub const RUNTIME_VARIABLE: &str = "RUNTIME_DIRECTORY";

/// Maximum of concurrent connections; further ones wait.
const CONNECTIONS: usize = 64;
/// A request's header must arrive completely within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after accept failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Opens the socket in `directory`. Replaces one that an ended process left behind, but not one
    /// that a live process serves.
    ///
    /// # Errors
    /// It cannot be made, or another server serves it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        match fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another file has this name",
                ));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(&path).is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server uses it"));
            }
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener, path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until dropped.
    pub async fn serve(self, router: Router) {
        let mut open = JoinSet::new();
        loop {
            while open.len() >= CONNECTIONS {
                open.join_next().await;
            }
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, _)) => drop(open.spawn(connection(socket, router.clone()))),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some(_) = open.join_next() => {}
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // An error changes nothing: no client can connect either way.
        let _ = fs::remove_file(&self.path);
    }
}

async fn connection(socket: UnixStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // Errors end the connection, and need no handling.
    let _ = http
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await;
}
