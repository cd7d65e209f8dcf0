use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use self::client::{handshake, handshake_as, handshake_with};
use super::*;
use crate::machine::certificate::TlsWarning;

mod acme;
mod client;

const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

/// A directory for one test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn source(&self, certificate: &str, key: &str) -> CertificateSource {
        self.numbered("", certificate, key)
    }

    /// One of several sources.
    fn numbered(&self, number: &str, certificate: &str, key: &str) -> CertificateSource {
        CertificateSource::Files(CertificateFiles {
            certificate: self.write(&format!("cert{number}.pem"), certificate),
            private_key: self.write(&format!("key{number}.pem"), key),
            state_dir: None,
        })
    }

    fn own(&self, names: &[&str], addresses: &[&str]) -> CertificateSource {
        let files = CertificateFiles {
            certificate: self.0.join("state/cert.pem"),
            private_key: self.0.join("state/key.pem"),
            state_dir: Some(self.0.join("state")),
        };
        let wanted = SelfSigned {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        CertificateSource::SelfSigned(files, wanted)
    }
}

impl CertificateSource {
    fn files_mut(&mut self) -> &mut CertificateFiles {
        match self {
            Self::Files(files) | Self::SelfSigned(files, _) | Self::Acme { kept: files, .. } => files,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// PEM certificate and key; the validity begins and ends this many days from now.
fn issue(names: &[&str], from: i64, to: i64) -> (String, String) {
    let at = |days: i64| {
        let unix = NOW.0.checked_add_signed(days * 86_400).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
    };
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_before = at(from).into();
    params.not_after = at(to).into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn open(source: CertificateSource, now: UnixTime) -> Result<(TlsStore, LoadedCertificates), TlsError> {
    let (store, mut loaded) = TlsStore::open(vec![source], now).map_err(|mut errors| errors.remove(0))?;
    Ok((store, loaded.remove(0)))
}

fn reload(store: &TlsStore) -> Result<LoadedCertificates, TlsError> {
    store.reload(NOW).remove(0)
}

fn default_of(store: &TlsStore) -> CertificateInfo {
    store.certificates()[0].info().clone()
}

fn problem(source: CertificateSource) -> (PathBuf, TlsProblem) {
    let error = open(source, NOW).expect_err("is refused");
    (error.file, error.problem)
}

#[test]
fn a_certificate_and_its_key_are_served() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["turn.example.org", "192.0.2.7", "2001:db8::7"], -1, 90);
    let (store, loaded) = open(directory.source(&certificate, &key), NOW).unwrap();
    assert_eq!(loaded.info.names, ["turn.example.org", "192.0.2.7", "2001:db8::7"]);
    assert_eq!(loaded.info.not_after, UnixTime(NOW.0 + 90 * DAY));
    assert_eq!((loaded.warnings, loaded.generated), (vec![], false));
    assert_eq!(default_of(&store).fingerprint.len(), 64);
    assert!(!default_of(&store).self_signed);
}

#[test]
fn every_mistake_is_told_with_its_file() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["a.test"], -1, 90);
    let (other_certificate, other_key) = issue(&["b.test"], -1, 90);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let damaged = certificate.replacen('M', "!", 1);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let chain = format!("{other_certificate}{certificate}");
    let (certificate_file, key_file) = (directory.0.join("cert.pem"), directory.0.join("key.pem"));
    type Expected = fn(&TlsProblem) -> bool;
    let cases: [(&str, &str, &Path, Expected); 11] = [
        ("", &key, &certificate_file, |p| *p == TlsProblem::NoCertificate),
        (&key, &certificate, &certificate_file, |p| {
            *p == TlsProblem::KeyInsteadOfCertificate
        }),
        (&certificate, "", &key_file, |p| *p == TlsProblem::NoKey),
        (&certificate, &certificate, &key_file, |p| {
            *p == TlsProblem::CertificateInsteadOfKey
        }),
        (&certificate, encrypted, &key_file, |p| *p == TlsProblem::EncryptedKey),
        (&damaged, &key, &certificate_file, |p| {
            matches!(p, TlsProblem::BadPem(_))
        }),
        (garbage, &key, &certificate_file, |p| {
            matches!(p, TlsProblem::BadCertificate(_))
        }),
        (&certificate, bad_key, &key_file, |p| matches!(p, TlsProblem::BadKey(_))),
        (&certificate, &other_key, &key_file, |p| {
            matches!(p, TlsProblem::Mismatch(_))
        }),
        (&chain, &key, &certificate_file, |p| *p == TlsProblem::WrongOrder(2)),
        (&certificate, "-----BEGIN PRIVATE KEY-----\nAAAA\n", &key_file, |p| {
            matches!(p, TlsProblem::BadPem(_))
        }),
    ];
    for (row, (certificate, key, file, expected)) in cases.iter().enumerate() {
        let (at, what) = problem(directory.source(certificate, key));
        assert!(
            at == *file && expected(&what),
            "row {row}: {what:?} at {}",
            at.display()
        );
    }
}

#[test]
fn missing_files_are_told_apart_from_unreadable_ones() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["a.test"], -1, 90);
    let mut source = directory.source(&certificate, &key);
    let nowhere = directory.0.join("nowhere.pem");
    source.files_mut().private_key.clone_from(&nowhere);
    assert_eq!(problem(source.clone()), (nowhere, TlsProblem::Missing));
    source.files_mut().private_key.clone_from(&directory.0);
    assert!(matches!(problem(source), (_, TlsProblem::Unreadable(_))));
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    assert_eq!(TlsProblem::of_read(&denied), TlsProblem::NotPermitted);
}

/// The file exists but cannot be examined, so the server must not replace it.
#[test]
fn one_of_our_own_making_is_not_made_where_its_place_cannot_be_looked_at() {
    let directory = Directory::new();
    fs::create_dir_all(directory.0.join("state/cert.pem")).unwrap();
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory.0.join("state"), private).unwrap();
    let (file, what) = problem(directory.own(&["a.test"], &[]));
    assert_eq!(file, directory.0.join("state/cert.pem"));
    assert!(matches!(what, TlsProblem::Unreadable(_)), "{what:?}");
    assert!(!directory.0.join("state/key.pem").exists());
}

#[test]
fn errors_read_as_advice() {
    let file = PathBuf::from("/etc/relay/key.pem");
    let text = TlsError {
        file,
        problem: TlsProblem::Mismatch("/etc/relay/cert.pem".into()),
    }
    .to_string();
    assert!(
        text.starts_with("/etc/relay/key.pem: ") && text.contains("/etc/relay/cert.pem"),
        "{text}"
    );
}

#[test]
fn validity_is_warned_about_on_either_side_of_each_border() {
    let cases: [(i64, i64, Option<TlsWarning>); 9] = [
        (-76, 14, None),
        (-77, 13, Some(TlsWarning::ExpiresIn(13))),
        (-10, 0, Some(TlsWarning::Expired)),
        (-10, -1, Some(TlsWarning::Expired)),
        (0, 90, None),
        (1, 90, Some(TlsWarning::NotYetValid)),
        // A certificate with a lifetime of days is renewed within days of its end.
        (0, 6, None),
        (-5, 1, None),
        (-11, 1, Some(TlsWarning::ExpiresIn(1))),
    ];
    for (from, to, expected) in cases {
        let directory = Directory::new();
        let (certificate, key) = issue(&["a.test"], from, to);
        let (_, loaded) = open(directory.source(&certificate, &key), NOW).unwrap();
        assert_eq!(
            loaded.warnings,
            Vec::from_iter(expected),
            "valid from day {from} to day {to}"
        );
    }
}

#[test]
fn a_certificate_without_names_and_a_key_for_everyone_are_warned_about() {
    let directory = Directory::new();
    let (certificate, key) = issue(&[], -1, 90);
    let source = directory.source(&certificate, &key);
    fs::set_permissions(&source.files().private_key, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, loaded) = open(source.clone(), NOW).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            TlsWarning::NoNames,
            TlsWarning::KeyReadableByOthers(source.files().private_key.clone(), 0o644)
        ]
    );
}

#[test]
fn without_files_a_certificate_is_made_that_names_host_and_addresses() {
    let directory = Directory::new();
    let source = directory.own(&["turn.example.org", "not a host"], &["203.0.113.5", "2001:db8::5"]);
    let (_, loaded) = open(source.clone(), NOW).unwrap();
    assert!(loaded.generated && loaded.info.self_signed);
    assert_eq!(loaded.info.names, ["turn.example.org", "203.0.113.5", "2001:db8::5"]);
    assert_eq!(loaded.warnings, []);
    let mode = fs::metadata(&source.files().private_key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(loaded.info.not_after.0 - loaded.info.not_before.0 <= 398 * DAY);
}

#[test]
fn a_certificate_of_our_own_is_kept_until_it_no_longer_serves() {
    let directory = Directory::new();
    let source = directory.own(&["turn.example.org"], &["203.0.113.5"]);
    let (_, first) = open(source.clone(), NOW).unwrap();
    let again = |source: &CertificateSource, now: UnixTime| open(source.clone(), now).unwrap().1;
    let kept = again(&source, UnixTime(first.info.not_after.0 - 30 * DAY - 1));
    assert_eq!(
        (kept.info.fingerprint, kept.generated),
        (first.info.fingerprint.clone(), false)
    );
    let renewed = again(&source, UnixTime(first.info.not_after.0 - 30 * DAY));
    assert!(renewed.generated && renewed.info.fingerprint != first.info.fingerprint);
    let moved = again(&directory.own(&["turn.example.org"], &["203.0.113.6"]), NOW);
    assert!(moved.generated && moved.info.names.contains(&"203.0.113.6".to_owned()));
    fs::write(&source.files().private_key, "damaged").unwrap();
    assert!(again(&source, NOW).generated);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told() {
    let directory = Directory::new();
    let mut source = directory.own(&["a.test"], &[]);
    source.files_mut().private_key = directory.write("file", "").join("key.pem");
    assert!(matches!(problem(source), (_, TlsProblem::Unwritable(_))));
}

#[test]
fn a_reload_swaps_what_is_good_and_keeps_the_old_otherwise() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["one.test"], -1, 90);
    let (store, _) = open(directory.source(&certificate, &key), NOW).unwrap();
    assert!(!reload(&store).unwrap().changed);

    let (next_certificate, next_key) = issue(&["two.test"], -1, 90);
    directory.source(&next_certificate, &key);
    assert!(matches!(reload(&store).unwrap_err().problem, TlsProblem::Mismatch(_)));
    assert_eq!(default_of(&store).names, ["one.test"]);
    assert_eq!(handshake(&store, false, &[]).unwrap().names, ["one.test"]);

    directory.source(&next_certificate, &next_key);
    let config = store.server_config(false);
    assert!(reload(&store).unwrap().changed);
    assert_eq!(default_of(&store).names, ["two.test"]);
    assert!(
        Arc::ptr_eq(&config, &store.server_config(false)),
        "listeners need not be told"
    );
    assert_eq!(handshake(&store, false, &[]).unwrap().names, ["two.test"]);
    assert!(!reload(&store).unwrap().changed);
    assert_eq!(store.updates(), [1, 1], "what changed, and what could not be taken");
}

//= XPORT-11
//= XPORT-12
#[test]
fn alpn_takes_turn_and_none_and_http_only_where_it_is_served() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["a.test"], -1, 90);
    let (store, _) = open(directory.source(&certificate, &key), NOW).unwrap();
    let refused = || Err(rustls::Error::NoApplicationProtocol);
    type Case = (
        bool,
        &'static [&'static [u8]],
        Result<Option<&'static [u8]>, rustls::Error>,
    );
    let cases: [Case; 10] = [
        (false, &[], Ok(None)),
        (false, &[b"stun.turn"], Ok(Some(b"stun.turn"))),
        (false, &[b"stun.nat-discovery"], Ok(Some(b"stun.nat-discovery"))),
        (false, &[b"h2", b"stun.turn"], Ok(Some(b"stun.turn"))),
        (false, &[b"h2"], refused()),
        (false, &[b"http/1.1"], refused()),
        (true, &[], Ok(None)),
        (true, &[b"h2", b"http/1.1"], Ok(Some(b"http/1.1"))),
        (true, &[b"stun.turn"], Ok(Some(b"stun.turn"))),
        (true, &[b"h2"], refused()),
    ];
    for (https, offered, expected) in cases {
        let got = handshake(&store, https, offered).map(|done| done.alpn);
        assert_eq!(
            got,
            expected.map(|alpn| alpn.map(<[u8]>::to_vec)),
            "https {https}, offered {offered:?}"
        );
    }
}

//= XPORT-10
#[test]
fn tls_1_2_and_1_3_are_served_with_forward_secrecy_and_without_early_data() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["a.test"], -1, 90);
    let (store, _) = open(directory.source(&certificate, &key), NOW).unwrap();
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        assert_eq!(
            handshake_with(&store, false, &[], version).unwrap().version,
            Some(expected)
        );
    }
    let config = store.server_config(true);
    assert_eq!(config.max_early_data_size, 0);
    assert!(config.ticketer.enabled());
    for suite in &config.crypto_provider().cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
    }
}

/// Names in the certificate that a client with server name `host` receives.
fn served_for(store: &TlsStore, host: &str) -> Vec<String> {
    handshake_as(store, false, &[], &rustls::version::TLS13, host)
        .unwrap()
        .names
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for_and_else_the_first() {
    let directory = Directory::new();
    let sources = [
        ("1", &["one.test", "192.0.2.7"][..]),
        ("2", &["Two.test", "*.two.test"][..]),
        ("3", &["deep.two.test", "one.test", "three.test"][..]),
    ];
    let sources = sources.map(|(number, names)| {
        let (certificate, key) = issue(names, -1, 90);
        directory.numbered(number, &certificate, &key)
    });
    let (store, loaded) = TlsStore::open(sources.to_vec(), NOW).unwrap();
    assert_eq!(loaded.len(), 3);
    for (host, first_name) in [
        ("one.test", "one.test"),
        ("two.test", "Two.test"),
        ("any.two.test", "Two.test"),
        ("deep.two.test", "deep.two.test"),
        ("THREE.test", "deep.two.test"),
        ("a.b.two.test", "one.test"),
        ("elsewhere.test", "one.test"),
        // A client that connects by address sends no name.
        ("192.0.2.1", "one.test"),
    ] {
        assert_eq!(served_for(&store, host)[0], first_name, "{host}");
    }
}

#[test]
fn each_of_several_certificates_is_swapped_by_itself_and_a_bad_one_is_told_once() {
    let directory = Directory::new();
    let pair = |number: &str, name: &str| {
        let (certificate, key) = issue(&[name], -1, 90);
        directory.numbered(number, &certificate, &key)
    };
    let (store, _) = TlsStore::open(vec![pair("1", "one.test"), pair("2", "two.test")], NOW).unwrap();
    let changes = store.changes();
    assert_eq!(store.poll_files(NOW), []);

    directory.write("key1.pem", "no key at all");
    pair("2", "new.two.test");
    assert_eq!(
        store.poll_files(NOW),
        [],
        "seen for the first time: both files of a pair may be on their way"
    );
    let news = store.poll_files(NOW);
    assert!(
        matches!(&news[..], [Err(error), Ok(loaded)] if error.problem == TlsProblem::NoKey && loaded.changed),
        "{news:?}"
    );
    assert_eq!(served_for(&store, "new.two.test"), ["new.two.test"]);
    assert_eq!(served_for(&store, "one.test"), ["one.test"], "the old one stays");
    assert!(changes.has_changed().unwrap());
    assert_eq!(store.poll_files(NOW), [], "told once");
    assert_eq!(store.updates(), [1, 1]);

    pair("1", "new.one.test");
    store.poll_files(NOW);
    assert!(matches!(&store.poll_files(NOW)[..], [Ok(loaded)] if loaded.info.names == ["new.one.test"]));
    assert_eq!(store.updates(), [2, 1]);
}

/// A file system that comes back shows the file unchanged, with the same time.
#[test]
fn a_certificate_that_could_not_be_read_is_tried_until_it_can_be() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["one.test"], -1, 90);
    let (store, _) = open(directory.source(&certificate, &key), NOW).unwrap();
    let (certificate, key) = issue(&["two.test"], -1, 90);
    directory.source(&certificate, &"x".repeat(key.len()));
    let path = directory.0.join("key.pem");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(store.poll_files(NOW), []);
    assert!(matches!(&store.poll_files(NOW)[..], [Err(_)]));
    assert_eq!(store.poll_files(NOW), [], "told once");

    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, key.as_bytes(), 0).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    assert!(matches!(&store.poll_files(NOW)[..], [Ok(loaded)] if loaded.changed));
    assert_eq!(default_of(&store).names, ["two.test"]);
    assert_eq!(store.poll_files(NOW), [], "taken");
    assert_eq!(store.updates(), [1, 1]);
}

#[test]
fn the_soonest_end_of_all_certificates_is_known() {
    let directory = Directory::new();
    let sources = [90, 20, 40].map(|days| {
        let (certificate, key) = issue(&["a.test"], -1, days);
        directory.numbered(&days.to_string(), &certificate, &key)
    });
    let (store, _) = TlsStore::open(sources.to_vec(), NOW).unwrap();
    assert_eq!(store.soonest_expiry(), UnixTime(NOW.0 + 20 * DAY));
}

/// For a TLS implementation other than rustls.
#[test]
fn chain_and_key_can_be_had_in_der() {
    let directory = Directory::new();
    let (certificate, key) = issue(&["a.test"], -1, 90);
    let (issuer, _) = issue(&["ca.test"], -1, 90);
    let (store, _) = open(directory.source(&format!("{certificate}{issuer}"), &key), NOW).unwrap();
    let served = &store.certificates()[0];
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(served.chain(), [der(&certificate), der(&issuer)]);
    assert_eq!(served.private_key(), KeyPair::from_pem(&key).unwrap().serialized_der());
    assert!(
        !format!("{served:?}").contains("48, "),
        "no bytes of the key where it is shown"
    );
}
