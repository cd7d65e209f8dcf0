//! A client over DTLS: OpenSSL's, on a non-blocking UDP socket.

use std::net::{SocketAddr, UdpSocket};

/// An association, as a guest uses it.
pub(crate) trait Sealed {
    /// Sends a message, or keeps it until the handshake is complete.
    fn send(&mut self, message: &[u8]);

    /// Continues the handshake; returns the next message, if any.
    fn receive(&mut self) -> Heard;

    /// The handshake is complete, and everything kept is sent.
    fn is_up(&self) -> bool;

    /// Sends close_notify.
    fn close(&mut self);
}

#[cfg_attr(
    not(feature = "dtls"),
    expect(dead_code, reason = "without DTLS there is no association to read from")
)]
pub(crate) enum Heard {
    Message(Vec<u8>),
    Nothing,
    /// The association has ended.
    End,
}

/// Whether a datagram is a record of DTLS (RFC 7983).
pub(crate) fn is_record(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| (20..64).contains(first))
}

/// A non-blocking socket connected to the server.
pub(crate) fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

#[cfg(feature = "dtls")]
pub(crate) use over_openssl::{associate, config, prepare};

/// Without the feature no client uses DTLS.
#[cfg(not(feature = "dtls"))]
pub(crate) fn prepare() {}

#[cfg(not(feature = "dtls"))]
pub(crate) fn associate(_: UdpSocket) -> Box<dyn Sealed> {
    unreachable!("a program without DTLS")
}

#[cfg(feature = "dtls")]
mod over_openssl {
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::UdpSocket;
    use std::sync::{Arc, LazyLock};

    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::ssl::{ErrorCode, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode};
    use openssl::x509::X509;
    use relay::net::dtls::{DtlsContext, Identity, SharedContext};
    use relay::shard::DtlsConfig;

    use super::{Heard, Sealed};

    /// Created once in the real world. RSA signatures have a fixed length, because a run must not
    /// depend on a varying one.
    static CONTEXTS: LazyLock<(SharedContext, SslContext)> = LazyLock::new(|| {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate
            .set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let identity = Identity {
            chain: &[&certificate.build().to_der().unwrap()],
            private_key: &key.private_key_to_pkcs8().unwrap(),
        };
        let server = DtlsContext::new(&[identity], |_| 0).unwrap().into_shared();
        let mut client = SslContext::builder(SslMethod::dtls_client()).unwrap();
        client.set_verify(SslVerifyMode::NONE);
        client.set_options(SslOptions::NO_QUERY_MTU);
        (server, client.build())
    });

    /// Must be called before any thread enters a simulated world.
    pub(crate) fn prepare() {
        LazyLock::force(&CONTEXTS);
    }

    /// The server's side.
    pub(crate) fn config() -> DtlsConfig {
        DtlsConfig::new(Arc::clone(&CONTEXTS.0))
    }

    struct Datagrams(UdpSocket);

    impl Read for Datagrams {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.recv(into)
        }
    }

    impl Write for Datagrams {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Association {
        stream: SslStream<Datagrams>,
        /// Messages waiting for the end of the handshake; `None` once it is complete.
        waiting: Option<Vec<Vec<u8>>>,
    }

    /// Starts an association on a socket that is connected to the server.
    pub(crate) fn associate(socket: UdpSocket) -> Box<dyn Sealed> {
        let mut ssl = Ssl::new(&CONTEXTS.1).unwrap();
        ssl.set_mtu(1200).unwrap();
        let stream = SslStream::new(ssl, Datagrams(socket)).unwrap();
        let mut association = Association {
            stream,
            waiting: Some(Vec::new()),
        };
        association.receive();
        Box::new(association)
    }

    impl Sealed for Association {
        fn send(&mut self, message: &[u8]) {
            match &mut self.waiting {
                Some(waiting) => waiting.push(message.to_vec()),
                // Reading reports errors.
                None => drop(self.stream.ssl_write(message)),
            }
        }

        fn receive(&mut self) -> Heard {
            if let Some(waiting) = &mut self.waiting {
                match self.stream.connect() {
                    Ok(()) => {
                        for message in std::mem::take(waiting) {
                            drop(self.stream.ssl_write(&message));
                        }
                        self.waiting = None;
                    }
                    Err(error) if error.code() == ErrorCode::WANT_READ => return Heard::Nothing,
                    Err(_) => return Heard::End,
                }
            }
            let mut buffer = vec![0; 1 << 14];
            match self.stream.ssl_read(&mut buffer) {
                Ok(len) => {
                    buffer.truncate(len);
                    Heard::Message(buffer)
                }
                Err(error) if error.code() == ErrorCode::WANT_READ => Heard::Nothing,
                Err(error)
                    if error
                        .io_error()
                        .is_some_and(|it| it.kind() == ErrorKind::ConnectionRefused) =>
                {
                    Heard::Nothing
                }
                Err(_) => Heard::End,
            }
        }

        fn is_up(&self) -> bool {
            self.waiting.is_none()
        }

        fn close(&mut self) {
            let _ = self.stream.shutdown();
        }
    }
}
