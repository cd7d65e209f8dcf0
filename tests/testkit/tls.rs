//! Both ends of TLS for one name in memory, each with the other's credentials.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

/// For `relay.test`, with a new certificate each time.
pub fn tls_configs(versions: &[&'static SupportedProtocolVersion]) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

/// A client and a server after their handshake, with separate configurations.
pub fn tls_pair(versions: &[&'static SupportedProtocolVersion]) -> (ClientConnection, Box<ServerConnection>) {
    let (client, server) = tls_configs(versions);
    tls_pair_of(client, server, Tickets::Delivered)
}

/// What happens to the session tickets that a TLS 1.3 server sends after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tickets {
    /// The client has them.
    Delivered,
    /// The new owner of the server's end still has to send them.
    Pending,
}

/// A client and a server of these configurations after their handshake.
pub fn tls_pair_of(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    tickets: Tickets,
) -> (ClientConnection, Box<ServerConnection>) {
    let name = ServerName::try_from("relay.test").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = Box::new(ServerConnection::new(server).unwrap());
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        let is_over = !client.is_handshaking() && !server.is_handshaking();
        if is_over && (tickets == Tickets::Pending || !server.wants_write()) {
            return (client, server);
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}
