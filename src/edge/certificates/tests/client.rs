//! A TLS client in memory, and what it received.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme};

use super::TlsStore;

/// The result of a handshake.
pub(super) struct Done {
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) version: Option<ProtocolVersion>,
    pub(super) names: Vec<String>,
}

pub(super) fn handshake(store: &TlsStore, https: bool, alpn: &[&[u8]]) -> Result<Done, rustls::Error> {
    handshake_with(store, https, alpn, &rustls::version::TLS13)
}

pub(super) fn handshake_with(
    store: &TlsStore,
    https: bool,
    alpn: &[&[u8]],
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<Done, rustls::Error> {
    handshake_as(store, https, alpn, version, "x.test")
}

pub(super) fn handshake_as(
    store: &TlsStore,
    https: bool,
    alpn: &[&[u8]],
    version: &'static rustls::SupportedProtocolVersion,
    host: &str,
) -> Result<Done, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
    // As in the front door, the ClientHello decides.
    let mut acceptor = Acceptor::default();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    acceptor.read_tls(&mut &hello[..]).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    let config = store.answer(&accepted.client_hello(), https);
    let mut server = accepted.into_connection(config).map_err(|(error, _)| error)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
    }
    let certificate = &client.peer_certificates().unwrap()[0];
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    Ok(Done {
        alpn: client.alpn_protocol().map(<[u8]>::to_vec),
        version: client.protocol_version(),
        names: names
            .value
            .general_names
            .iter()
            .map(|name| name.to_string().replace("DNSName(", "").replace(')', ""))
            .collect(),
    })
}

/// Accepts every certificate.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
