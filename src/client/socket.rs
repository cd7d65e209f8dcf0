//! A client's socket, which never blocks.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use relay_net::udp::UdpSocket;

use super::error::ClientError;
use super::settings::{ClientLink, ClientSettings};
use super::stream::{ClientStream, READ, would_block};

/// The client's end of a five-tuple.
pub enum ClientSocket {
    /// The same socket twice: batches use the first, single requests the second.
    Udp(UdpSocket, std::net::UdpSocket),
    /// A connection.
    Stream(Box<ClientStream>),
}

impl ClientSocket {
    /// Opens the socket. TCP connects, and TLS completes the handshake.
    pub(crate) fn open(settings: &ClientSettings) -> Result<Self, ClientError> {
        let tls = match &settings.link {
            ClientLink::Udp(options) => {
                let socket = UdpSocket::bind((settings.local, 0).into(), options);
                let socket = socket.map_err(|e| ClientError::Io("bind", e))?;
                let other = socket.as_fd().try_clone_to_owned();
                return Ok(Self::Udp(socket, other.map_err(|e| ClientError::Io("dup", e))?.into()));
            }
            ClientLink::Tcp => None,
            ClientLink::Tls(config) => Some(config),
        };
        Ok(Self::Stream(Box::new(ClientStream::connect(settings, tls)?)))
    }

    /// For epoll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket, _) => socket.as_fd(),
            Self::Stream(stream) => stream.fd(),
        }
    }

    pub(crate) fn send_request(&mut self, request: &[u8], server: SocketAddr) -> Result<(), ClientError> {
        match self {
            Self::Udp(_, socket) => match socket.send_to(request, server) {
                // Lost, like any datagram; retransmission follows.
                Err(error) if error.kind() != ErrorKind::ConnectionRefused && !would_block(&error) => {
                    Err(ClientError::Io("send", error))
                }
                _ => Ok(()),
            },
            Self::Stream(stream) => {
                stream.queue(&[request], 0);
                stream.flush()
            }
        }
    }

    pub(crate) fn receive_response(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self {
            Self::Udp(_, socket) => {
                let mut buf = [0; 2048];
                match socket.recv(&mut buf) {
                    Ok(length) => Ok(Some(buf.get(..length).unwrap_or_default().to_vec())),
                    Err(error) if would_block(&error) => Ok(None),
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
                    Err(error) => Err(ClientError::Io("receive", error)),
                }
            }
            Self::Stream(stream) => {
                stream.flush()?;
                stream.read(READ)?;
                let mut first = None;
                stream.take_frames(1, |frame| first = Some(frame.to_vec()))?;
                Ok(first)
            }
        }
    }
}
