//! Time-limited credentials (TURN REST draft) at login: who may log in, until when, and for which
//! user they count.

use std::sync::Arc;

use relay_proto::base::time::UnixTime;
use relay_proto::turn::Config;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, mint};

use crate::every_client::*;
use relay_testkit::world::*;

const OLD_SECRET: &[u8] = b"the secret before this one......";

fn secrets(config: &mut Config, secrets: &[&[u8]]) {
    let credentials = CredentialsConfig {
        realm: REALM.into(),
        secrets: secrets.iter().map(|secret| Secret::new(secret)).collect(),
        ..CredentialsConfig::default()
    };
    config.credentials = Arc::new(Credentials::new(credentials).unwrap());
}

pub(crate) fn minted(client: Client, secret: &[u8], expiry: u64, userid: Option<&str>) -> Client {
    let credential = mint(secret, UnixTime(expiry), userid).unwrap();
    client.user(&credential.username, &credential.password)
}

/// The password of any username, computed with the secret.
fn password_of(username: &str) -> String {
    let mac = <hmac::Hmac<sha1::Sha1> as hmac::KeyInit>::new_from_slice(SECRET).unwrap();
    let tag = hmac::Mac::finalize(hmac::Mac::chain_update(mac, username.as_bytes())).into_bytes();
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, tag)
}

//= REST-01
//= REST-05
//= REST-09
#[test]
fn a_credential_is_good_before_its_expiry_and_not_from_further_ahead_than_can_be_minted() {
    const MOST: u64 = 86_400 + 60;
    for client in every_client() {
        for (ahead, code) in [
            (-1, 401),
            (0, 401),
            (1, 0),
            (60, 0),
            (MOST as i64, 0),
            (MOST as i64 + 1, 401),
        ] {
            for userid in [None, Some("u"), Some("a:b@c")] {
                let mut world = World::new();
                world.pass(secs(100));
                let expiry = world.now().unix.0.checked_add_signed(ahead).unwrap();
                let mut client = minted(client.clone(), SECRET, expiry, userid);
                let answer = client.request(&mut world, &allocate());
                assert_eq!(answer.code(), code, "{ahead} s ahead, {}", story(&client));
            }
        }
    }
}

//= REST-06
//= D7
//= D8
#[test]
fn once_begun_an_allocation_outlives_its_credential_but_not_under_another_name() {
    for client in every_client() {
        let mut world = World::new();
        let mut client = minted(client, SECRET, START + 10, Some("u"));
        client.allocate(&mut world);
        let peer = addr("192.0.2.1:7000");
        for _ in 0..5 {
            world.pass(secs(500));
            client.nonce = None;
            for message in [refresh(600), create_permission(&[peer]), channel_bind(0x4000, peer)] {
                assert_eq!(client.request(&mut world, &message).code(), 0, "{}", story(&client));
            }
        }
        let mut renewed = minted(client.clone(), SECRET, START + 5000, Some("u"));
        assert_eq!(
            renewed.request(&mut world, &refresh(600)).code(),
            441,
            "the same userid, another username"
        );
        client.request(&mut world, &refresh(0));
        assert_eq!(
            client.request(&mut world, &allocate()).code(),
            401,
            "a new one needs a new credential"
        );
    }
}

//= REST-07
//= REST-11
#[test]
fn every_listener_of_every_node_takes_a_credential_of_any_secret_they_share() {
    for client in every_client() {
        // Two nodes that share nothing but their secrets.
        for order in [[SECRET, OLD_SECRET], [OLD_SECRET, SECRET]] {
            for secret in [SECRET, OLD_SECRET] {
                let mut world = World::with(|config| secrets(config, &order));
                minted(client.clone(), secret, START + 1000, Some("u")).allocate(&mut world);
            }
        }
        let mut world = World::with(|config| secrets(config, &[SECRET, OLD_SECRET]));
        let mut live = minted(client.clone(), OLD_SECRET, START + 1000, Some("u"));
        live.allocate(&mut world);
        world.reload(|config| secrets(config, &[SECRET]));
        // Rotated out: no new login succeeds with it, and existing sessions stay.
        assert_eq!(live.request(&mut world, &refresh(600)).code(), 0, "{}", story(&client));
        let mut late = minted(client, OLD_SECRET, START + 1000, Some("v"));
        late.client.five_tuple.client.set_port(1);
        assert_eq!(late.request(&mut world, &allocate()).code(), 401);
    }
}

//= REST-08
//= REST-12
#[test]
fn a_username_that_was_changed_or_written_otherwise_opens_nothing() {
    let expiry = START + 1000;
    let good = mint(SECRET, UnixTime(expiry), Some("alice:b")).unwrap();
    let changed = [
        format!("{}:alice:b", expiry + 1),
        format!("{expiry}:alice:c"),
        format!("{expiry}:alice"),
        format!("{expiry}"),
        format!("{expiry}:alice:b "),
    ];
    for username in changed {
        let mut client = client(1).user(&username, &good.password);
        assert_eq!(
            client.request(&mut World::new(), &allocate()).code(),
            401,
            "{username:?}"
        );
    }
    // Signed with the secret, but not in the required form.
    let written = [
        format!(" {expiry}:a"),
        format!("+{expiry}:a"),
        format!("-{expiry}:a"),
        format!("0x{expiry:x}:a"),
        "1e10:a".into(),
        format!("a:{expiry}"),
        format!("0000{expiry}:a"),
        "99999999999999999999:a".into(),
        format!("{expiry}\0:a"),
        format!("{expiry}:{}", "a".repeat(509 - 11)),
        format!("{expiry}:a\nb"),
        String::new(),
        ":a".into(),
    ];
    for username in written {
        let password = password_of(&username);
        let mut client = client(1).user(&username, &password);
        assert_eq!(
            client.request(&mut World::new(), &allocate()).code(),
            401,
            "{username:?}"
        );
    }
    client(1)
        .user(&good.username, &good.password)
        .allocate(&mut World::new());
}

//= REST-08
//= TURN-ALLOC-25
#[test]
fn quotas_go_by_userid_so_that_a_new_expiry_is_no_new_user() {
    let mut world = World::with(|config| config.limits.allocations_per_user = 2);
    minted(client(1), SECRET, START + 100, Some("u")).allocate(&mut world);
    minted(client(2), SECRET, START + 200, Some("u")).allocate(&mut world);
    let mut third = minted(client(3), SECRET, START + 300, Some("u"));
    assert_eq!(third.request(&mut world, &allocate()).code(), 486);
    minted(client(4), SECRET, START + 300, Some("v")).allocate(&mut world);
    // All users without a userid share one quota.
    minted(client(5), SECRET, START + 100, None).allocate(&mut world);
    minted(client(6), SECRET, START + 200, None).allocate(&mut world);
    let mut third = minted(client(7), SECRET, START + 300, None);
    assert_eq!(third.request(&mut world, &allocate()).code(), 486);
}

//= REST-08
//= STUN-MSG-22
#[test]
fn a_username_may_be_as_long_as_the_rfc_lets_it_be() {
    let credential = |len: usize| {
        let head = format!("{}:@", START + 1000);
        let username = format!("{head}{}", "u".repeat(len - head.len()));
        let password = password_of(&username);
        (username, password)
    };
    for client in every_client() {
        // Userids of 129 bytes were once refused; 255 is the maximum of Matrix ids.
        for len in [11 + 128, 11 + 129, 11 + 255, 11 + 256, 508] {
            let mut world = World::new();
            let (username, password) = credential(len);
            let mut client = client.clone().user(&username, &password);
            let answer = client.request(&mut world, &allocate());
            assert_eq!(answer.code(), 0, "{len} bytes, {}", story(&client));
            for message in [create_permission(&[addr("192.0.2.1:7000")]), refresh(0)] {
                assert_eq!(
                    client.request(&mut world, &message).code(),
                    0,
                    "{len} bytes, {}",
                    story(&client)
                );
            }
        }
        let (username, password) = credential(509);
        let answer = client
            .clone()
            .user(&username, &password)
            .request(&mut World::new(), &allocate());
        assert_eq!(answer.code(), 401);
    }
}
