//! A temporary certificate authority, a certificate for the relay from it, and the database in
//! which a browser trusts that authority. No check is disabled: name, chain and dates are verified
//! as in production.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

use crate::lab::Namespace;
use crate::process::{run, write_private};
use relay_client::accept_any_certificate;

/// Files of one authority and one certificate, all in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Certs {
    /// The authority's certificate.
    pub(crate) authority: PathBuf,
    /// The certificate of the relay, or of another server.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) private_key: PathBuf,
}

/// Signs certificates.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    /// Creates one with its files in `folder`.
    pub(crate) fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the lab's folder is writable");
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "relay end-to-end tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let own = parameters.self_signed(&key).expect("the parameters are sound");
        let certificate = folder.join("authority.pem");
        write_private(&certificate, &own.pem());
        Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(parameters, key),
            certificate,
        }
    }

    /// A certificate for a server named `name`.
    pub(crate) fn certify(&self, name: &str) -> Certs {
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let mut leaf = CertificateParams::new([name.to_owned()]).expect("the name is ASCII");
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        // A lifetime like that of public authorities; browsers refuse one of centuries.
        leaf.not_before = (SystemTime::now() - Duration::from_hours(24)).into();
        leaf.not_after = (SystemTime::now() + Duration::from_hours(30 * 24)).into();
        let certificate = leaf.signed_by(&key, &self.issuer).expect("the parameters are sound");

        let write = |kind: &str, text: String| {
            let path = self.folder.join(format!("{name}-{kind}.pem"));
            write_private(&path, &text);
            path
        };
        Certs {
            authority: self.certificate.clone(),
            certificate: write("certificate", certificate.pem()),
            private_key: write("private_key", key.serialize_pem()),
        }
    }
}

impl Certs {
    /// Creates an authority in `folder`, and a certificate for a server named `name`.
    pub(crate) fn make(folder: &Path, name: &str) -> Self {
        Authority::make(folder).certify(name)
    }

    /// Configuration below `[tls]` that serves the certificate.
    pub(crate) fn settings(&self) -> String {
        format!(
            "certificate = \"{}\"\nprivate_key = \"{}\"\n",
            self.certificate.display(),
            self.private_key.display()
        )
    }

    /// The current certificate in the file, as DER.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("a certificate")
    }

    /// Creates Chromium's certificate database below `home` and trusts the authority there.
    pub(crate) fn trust_in(&self, home: &Path) {
        let database = home.join(".pki/nssdb");
        fs::create_dir_all(&database).expect("the lab's folder is writable");
        self.trust_in_database(&database);
    }

    /// The same in the folder of the database itself, which Firefox has in its profile.
    pub(crate) fn trust_in_database(&self, database: &Path) {
        let database = format!("sql:{}", database.display());
        run(Command::new("certutil").args(["-d", &database, "-N", "--empty-password"]));
        run(Command::new("certutil")
            .args(["-d", &database, "-A", "-t", "C,,", "-n", "relay-e2e", "-i"])
            .arg(&self.authority));
    }
}

/// A TLS connection from `namespace` that accepts every certificate: the test checks it, or knows
/// the server.
pub(crate) fn connect(
    namespace: &Namespace,
    server: SocketAddr,
    name: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let tcp = namespace.within(|| TcpStream::connect_timeout(&server, Duration::from_secs(5)));
    let mut tcp = tcp.expect("the server listens");
    tcp.set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout that is not zero");
    let config = accept_any_certificate(&[]).expect("a TLS client");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).expect("a handshake");
    }
    StreamOwned::new(tls, tcp)
}

/// The certificate that a new client in `namespace` gets.
pub(crate) fn shown_to(namespace: &Namespace, server: SocketAddr, name: &str) -> CertificateDer<'static> {
    let tls = connect(namespace, server, name);
    let chain = tls.conn.peer_certificates().expect("a server shows its certificate");
    chain[0].clone().into_owned()
}
