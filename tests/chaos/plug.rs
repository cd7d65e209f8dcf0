//! A client's stream: TCP, or TLS over it with rustls' own client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use relay::base::address::Transport;
use relay::shard::NewStream;
use rustls::{ClientConfig, ClientConnection, ServerConfig};

use relay_testkit::tls::{Tickets, tls_configs, tls_pair_of};
use relay_testkit_server::tcp_pair;

/// Most plaintext passed to TLS at once.
const RECORD: usize = 16 * 1024;

/// Created once in the real world, because that needs randomness.
static CONFIGS: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = LazyLock::new(|| {
    let (client, server) = tls_configs(rustls::DEFAULT_VERSIONS);
    let mut client = Arc::unwrap_or_clone(client);
    // A session of an earlier run would change the run.
    client.resumption = rustls::client::Resumption::disabled();
    (Arc::new(client), server)
});

/// Must be called before any thread enters a simulated world.
pub(crate) fn prepare() {
    LazyLock::force(&CONFIGS);
}

pub(crate) struct Plug {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl From<TcpStream> for Plug {
    fn from(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }
}

/// A client's connection, and the server's end of it as the front door hands it over.
pub(crate) fn connect(over_tls: bool, tickets: Tickets) -> (Plug, NewStream) {
    let (stream, mut new_stream) = tcp_pair(Vec::new());
    stream.set_nonblocking(true).unwrap();
    let mut plug = Plug::from(stream);
    if over_tls {
        let (client, server) = &*CONFIGS;
        // A handshake in memory, as the front door would do it.
        let (client, server) = tls_pair_of(Arc::clone(client), Arc::clone(server), tickets);
        plug.tls = Some(Box::new(client));
        new_stream.tls = Some(server);
        new_stream.transport = Transport::Tls;
    }
    (plug, new_stream)
}

impl Plug {
    pub(crate) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Closing it resets the connection.
    pub(crate) fn resets(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Writes what rustls holds, as far as the socket accepts it.
    fn flush_records(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }

    /// Ends its direction. `false`: not possible yet.
    pub(crate) fn shut_down(&mut self) -> bool {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush_records().is_ok() && self.stream.shutdown(Shutdown::Write).is_ok()
    }
}

impl Read for Plug {
    /// 0 if the other side has ended its direction; `InvalidData` if TLS is broken.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(into);
        };
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            tls.read_tls(&mut self.stream)?;
            tls.process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

impl Write for Plug {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush_records()?;
        let Some(tls) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        let taken = tls.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        // What the socket does not accept goes first next time.
        match self.flush_records() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_records()
    }
}
