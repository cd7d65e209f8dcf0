use core::time::Duration;
use std::collections::BTreeSet;

use super::*;
use crate::base::rng::Rng;
use crate::base::time::{Instant, UnixTime};
use crate::turn::config::RelayConfig;
use crate::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use crate::turn::login::nonce::NonceKey;
use crate::turn::login::owner::Owner;
use crate::turn::policy::{PeerPolicy, PolicyConfig};
use crate::wire::message::{Class, Method, TransactionId};

const REALM: &str = "example.org";
const START: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret that is long enough....";

struct World {
    config: Config,
    nonces: Nonces,
    limiters: Limiters,
    now: Now,
    client: FiveTuple,
}

fn config(secrets: Vec<Secret>, users: &[(&str, &str)]) -> Config {
    let users = users.iter().map(|(name, password)| StaticUser {
        name: (*name).to_owned(),
        password: (*password).to_owned().into(),
        forced: false,
    });
    let credentials = CredentialsConfig {
        realm: REALM.to_owned(),
        secrets,
        users: users.collect(),
        ..CredentialsConfig::default()
    };
    let relay = RelayConfig {
        ipv4: None,
        ipv6: None,
        ports: 49_152..=65_535,
        port_shift: 0,
    };
    let policy = PeerPolicy::new(PolicyConfig::default()).unwrap();
    let credentials = Credentials::new(credentials).unwrap();
    Config::new(REALM.to_owned(), Arc::new(credentials), Arc::new(policy), relay)
}

fn world_of(config: Config) -> World {
    World {
        nonces: Nonces::new(config.nonce_keys(), &NonceKey::random([7; 32])),
        config,
        limiters: Limiters::new(&mut Rng::new([9; 32])),
        now: Now {
            mono: Instant::ZERO,
            unix: UnixTime(START),
        },
        client: FiveTuple {
            client: "192.0.2.7:5000".parse().unwrap(),
            server: "192.0.2.1:3478".parse().unwrap(),
            transport: Transport::Udp,
        },
    }
}

fn world() -> World {
    world_of(config(vec![Secret::new(SECRET)], &[("alice", "wonderland")]))
}

/// The parts of a request. Tests change one at a time.
struct Signed<'a> {
    username: &'a [u8],
    realm: &'a str,
    nonce: &'a [u8],
    password: &'a str,
    algorithm: Option<PasswordAlgorithm>,
    offer: &'a [u8],
    with: Integrity,
}

impl<'a> Signed<'a> {
    fn alice(nonce: &'a [u8]) -> Self {
        Self {
            username: b"alice",
            realm: REALM,
            nonce,
            password: "wonderland",
            algorithm: None,
            offer: &[],
            with: Integrity::Sha1,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut buf = [0; 1500];
        let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Allocate, TransactionId([1; 12]));
        writer.attribute(AttributeType::USERNAME, self.username);
        writer.attribute(AttributeType::REALM, self.realm.as_bytes());
        writer.attribute(AttributeType::NONCE, self.nonce);
        if !self.offer.is_empty() {
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, self.offer);
        }
        if let Some(algorithm) = self.algorithm {
            let [high, low] = algorithm.number().to_be_bytes();
            writer.attribute(AttributeType::PASSWORD_ALGORITHM, &[high, low, 0, 0]);
        }
        let algorithm = self.algorithm.unwrap_or(PasswordAlgorithm::Md5);
        writer.integrity(
            &Key::long_term(self.username, self.realm, self.password.as_bytes(), algorithm),
            self.with,
        );
        let len = writer.finish().unwrap();
        buf[..len].to_vec()
    }
}

impl World {
    fn try_as(&mut self, bytes: &[u8], live: Option<&Arc<Session>>, first: bool) -> Result<Arc<Session>, AuthAnswer> {
        let message = Message::parse(bytes).unwrap();
        let owner = &mut Owner::default();
        let mut authenticator = Authenticator {
            config: &self.config,
            nonces: &mut self.nonces,
            limiters: &self.limiters,
            now: self.now,
            client: &self.client,
            message: &message,
            live: live.map(|session| Live { session, owner }),
        };
        authenticator.authenticate(first).map_err(|error| error.answer)
    }

    fn login(&mut self, request: &Signed<'_>) -> Result<Arc<Session>, AuthAnswer> {
        self.try_as(&request.bytes(), None, true)
    }

    fn challenge(&mut self) -> ChallengeResponse {
        match self.try_as(&unsigned(), None, true) {
            Err(AuthAnswer::Challenge(challenge)) => challenge,
            other => panic!("{other:?}"),
        }
    }

    fn nonce(&mut self) -> Vec<u8> {
        self.challenge().nonce.as_bytes().to_vec()
    }
}

/// The first request of a client that has no nonce yet.
fn unsigned() -> Vec<u8> {
    let mut buf = [0; 28];
    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Allocate, TransactionId([1; 12]));
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    assert_eq!(writer.finish(), Ok(28));
    buf.to_vec()
}

/// A request with these attributes, signed with `key`.
fn request(attributes: &[(AttributeType, &[u8])], key: &Key) -> Vec<u8> {
    let mut buf = [0; 500];
    let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Allocate, TransactionId([1; 12]));
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    writer.integrity(key, Integrity::Sha1);
    let len = writer.finish().unwrap();
    buf[..len].to_vec()
}

/// The bytes of `challenge` as the client receives them.
fn written(challenge: &ChallengeResponse) -> Vec<u8> {
    let mut buf = [0; 300];
    let mut writer = MessageWriter::new(&mut buf, Class::Error, Method::Allocate, TransactionId([1; 12]));
    writer.error_code(challenge.code(), "");
    challenge.write(&mut writer);
    let len = writer.finish().unwrap();
    buf[..len].to_vec()
}

fn code(result: Result<Arc<Session>, AuthAnswer>) -> u16 {
    match result {
        Ok(_) => 0,
        Err(AuthAnswer::Challenge(challenge)) => challenge.code(),
        Err(AuthAnswer::BadRequest) => 400,
        Err(AuthAnswer::Silent(reason)) => panic!("silent: {reason}"),
    }
}

//= STUN-AUTH-01
//= STUN-AUTH-14
//= COMPAT-01
#[test]
fn a_client_of_either_generation_logs_in_with_the_nonce_it_was_given() {
    let mut world = world();
    let nonce = world.nonce();
    assert!(nonce.starts_with(b"obMatJos2"), "the cookie is offered");
    assert_eq!(code(world.login(&Signed::alice(&nonce))), 0, "RFC 5389: MD5 and SHA-1");
    for algorithm in [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5] {
        let request = Signed {
            algorithm: Some(algorithm),
            offer: &PasswordAlgorithm::OFFER,
            with: Integrity::Sha256,
            ..Signed::alice(&nonce)
        };
        let session = world.login(&request).unwrap();
        assert_eq!((session.integrity, &*session.username), (Integrity::Sha256, "alice"));
    }
}

//= STUN-AUTH-18
#[test]
fn who_chose_an_algorithm_is_answered_with_sha256_and_everybody_else_with_sha1() {
    let mut world = world();
    let nonce = world.nonce();
    for with in [Integrity::Sha1, Integrity::Sha256] {
        let implied = Signed {
            with,
            ..Signed::alice(&nonce)
        };
        assert_eq!(world.login(&implied).unwrap().integrity, Integrity::Sha1, "{with:?}");
        for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
            let chosen = Signed {
                algorithm: Some(algorithm),
                offer: &PasswordAlgorithm::OFFER,
                with,
                ..Signed::alice(&nonce)
            };
            assert_eq!(
                world.login(&chosen).unwrap().integrity,
                Integrity::Sha256,
                "{with:?} {algorithm:?}"
            );
        }
    }
}

#[test]
fn a_live_login_may_change_its_algorithm_from_request_to_request() {
    let mut world = world();
    let nonce = world.nonce();
    let live = world.login(&Signed::alice(&nonce)).unwrap();
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        let chosen = Signed {
            algorithm: Some(algorithm),
            offer: &PasswordAlgorithm::OFFER,
            with: Integrity::Sha256,
            ..Signed::alice(&nonce)
        };
        let session = world.try_as(&chosen.bytes(), Some(&live), false).unwrap();
        assert_eq!(
            (session.integrity, &session.username),
            (Integrity::Sha256, &live.username)
        );
        assert_eq!(session.key == live.key, algorithm == PasswordAlgorithm::Md5);
    }
}

//= STUN-AUTH-03
//= STUN-AUTH-08
//= STUN-AUTH-21
//= STUN-AUTH-22
//= REST-09
//= REST-12
#[test]
fn whatever_is_wrong_with_user_realm_or_password_is_one_and_the_same_401() {
    let mut world = world();
    let nonce = world.nonce();
    let mint = |secret: &[u8], expiry| Secret::new(secret).mint(UnixTime(expiry), Some("bob")).unwrap();
    let expired = mint(SECRET, START);
    let far = mint(SECRET, START + 86_400 + 61);
    let foreign = mint(b"another secret.................", START + 60);
    let mut answers = BTreeSet::new();
    for (what, username, realm, password) in [
        ("password", "alice".as_bytes(), REALM, "looking-glass"),
        ("user", b"mallory", REALM, "wonderland"),
        ("not UTF-8", b"\xff\xfe", REALM, "wonderland"),
        ("empty user", b"", REALM, "wonderland"),
        ("realm, with the key for it", b"alice", "evil.example", "wonderland"),
        ("expired", expired.username.as_bytes(), REALM, &expired.password),
        ("good for too long", far.username.as_bytes(), REALM, &far.password),
        ("another secret", foreign.username.as_bytes(), REALM, &foreign.password),
    ] {
        let request = Signed {
            username,
            realm,
            password,
            ..Signed::alice(&nonce)
        };
        let Err(AuthAnswer::Challenge(challenge)) = world.login(&request) else {
            panic!("{what}");
        };
        assert_eq!(challenge.code(), 401, "{what}");
        answers.insert(written(&challenge));
    }
    assert_eq!(answers.len(), 1, "the same bytes, to the nonce");
}

//= STUN-AUTH-08
#[test]
fn a_right_signature_under_a_foreign_realm_is_refused_with_and_without_an_allocation() {
    let mut world = world();
    let nonce = world.nonce();
    let live = world.login(&Signed::alice(&nonce)).unwrap();
    let foreign = request(
        &[
            (AttributeType::USERNAME, b"alice"),
            (AttributeType::REALM, b"evil.example"),
            (AttributeType::NONCE, &nonce),
        ],
        &live.key,
    );
    assert_eq!(code(world.try_as(&foreign, None, true)), 401);
    assert_eq!(code(world.try_as(&foreign, Some(&live), false)), 401);
}

//= STUN-AUTH-02
//= STUN-AUTH-20
#[test]
fn a_signed_request_that_lacks_an_attribute_is_a_bad_request() {
    let mut world = world();
    let nonce = world.nonce();
    let key = Key::long_term(b"alice", REALM, b"wonderland", PasswordAlgorithm::Md5);
    let hash = userhash(b"alice", REALM);
    let all: [(AttributeType, &[u8]); 3] = [
        (AttributeType::USERNAME, b"alice"),
        (AttributeType::REALM, REALM.as_bytes()),
        (AttributeType::NONCE, &nonce),
    ];
    for missing in all {
        let rest: Vec<_> = all.into_iter().filter(|attribute| *attribute != missing).collect();
        let answer = world.try_as(&request(&rest, &key), None, true);
        assert_eq!(code(answer), 400, "without {:?}", missing.0);
    }
    let twice = [&all[..], &[(AttributeType::USERHASH, &hash)]].concat();
    assert_eq!(
        code(world.try_as(&request(&twice, &key), None, true)),
        400,
        "named twice"
    );
}

//= STUN-AUTH-04
//= STUN-AUTH-05
//= STUN-AUTH-17
//= COMPAT-04
#[test]
fn a_nonce_of_another_address_age_or_making_is_stale_and_the_new_one_works() {
    let mut world = world();
    let nonce = world.nonce();
    world.client.client.set_port(5001);
    assert_eq!(code(world.login(&Signed::alice(&nonce))), 0, "another port");
    world.client.client = "192.0.2.8:5001".parse().unwrap();
    let Err(AuthAnswer::Challenge(again)) = world.login(&Signed::alice(&nonce)) else {
        panic!("accepted")
    };
    assert_eq!(again.code(), 438);
    assert_eq!(code(world.login(&Signed::alice(again.nonce.as_bytes()))), 0);

    let mut stripped = again.nonce.as_bytes().to_vec();
    stripped[12] = b'A';
    assert_eq!(code(world.login(&Signed::alice(&stripped))), 438);
    for password in ["wonderland", "wrong"] {
        let made_up = Signed {
            password,
            ..Signed::alice(b"made up")
        };
        assert_eq!(code(world.login(&made_up)), 438, "whatever the password is");
    }

    for (age, expected) in [(600, 0), (601, 438)] {
        world.now.unix = UnixTime(START + age);
        let answer = world.login(&Signed::alice(again.nonce.as_bytes()));
        assert_eq!(code(answer), expected, "{age} s old");
    }
}

//= STUN-AUTH-15
#[test]
fn bidding_down_is_a_bad_request() {
    let mut world = world();
    let nonce = world.nonce();
    let md5_only: &[u8] = &[0, 1, 0, 0];
    let sha256 = Some(PasswordAlgorithm::Sha256);
    for (what, algorithm, offer) in [
        ("choice without offer", sha256, &[][..]),
        ("offer without choice", None, &PasswordAlgorithm::OFFER[..]),
        ("shortened offer", Some(PasswordAlgorithm::Md5), md5_only),
        ("reversed offer", sha256, &[0, 1, 0, 0, 0, 2, 0, 0][..]),
    ] {
        let request = Signed {
            algorithm,
            offer,
            with: Integrity::Sha256,
            ..Signed::alice(&nonce)
        };
        assert_eq!(code(world.login(&request)), 400, "{what}");
    }
    let key = Key::long_term(b"alice", REALM, b"wonderland", PasswordAlgorithm::Sha256);
    for (what, choice, expected) in [
        ("an algorithm as offered", &[0, 2, 0, 0][..], 0),
        ("with parameters", &[0, 2, 0, 4, 1, 2, 3, 4], 400),
        ("that was never offered", &[0, 3, 0, 0], 400),
        ("no algorithm at all", &[], 400),
    ] {
        let attributes: [(AttributeType, &[u8]); 5] = [
            (AttributeType::USERNAME, b"alice"),
            (AttributeType::REALM, REALM.as_bytes()),
            (AttributeType::NONCE, &nonce),
            (AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER),
            (AttributeType::PASSWORD_ALGORITHM, choice),
        ];
        assert_eq!(
            code(world.try_as(&request(&attributes, &key), None, true)),
            expected,
            "{what}"
        );
    }
}

//= REST-05
//= REST-06
#[test]
fn expiry_is_tested_on_the_first_request_only() {
    let mut world = world();
    let minted = Secret::new(SECRET).mint(UnixTime(START + 10), Some("bob")).unwrap();
    let attempt = |world: &mut World, first| {
        let nonce = world.nonce();
        let request = Signed {
            username: minted.username.as_bytes(),
            password: &minted.password,
            ..Signed::alice(&nonce)
        };
        code(world.try_as(&request.bytes(), None, first))
    };
    for (at, first, expected) in [(9, true, 0), (10, true, 401), (11, true, 401), (11, false, 0)] {
        world.now.unix = UnixTime(START + at);
        assert_eq!(attempt(&mut world, first), expected, "{at} s, first: {first}");
    }
}

#[test]
fn a_live_login_is_known_again_without_its_secret() {
    let mut world = world();
    let nonce = world.nonce();
    let request = Signed::alice(&nonce).bytes();
    let session = world.try_as(&request, None, true).unwrap();
    world.config = config(Vec::new(), &[("someone-else", "a password of theirs")]);
    let again = world.try_as(&request, Some(&session), false).unwrap();
    assert!(Arc::ptr_eq(&again, &session));
    assert_eq!(
        code(world.try_as(&request, None, false)),
        401,
        "a new client needs a credential that is good now"
    );
    let forged = Signed {
        password: "wrong",
        ..Signed::alice(&nonce)
    }
    .bytes();
    assert_eq!(code(world.try_as(&forged, Some(&session), false)), 401);
}

#[test]
fn another_users_good_login_is_told_apart_from_the_live_one() {
    let mut world = world_of(config(Vec::new(), &[("alice", "wonderland"), ("bob", "the builder")]));
    let nonce = world.nonce();
    let alice = world.login(&Signed::alice(&nonce)).unwrap();
    let bob = Signed {
        username: b"bob",
        password: "the builder",
        ..Signed::alice(&nonce)
    }
    .bytes();
    assert_eq!(&*world.try_as(&bob, Some(&alice), false).unwrap().username, "bob");
}

//= STUN-AUTH-20
//= D3
#[test]
fn userhash_is_offered_and_taken_only_where_every_user_is_known_by_name() {
    let mut mixed = world();
    assert_eq!(mixed.challenge().nonce.as_bytes()[12], b'B', "algorithms, no anonymity");
    let mut world = world_of(config(Vec::new(), &[("alice", "wonderland")]));
    let nonce = world.nonce();
    assert_eq!(nonce[12], b'D', "both");
    let by_hash = request(
        &[
            (AttributeType::USERHASH, &userhash(b"alice", REALM)),
            (AttributeType::REALM, REALM.as_bytes()),
            (AttributeType::NONCE, &nonce),
        ],
        &Key::long_term(b"alice", REALM, b"wonderland", PasswordAlgorithm::Md5),
    );
    let session = world.try_as(&by_hash, None, true).unwrap();
    assert_eq!(&*session.username, "alice");
    let again = world.try_as(&by_hash, Some(&session), false).unwrap();
    assert!(Arc::ptr_eq(&again, &session));
}

#[test]
fn a_compact_challenge_says_no_more_than_rfc_5389() {
    for (mode, transport, cookie) in [
        (Challenge::Full, Transport::Udp, true),
        (Challenge::CompactUdp, Transport::Udp, false),
        (Challenge::CompactUdp, Transport::Tls, true),
        (Challenge::Compact, Transport::Tls, false),
    ] {
        // With static users alone, USERHASH can be offered as well.
        let mut world = world_of(config(Vec::new(), &[("alice", "wonderland")]));
        world.config.challenge = mode;
        world.client.transport = transport;
        let challenge = world.challenge();
        let nonce = challenge.nonce.as_bytes().to_vec();
        assert_eq!(nonce.starts_with(b"obMatJos2"), cookie, "{mode:?} {transport}");
        assert_eq!(challenge.algorithms, cookie, "{mode:?} {transport}");
        assert_eq!(code(world.login(&Signed::alice(&nonce))), 0, "{mode:?} {transport}");
    }
}

#[test]
fn strangers_are_answered_within_the_limit_over_udp_and_always_over_streams() {
    for (transport, answered) in [(Transport::Udp, 60), (Transport::Tcp, 200)] {
        let mut world = world();
        world.config.limits.challenge_burst = 60;
        world.client.transport = transport;
        let answers = (0..200).map(|_| world.try_as(&unsigned(), None, true));
        let answers = answers.filter(|answer| matches!(answer, Err(AuthAnswer::Challenge(_))));
        assert_eq!(answers.count(), answered, "{transport}");
    }
}

#[test]
fn guessing_is_stopped_and_a_good_password_waits_with_it() {
    let mut world = world();
    world.client.transport = Transport::Tls;
    let nonce = world.nonce();
    let wrong = Signed {
        password: "guess",
        ..Signed::alice(&nonce)
    }
    .bytes();
    let answered = (0..50)
        .filter(|_| matches!(world.try_as(&wrong, None, true), Err(AuthAnswer::Challenge(_))))
        .count();
    assert_eq!(answered, world.config.limits.login_failures_per_second as usize);
    assert!(matches!(
        world.login(&Signed::alice(&nonce)),
        Err(AuthAnswer::Silent(DropReason::LoginLimited))
    ));
    world.now.mono = Instant::ZERO + Duration::from_secs(2);
    assert_eq!(code(world.login(&Signed::alice(&nonce))), 0);
}

//= STUN-AUTH-10
#[test]
fn an_integrity_attribute_of_another_length_is_never_accepted() {
    let mut world = world();
    let nonce = world.nonce();
    for with in [Integrity::Sha1, Integrity::Sha256] {
        let good = Signed {
            with,
            ..Signed::alice(&nonce)
        }
        .bytes();
        let at = good.len() - with.value_len();
        for len in [0, 4, 16, 24, 28, 36]
            .into_iter()
            .filter(|&len| len != with.value_len())
        {
            let mut cut = good[..at].to_vec();
            cut.extend_from_slice(&[good[at..].to_vec(), vec![0; 36]].concat()[..len]);
            cut[at - 1] = len as u8;
            let length = (cut.len() - 20) as u16;
            cut[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(code(world.try_as(&cut, None, true)), 401, "{with:?} of {len} bytes");
            world.now.mono = world.now.mono + Duration::from_secs(1);
        }
    }
}

//= STUN-AUTH-12
#[test]
fn of_two_integrity_attributes_the_stronger_one_counts() {
    let mut world = world();
    let nonce = world.nonce();
    let right = Key::long_term(b"alice", REALM, b"wonderland", PasswordAlgorithm::Md5);
    let wrong = Key::from_raw(b"wrong");
    for (sha1, sha256, expected) in [(&right, &right, 0), (&right, &wrong, 401), (&wrong, &right, 0)] {
        let mut buf = [0; 500];
        let mut writer = MessageWriter::new(&mut buf, Class::Request, Method::Allocate, TransactionId([1; 12]));
        writer
            .attribute(AttributeType::USERNAME, b"alice")
            .attribute(AttributeType::REALM, REALM.as_bytes())
            .attribute(AttributeType::NONCE, &nonce)
            .integrity(sha1, Integrity::Sha1)
            .integrity(sha256, Integrity::Sha256);
        let len = writer.finish().unwrap();
        assert_eq!(code(world.try_as(&buf[..len], None, true)), expected);
    }
}
