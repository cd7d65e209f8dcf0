use std::path::PathBuf;

use super::*;
use crate::config::sample;
use crate::config::settings::{AcmeSettings, BackendAddress};
use crate::daemon::offered::tests::{EACH, silent};
use crate::turn::config::RelayAddress;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    sample::settings(sample::BASE)
}

/// Each key of the configuration reaches its part of the workers, and no other one.
#[tokio::test]
async fn workers_are_made_as_the_configuration_says() {
    let mut settings = settings();
    let stream = &mut settings.stream;
    stream.limits.frame_timeout = 11 * SECOND;
    stream.limits.write_timeout = 12 * SECOND;
    stream.limits.queue_bytes = 13;
    stream.limits.queue_age = 14 * SECOND;
    stream.idle_timeout = 15 * SECOND;
    stream.unauthenticated_requests = 16;
    settings.log.allocation_lines_per_second = 17;
    settings.log.client_ip = ClientIp::Truncated;
    let udp = &mut settings.udp;
    (udp.relay.receive_buffer, udp.slots, udp.mailbox) = (18, 19, 20);
    udp.relay.offload = false;
    udp.pause = 21 * SECOND;
    settings.listeners = vec![silent("192.0.2.1:3478"), silent("127.0.0.1:3479"), silent("[::1]:3480")];
    settings.front_door.http3.backend = Some(BackendAddress {
        host: "192.0.2.7".into(),
        port: 443,
    });

    let config = shard_config(&settings, None, &BackendAddresses::default()).expect("a configuration");
    let stream = config.stream;
    assert_eq!(
        (
            stream.frame_timeout,
            stream.write_timeout,
            stream.queue_bytes,
            stream.queue_age
        ),
        (11 * SECOND, 12 * SECOND, 13, 14 * SECOND)
    );
    assert_eq!(config.idle_timeout, 15 * SECOND);
    assert_eq!((config.unauthenticated_requests, config.allocation_lines), (16, 17));
    assert_eq!(config.log_client, LogClient::Truncated);
    let relay = config.relay;
    assert_eq!((relay.receive_buffer, relay.offload), (18, false));
    assert_eq!((relay.errors, relay.traffic_class), (true, true));
    assert_eq!((config.slots, config.mailbox, config.pause), (19, 20, 21 * SECOND));
    let local: Vec<_> = config.local_listeners.iter().map(ToString::to_string).collect();
    assert_eq!(local, ["127.0.0.1:3479", "[::1]:3480"]);
    assert!(config.http3.is_some());

    settings.front_door.http3.backend = None;
    settings.log.client_ip = ClientIp::Off;
    let config = shard_config(&settings, None, &BackendAddresses::default()).expect("a configuration");
    assert!(config.http3.is_none());
    assert_eq!(config.log_client, LogClient::Off);
    settings.log.client_ip = ClientIp::Full;
    assert_eq!(log_client(&settings), LogClient::Full);
}

#[test]
fn without_certificates_one_is_made_for_every_name_and_address_of_this_server_and_it_is_told() {
    let mut settings = settings();
    settings.api.host = "turn.example.org".into();
    settings.turn.relay.ipv6 = Some(RelayAddress {
        bind: "::1".parse().expect("an address"),
        announced: "2001:db8::1".parse().expect("an address"),
    });
    let wanted = |settings: &Settings| {
        let mut notes = Vec::new();
        match &certificate_sources(settings, &mut notes)[..] {
            [CertificateSource::SelfSigned(_, wanted)] => (wanted.clone(), notes),
            other => panic!("{other:?}"),
        }
    };
    let (made, notes) = wanted(&settings);
    let addresses: Vec<_> = made.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1", "192.0.2.1", "2001:db8::1"]);
    assert_eq!(made.names, ["turn.example.org", "localhost"]);
    assert!(
        notes.len() == 1 && notes[0].starts_with("the certificate is self-signed"),
        "{notes:?}"
    );

    // An address is not among the names.
    settings.api.host = "198.51.100.9".into();
    let made = wanted(&settings).0;
    assert_eq!(made.names, ["localhost"]);
    assert!(made.addresses.contains(&settings.api.host.parse().expect("an address")));
}

#[test]
fn the_operators_certificates_come_first_and_what_an_authority_gives_behind_them() {
    let mut settings = settings();
    let files = CertificateFiles {
        certificate: "/etc/relay/cert.pem".into(),
        ..CertificateFiles::default()
    };
    settings.tls.certificates = vec![files.clone()];
    settings.tls.acme = Some(AcmeSettings {
        state_dir: "/var/lib/relay".into(),
        domains: vec!["turn.example.org".into()],
        contact: None,
        directory: "https://ca.example/directory".into(),
        root: None,
        account: "/var/lib/relay/account.pem".into(),
        kept: "/var/lib/relay/kept.pem".into(),
    });
    let mut notes = Vec::new();
    let sources = certificate_sources(&settings, &mut notes);
    let [
        CertificateSource::Files(first),
        CertificateSource::Acme { kept, wanted, .. },
    ] = &sources[..]
    else {
        panic!("{sources:?}");
    };
    assert_eq!(*first, files);
    assert_eq!(kept.certificate, kept.private_key);
    assert_eq!(kept.certificate, PathBuf::from("/var/lib/relay/kept.pem"));
    assert_eq!(kept.state_dir, Some(PathBuf::from("/var/lib/relay")));
    assert!(wanted.names.contains(&"turn.example.org".to_owned()), "{wanted:?}");
    assert!(notes.is_empty(), "{notes:?}");
}

#[tokio::test]
async fn certificates_are_opened_where_a_listener_needs_one() {
    let dir = std::env::temp_dir().join(format!("relay-start-{}", std::process::id()));
    let own = |name: &str| dir.join(name);
    let mut settings = settings();
    settings.tls.self_signed = CertificateFiles {
        certificate: own("cert.pem"),
        private_key: own("key.pem"),
        state_dir: Some(dir.clone()),
    };
    for (row, (speak, speaks)) in EACH.iter().enumerate() {
        settings.listeners = vec![silent("127.0.0.1:443"), silent("127.0.0.1:444")];
        speak(&mut settings.listeners[1]);
        let needs_one = [EACH[1].1, EACH[3].1, EACH[4].1]
            .iter()
            .any(|needs| needs(&settings.listeners[1]));
        assert!(speaks(&settings.listeners[1]));
        let (store, acme) = open_certificates(&settings, &mut Vec::new())
            .await
            .expect("they can be");
        assert_eq!((store.is_some(), acme.is_some()), (needs_one, false), "row {row}");
    }
    std::fs::remove_dir_all(dir).expect("was made");
}

#[test]
fn a_first_run_tells_of_its_secret_and_gives_a_credential_to_try() {
    let tells = |settings: &Settings| {
        let mut notes = Vec::new();
        let minted = first_run(settings, &mut notes);
        (notes, minted.map(|minted| minted.username))
    };
    let mut settings = settings();
    settings.api.enabled = true;
    assert_eq!(tells(&settings), (Vec::new(), None), "no secret was made");

    settings.first_run.secret_file = Some("/var/lib/relay/secret".into());
    settings.first_run.secret_is_new = true;
    let (notes, user) = tells(&settings);
    assert!(
        notes[0].contains("one was made; it is kept in /var/lib/relay/secret"),
        "{notes:?}"
    );
    assert!(notes[1].contains("[[api.keys]]") && notes.len() == 2, "{notes:?}");
    let user = user.expect("a credential");
    assert!(user.ends_with("first-run") && !user.contains("+forced"), "{user}");
    settings.api.forced = true;
    let user = tells(&settings).1.expect("a credential");
    assert!(user.contains("+forced"), "{user}");

    // If minting is possible, or can never be, there is nothing to add.
    settings.api.open = true;
    assert_eq!(tells(&settings).0.len(), 1);
    settings.api.open = false;
    settings.api.enabled = false;
    assert_eq!(tells(&settings).0.len(), 1);

    settings.first_run.secret_is_new = false;
    let (notes, user) = tells(&settings);
    assert!(
        notes[0].ends_with("the one in /var/lib/relay/secret is used"),
        "{notes:?}"
    );
    assert_eq!(user.is_some(), banner::is_watched());
}
