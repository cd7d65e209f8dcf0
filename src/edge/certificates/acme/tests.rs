use std::fs;
use std::sync::atomic::AtomicU32;

use tokio::time::Instant;

use super::*;
use crate::edge::certificates::{CertificateSource, SelfSigned};
use crate::machine::certificate::CertificateFiles;

const DAY: u64 = 86_400;

fn info(names: &[&str]) -> CertificateInfo {
    CertificateInfo {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        not_before: UnixTime(1000 * DAY),
        not_after: UnixTime(1090 * DAY),
        fingerprint: String::new(),
        self_signed: false,
    }
}

fn days_until_due(info: &CertificateInfo, today: u64) -> u64 {
    let domains = ["a.test".to_owned(), "b.test".to_owned()];
    due_in(info, &domains, UnixTime(today * DAY)).as_secs() / DAY
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
    let good = info(&["b.test", "a.test"]);
    assert_eq!(days_until_due(&good, 1000), 60);
    assert_eq!(days_until_due(&good, 1059), 1);
    for day in [1060, 1089, 1090, 2000] {
        assert_eq!(days_until_due(&good, day), 0, "day {day}");
    }
}

#[test]
fn another_is_asked_for_at_once_when_names_have_changed_or_it_is_of_our_own_making() {
    for names in [&["a.test"][..], &["a.test", "b.test", "c.test"], &["a.test", "c.test"]] {
        assert_eq!(days_until_due(&info(names), 1000), 0, "{names:?}");
    }
    let own = CertificateInfo {
        self_signed: true,
        ..info(&["a.test", "b.test"])
    };
    assert_eq!(days_until_due(&own, 1000), 0);
}

#[test]
fn pauses_grow_from_a_minute_to_an_hour() {
    let minutes: Vec<u64> = (1..9).map(|failures| pause(failures).as_secs() / 60).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
}

/// A directory for one test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-acme-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    /// A store that waits for a certificate from an authority.
    fn store(&self) -> Arc<TlsStore> {
        let files = |certificate: &str, key: &str| CertificateFiles {
            certificate: self.0.join(certificate),
            private_key: self.0.join(key),
            state_dir: Some(self.0.clone()),
        };
        let source = CertificateSource::Acme {
            kept: files("kept.pem", "kept.pem"),
            until: files("cert.pem", "key.pem"),
            wanted: SelfSigned {
                names: vec!["a.test".into()],
                addresses: Vec::new(),
            },
        };
        Arc::new(
            TlsStore::open(vec![source], unix_now())
                .expect("one of our own making")
                .0,
        )
    }

    /// Storage in `account`.
    fn kept(&self, account: &str) -> Kept {
        Kept {
            state_dir: self.0.clone(),
            account: self.0.join(account),
            tls: self.store(),
        }
    }

    fn acme(&self, directory: &str) -> Acme {
        let settings = AcmeSettings {
            state_dir: self.0.clone(),
            domains: vec!["a.test".into()],
            contact: None,
            directory: directory.into(),
            root: None,
            account: self.0.join("account.pem"),
            kept: self.0.join("kept.pem"),
        };
        Acme::new(settings, self.store()).expect("public roots")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The account cannot be read, so no order reaches the network.
#[tokio::test(start_paused = true)]
async fn a_failed_order_is_tried_again_later_and_later_and_at_once_when_the_operator_says_so() {
    let directory = Directory::new();
    fs::create_dir(directory.0.join("account.pem")).expect("a directory where a file should be");
    let acme = Arc::new(directory.acme("https://ca.test/directory"));
    let running = tokio::spawn(Arc::clone(&acme).run());
    // Seconds of this test's clock at which another order has failed.
    let begin = Instant::now();
    let failed_at = async |count: u64| {
        while acme.orders()[1] < count {
            assert!(
                begin.elapsed() < Duration::from_secs(100_000),
                "waited for failure {count}"
            );
            sleep(Duration::from_millis(100)).await;
        }
        begin.elapsed().as_secs()
    };
    let mut all = Vec::new();
    for count in 1..=4 {
        all.push(failed_at(count).await);
    }
    assert_eq!(all, [0, 60, 60 + 120, 60 + 120 + 240]);
    acme.try_again();
    let again = failed_at(5).await;
    assert!((420..422).contains(&again), "{again}");
    // The pauses are short again.
    assert_eq!(failed_at(6).await - again, 60);
    assert_eq!(acme.orders()[0], 0);
    running.abort();
}

#[tokio::test]
async fn an_order_says_what_is_in_the_way() {
    let directory = Directory::new();
    let acme = directory.acme("this is no URL");
    assert!(acme.order().await.is_err());
    assert!(!acme.try_order(0).await);
    assert_eq!(acme.orders(), [0, 1]);
    fs::remove_file(directory.0.join("account.pem")).expect("it was made");
    fs::create_dir(directory.0.join("account.pem")).expect("a directory where a file should be");
    let problem = acme.order().await.expect_err("the account cannot be read");
    assert!(matches!(problem, Problem::Kept(_)), "{problem}");
}

#[tokio::test]
async fn the_account_is_kept_and_found_again() {
    let directory = Directory::new();
    let kept = directory.kept("account.pem");
    assert_eq!(kept.load_account(&[], "").await.expect("there is none"), None);
    kept.store_account(&[], "", b"key").await.expect("it can be");
    assert_eq!(
        kept.load_account(&[], "").await.expect("there is one").as_deref(),
        Some(&b"key"[..])
    );
    let mode = fs::metadata(directory.0.join("account.pem"))
        .expect("a file")
        .permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);

    fs::create_dir(directory.0.join("nothing.pem")).expect("a directory where a file should be");
    let kept = directory.kept("nothing.pem");
    assert!(
        kept.load_account(&[], "").await.is_err(),
        "one is not made in its place"
    );
    assert!(kept.store_account(&[], "", b"key").await.is_err());
}

#[tokio::test]
async fn what_the_authority_gives_is_served_and_what_is_no_certificate_is_refused() {
    let directory = Directory::new();
    let kept = directory.kept("account.pem");
    assert_eq!(kept.load_cert(&[], "").await.expect("always"), None);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("names");
    let ca = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, "an authority");
    let issuer = rcgen::Issuer::from_params(&authority, &ca);
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let pem = format!("{}\n{}", key.serialize_pem(), certificate.pem());
    kept.store_cert(&[], "", pem.as_bytes()).await.expect("it is one");
    let served = kept.tls.acme_certificate().expect("from an authority");
    assert!(!served.self_signed && served.names == ["a.test"], "{served:?}");
    assert!(kept.store_cert(&[], "", b"<html>").await.is_err());
}
