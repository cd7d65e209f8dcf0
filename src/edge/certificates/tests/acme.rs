//! Certificates from ACME: stored, served, and the answer to the authority's validation.

use super::*;
use crate::config::sample;
use crate::config::settings::{BackendAddress, RouteSettings, Settings};
use crate::edge::capture::LogCapture;

fn source(directory: &Directory) -> CertificateSource {
    let kept = directory.0.join("state/acme/certificate.pem");
    let CertificateSource::SelfSigned(until, wanted) = directory.own(&["turn.test"], &[]) else {
        unreachable!("made so")
    };
    CertificateSource::Acme {
        kept: CertificateFiles {
            certificate: kept.clone(),
            private_key: kept,
            state_dir: Some(directory.0.join("state")),
        },
        until,
        wanted,
    }
}

/// Key and chain as stored.
fn obtained(days: i64) -> String {
    let (certificate, key) = issue(&["turn.test"], -1, days);
    let (issuer, _) = issue(&["ca.test"], -1, 90);
    format!("{key}\n{certificate}{issuer}")
}

#[test]
fn one_of_our_own_making_stands_in_until_the_first_is_obtained_and_that_outlives_a_restart() {
    let directory = Directory::new();
    let (store, loaded) = open(source(&directory), NOW).unwrap();
    assert!(loaded.generated && store.acme_certificate().unwrap().self_signed);
    assert!(
        reload(&store).is_ok_and(|again| !again.changed),
        "nothing is missing yet"
    );

    let loaded = store.install(obtained(90).as_bytes(), NOW).unwrap();
    assert!(loaded.changed && !store.acme_certificate().unwrap().self_signed);
    assert_eq!(store.certificates()[0].chain().len(), 2);
    let file = directory.0.join("state/acme/certificate.pem");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);

    let (again, _) = open(source(&directory), NOW).unwrap();
    assert_eq!(default_of(&again), loaded.info);
}

#[test]
fn a_bad_certificate_is_not_kept_and_a_damaged_file_does_not_replace_the_one_in_service() {
    let directory = Directory::new();
    let (store, _) = open(source(&directory), NOW).unwrap();
    let good = store.install(obtained(90).as_bytes(), NOW).unwrap();
    let (other, _) = issue(&["turn.test"], -1, 90);
    let (_, key) = issue(&["turn.test"], -1, 90);
    assert!(store.install(format!("{key}{other}").as_bytes(), NOW).is_err());
    assert!(store.install(b"<html>", NOW).is_err());
    assert_eq!(default_of(&store), good.info);

    let file = directory.0.join("state/acme/certificate.pem");
    fs::write(&file, "damaged").unwrap();
    assert!(reload(&store).is_err());
    assert_eq!(default_of(&store), good.info);
    // At a start there is no better one.
    assert!(open(source(&directory), NOW).unwrap().1.info.self_signed);
}

#[test]
fn a_certificate_that_cannot_be_written_is_told_and_served_all_the_same() {
    let directory = Directory::new();
    let (store, _) = open(source(&directory), NOW).unwrap();
    directory.write("state/acme", "a file where a directory should be");
    let error = store.install(obtained(90).as_bytes(), NOW).unwrap_err();
    assert!(matches!(error.problem, TlsProblem::Unwritable(_)), "{error}");
    assert!(!default_of(&store).self_signed);
}

#[test]
fn another_process_that_shares_the_state_hands_its_renewal_on() {
    let directory = Directory::new();
    let (one, _) = open(source(&directory), NOW).unwrap();
    let (other, _) = open(source(&directory), NOW).unwrap();
    let renewed = one.install(obtained(90).as_bytes(), NOW).unwrap();
    assert_eq!(other.poll_files(NOW), []);
    assert_eq!(other.poll_files(NOW).len(), 1);
    assert_eq!(default_of(&other), renewed.info);
}

#[test]
fn only_an_authority_that_asks_is_shown_the_answer_to_its_challenge_and_only_while_there_is_one() {
    let directory = Directory::new();
    let (store, _) = open(source(&directory), NOW).unwrap();
    let challenge: &[&[u8]] = &[b"acme-tls/1"];
    let refused = Some(rustls::Error::NoApplicationProtocol);
    assert_eq!(handshake(&store, true, challenge).err(), refused);

    // Made as the library makes it: its own certificate, its own protocol.
    let other = Directory::new();
    let (answering, _) = open(other.own(&["challenge.test"], &[]), NOW).unwrap();
    let mut config = (*answering.server_config(false)).clone();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    store.answer_challenges(Some(Arc::new(config)));
    assert_eq!(handshake(&store, true, challenge).unwrap().names, ["challenge.test"]);
    let others: [&[&[u8]]; 3] = [&[], &[b"stun.turn"], &[b"stun.turn", b"acme-tls/1"]];
    for alpn in others {
        assert_eq!(handshake(&store, true, alpn).unwrap().names, ["turn.test"], "{alpn:?}");
    }
    store.answer_challenges(None);
    assert_eq!(handshake(&store, true, challenge).err(), refused);
}

#[tokio::test]
async fn what_is_obtained_is_reported_once_with_names_that_routes_hide() {
    let directory = Directory::new();
    let (store, _) = open(source(&directory), NOW).unwrap();
    store.install(obtained(90).as_bytes(), NOW).unwrap();
    let obtained: Vec<_> = store.installed().await.into_iter().map(Ok).collect();
    let again = tokio::time::timeout(Duration::from_millis(20), store.installed()).await;
    assert!(again.is_err(), "{again:?}");

    let Settings {
        api, mut front_door, ..
    } = sample::settings(sample::BASE);
    let log = LogCapture::new();
    report::changes(&obtained, &store, &front_door, &api);
    assert_eq!(log.count(&["certificate in service", "turn.test"]), 1);
    assert_eq!(log.count(&["front_door.route"]), 0);
    front_door.routes.push(RouteSettings {
        names: vec!["turn.test".to_owned()],
        backend: BackendAddress {
            host: "127.0.0.1".to_owned(),
            port: 8443,
        },
        proxy_header: false,
    });
    report::changes(&obtained, &store, &front_door, &api);
    assert_eq!(log.count(&["`front_door.route` leads every name", "turn.test"]), 1);
}
