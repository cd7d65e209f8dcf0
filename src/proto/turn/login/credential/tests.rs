use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::turn::user::UserId;
use crate::wire::integrity::{Key, PasswordAlgorithm, userhash};

const REALM: &str = "example.org";
const NOW: UnixTime = UnixTime(1_893_000_000);

fn user(name: &str, password: &str) -> StaticUser {
    StaticUser {
        name: name.into(),
        password: Zeroizing::new(password.into()),
        forced: false,
    }
}

fn config(secrets: &[&str], users: &[(&str, &str)]) -> CredentialsConfig {
    CredentialsConfig {
        realm: REALM.into(),
        secrets: secrets.iter().map(|secret| Secret::new(secret.as_bytes())).collect(),
        users: users.iter().map(|(name, password)| user(name, password)).collect(),
        ..CredentialsConfig::default()
    }
}

fn credentials(secrets: &[&str], users: &[(&str, &str)]) -> Credentials {
    Credentials::new(config(secrets, users)).unwrap()
}

fn client_key(username: &str, password: &str, algorithm: PasswordAlgorithm) -> Key {
    Key::long_term(username.as_bytes(), REALM, password.as_bytes(), algorithm)
}

/// Logs in as a client that knows `password`.
fn login(credentials: &Credentials, username: &str, password: &str, at: Option<UnixTime>) -> Option<Login> {
    let key = client_key(username, password, PasswordAlgorithm::Md5);
    let name = LoginName::Username(username.as_bytes());
    credentials
        .login(name, PasswordAlgorithm::Md5, at, |tried| *tried == key)
        .ok()
}

fn minted(secret: &str, username: &str) -> String {
    let password = Secret::new(secret.as_bytes()).password(username.as_bytes());
    String::from_utf8(password.to_vec()).unwrap()
}

//= REST-01
//= REST-02
#[test]
fn minted_credentials_are_those_of_the_draft() {
    let mint = |userid| mint(b"north", UnixTime(1_893_456_000), userid).unwrap();
    let named = mint(Some("alice"));
    assert_eq!(
        (&*named.username, &*named.password),
        ("1893456000:alice", "MME/7rvfb/gOjpkB59+7AxlCLvk=")
    );
    let bare = mint(None);
    assert_eq!(
        (&*bare.username, &*bare.password),
        ("1893456000", "sqdTDrNuKKg7b57nGt21S56Eu5s=")
    );
}

//= REST-08
#[test]
fn usernames_are_read_strictly() {
    let good = [
        ("1893456000:alice", 1_893_456_000, "alice"),
        ("1893456000", 1_893_456_000, ""),
        ("1893456000:", 1_893_456_000, ""),
        ("1893456000:a:b", 1_893_456_000, "a:b"),
        ("999999999999:a", 999_999_999_999, "a"),
        ("000000000007:a", 7, "a"),
        ("0", 0, ""),
        ("1:日本", 1, "日本"),
    ];
    for (username, expiry, userid) in good {
        let expected = TimeLimited {
            expiry: UnixTime(expiry),
            forced: false,
            userid,
        };
        assert_eq!(TimeLimited::parse(username.as_bytes()), Some(expected), "{username}");
    }
    let bad = [
        "",
        ":",
        ":a",
        " 1893456000:a",
        "1893456000 :a",
        "+1893456000:a",
        "-1:a",
        "1e10:a",
        "0x70:a",
        "1.0:a",
        "alice:1893456000",
        "1000000000000:a",
        "18446744073709551616:a",
        "\u{663}:a",
        "1893456000:a\0",
        "1893456000:\u{7f}",
        "1893456000\0:a",
        "1:\n",
    ];
    for username in bad {
        assert_eq!(TimeLimited::parse(username.as_bytes()), None, "{username:?}");
    }
    assert_eq!(TimeLimited::parse(b"1893456000:\xff\xfe"), None);
    // RFC 8489 §14.3: less than 509 bytes in total, whatever they are.
    for head in ["1:", "1893456000:", "999999999999+forced:"] {
        let longest = format!("{head}{}", "u".repeat(508 - head.len()));
        assert!(TimeLimited::parse(longest.as_bytes()).is_some(), "{head}");
        assert!(TimeLimited::parse(format!("{longest}u").as_bytes()).is_none(), "{head}");
    }
}

//= FORCED-01
#[test]
fn forced_stands_behind_the_expiry_and_no_userid_is_taken_for_it() {
    let forced =
        |username: &str| TimeLimited::parse(username.as_bytes()).map(|parts| (parts.forced, parts.userid.to_owned()));
    for (username, is_forced, userid) in [
        ("1893456000+forced:alice", true, "alice"),
        ("1893456000+forced", true, ""),
        ("1893456000+forced:", true, ""),
        ("1893456000+forced:+forced:a", true, "+forced:a"),
        ("1893456000:+forced", false, "+forced"),
        ("1893456000:forced", false, "forced"),
        ("1893456000:a+forced:b", false, "a+forced:b"),
    ] {
        assert_eq!(forced(username), Some((is_forced, userid.to_owned())), "{username}");
    }
    for username in [
        "1893456000+:a",
        "1893456000+Forced:a",
        "1893456000+force:a",
        "1893456000+forced+forced:a",
        "1893456000 +forced:a",
        "1893456000+forced :a",
        "1893456000+forced;a",
        "+forced:a",
        "forced+1893456000:a",
        "1000000000000+forced:a",
    ] {
        assert_eq!(forced(username), None, "{username}");
    }
}

//= FORCED-01
//= FORCED-03
#[test]
fn a_forced_credential_is_signed_as_such_and_is_the_same_user() {
    let credentials = credentials(&["north"], &[]);
    let hour = Duration::from_secs(3600);
    let minted = credentials.mint_forced(NOW, hour, Some("alice")).unwrap();
    assert_eq!(minted.username, format!("{}+forced:alice", NOW.0 + 3600));
    assert_eq!(minted.password, self::minted("north", &minted.username));
    let login_of = |username: &str| login(&credentials, username, &minted.password, Some(NOW));
    let login = login_of(&minted.username).unwrap();
    assert!(login.forced && login.user == UserId::of_time_limited("alice"));
    assert!(
        login_of(&minted.username.replace("+forced", "")).is_none(),
        "the mark is signed"
    );
    let free = credentials.mint(NOW, hour, Some("alice")).unwrap();
    let free = self::login(&credentials, &free.username, &free.password, Some(NOW)).unwrap();
    assert!(!free.forced && free.user == login.user);
    let bare = credentials.mint_forced(NOW, hour, None).unwrap();
    assert_eq!(bare.username, format!("{}+forced", NOW.0 + 3600));
}

//= REST-05
//= REST-09
#[test]
fn a_username_is_good_before_its_expiry_and_not_further_ahead_than_may_be_minted() {
    let credentials = credentials(&["north"], &[]);
    let good_at = |expiry: u64| {
        let username = format!("{expiry}:alice");
        login(&credentials, &username, &minted("north", &username), Some(NOW)).is_some()
    };
    assert!(!good_at(NOW.0 - 1));
    assert!(!good_at(NOW.0));
    assert!(good_at(NOW.0 + 1));
    assert!(good_at(NOW.0 + 86_400 + 60));
    assert!(!good_at(NOW.0 + 86_400 + 61));
}

//= REST-06
#[test]
fn without_a_time_the_expiry_is_not_looked_at() {
    let credentials = credentials(&["north"], &[]);
    assert!(login(&credentials, "7:alice", &minted("north", "7:alice"), None).is_some());
    assert!(login(&credentials, "7:alice", &minted("south", "7:alice"), None).is_none());
}

//= REST-07
#[test]
fn every_configured_secret_is_good_and_no_other() {
    let username = format!("{}:alice", NOW.0 + 60);
    let both = credentials(&["new", "old"], &[]);
    for secret in ["new", "old"] {
        assert!(
            login(&both, &username, &minted(secret, &username), Some(NOW)).is_some(),
            "{secret}"
        );
    }
    let rotated_out = credentials(&["new"], &[]);
    assert!(login(&rotated_out, &username, &minted("old", &username), Some(NOW)).is_none());
}

//= REST-12
#[test]
fn a_minted_password_is_good_for_its_own_username_only() {
    let credentials = credentials(&["north"], &[]);
    let username = format!("{}:alice", NOW.0 + 60);
    let password = minted("north", &username);
    for other in [
        format!("{}:alice", NOW.0 + 61),
        format!("{}:bob", NOW.0 + 60),
        format!("{}", NOW.0 + 60),
    ] {
        assert!(login(&credentials, &other, &password, Some(NOW)).is_none(), "{other}");
    }
}

#[test]
fn minting_uses_the_newest_secret_and_keeps_to_the_lifetime() {
    let both = credentials(&["new", "old"], &[]);
    let day = Duration::from_secs(86_400);
    let minted = both.mint(NOW, day, Some("alice")).unwrap();
    assert_eq!(minted, mint(b"new", UnixTime(NOW.0 + 86_400), Some("alice")).unwrap());
    assert!(login(&both, &minted.username, &minted.password, Some(NOW)).is_some());

    assert_eq!(both.mint(NOW, Duration::ZERO, None), Err(MintError::Lifetime));
    assert_eq!(
        both.mint(NOW, day + Duration::from_secs(1), None),
        Err(MintError::Lifetime)
    );
    assert_eq!(
        both.mint(UnixTime(999_999_999_999), day, None),
        Err(MintError::Lifetime)
    );
    for userid in ["", "a\nb", &"u".repeat(TimeLimited::MAX_USERID + 1)] {
        assert_eq!(both.mint(NOW, day, Some(userid)), Err(MintError::Userid), "{userid:?}");
    }
    assert_eq!(credentials(&[], &[]).mint(NOW, day, None), Err(MintError::NoSecret));
}

#[test]
fn static_users_log_in_by_name_and_by_hash_with_either_algorithm() {
    let credentials = credentials(
        &["north"],
        &[("alice", "wonderland"), ("bob", "builder"), ("1000", "extension")],
    );
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        for (name, password) in [("alice", "wonderland"), ("bob", "builder"), ("1000", "extension")] {
            let key = client_key(name, password, algorithm);
            let hash = userhash(name.as_bytes(), REALM);
            for by in [LoginName::Username(name.as_bytes()), LoginName::Userhash(&hash)] {
                let found = credentials
                    .login(by, algorithm, Some(NOW), |tried| *tried == key)
                    .unwrap();
                assert_eq!((&*found.username, found.user), (name, UserId::of_static(name.into())));
                assert!(found.key == key);
            }
        }
    }
    assert!(login(&credentials, "alice", "builder", Some(NOW)).is_none());
    assert!(login(&credentials, "carol", "wonderland", Some(NOW)).is_none());
}

//= STUN-AUTH-22
#[test]
fn an_unknown_user_costs_as_many_keys_as_a_known_one() {
    let credentials = credentials(&["new", "old"], &[("alice", "wonderland")]);
    let long = "x".repeat(763);
    let good = format!("{}:id", NOW.0 + 60);
    let expired = format!("{}:id", NOW.0 - 60);
    for name in [
        &b"alice"[..],
        b"nobody",
        good.as_bytes(),
        expired.as_bytes(),
        b"",
        b"\xff\xfe",
        long.as_bytes(),
    ] {
        let mut tried = 0;
        let found = credentials.login(LoginName::Username(name), PasswordAlgorithm::Md5, Some(NOW), |_| {
            tried += 1;
            false
        });
        assert!(found.is_err());
        assert_eq!(tried, 3, "{name:?}");
    }
}

//= STUN-AUTH-21
#[test]
fn a_name_nobody_has_is_refused_whatever_verifies() {
    // Even if a request verifies against the key of the unknown user, or is signed with the secret
    // for a malformed name.
    let credentials = credentials(&["north"], &[("alice", "wonderland")]);
    for name in [&b"nobody"[..], b"\xff\xfe", b"", b"1893456000:\xff", b"+1893456000:a"] {
        assert!(
            credentials
                .login(LoginName::Username(name), PasswordAlgorithm::Md5, None, |_| true)
                .is_err(),
            "{name:?}"
        );
    }
    assert!(
        credentials
            .login(LoginName::Userhash(&[7; 32]), PasswordAlgorithm::Md5, None, |_| true)
            .is_err()
    );
}

#[test]
fn nobody_logs_in_where_nobody_is_configured() {
    assert!(
        credentials(&[], &[])
            .login(LoginName::Username(b"1:a"), PasswordAlgorithm::Md5, None, |_| true)
            .is_err()
    );
}

//= STUN-AUTH-20
#[test]
fn hashed_names_are_offered_only_where_every_user_is_in_the_table() {
    assert!(credentials(&[], &[("alice", "wonderland")]).offers_anonymity());
    assert!(!credentials(&["north"], &[("alice", "wonderland")]).offers_anonymity());
    assert!(!credentials(&["north"], &[]).offers_anonymity());
    assert!(!credentials(&[], &[]).offers_anonymity());
}

#[test]
fn a_user_is_the_userid_of_a_time_limited_name_or_a_name_of_the_table() {
    // The table may contain names that look like time-limited ones.
    let names = ["alice", "1000", "1893456000:alice"];
    let credentials = credentials(&["north"], &names.map(|name| (name, "wonderland")));
    let user = |name: &str, password: &str| login(&credentials, name, password, None).unwrap().user;
    for (name, userid) in [
        ("1893456000:alice", "alice"),
        ("1893456999:alice", "alice"),
        ("1893456000+forced:alice", "alice"),
        ("1893456000:a:b", "a:b"),
        ("1893456000:1893456000:alice", "1893456000:alice"),
        ("1000", ""),
        ("1893456001:", ""),
    ] {
        assert_eq!(
            user(name, &minted("north", name)),
            UserId::of_time_limited(userid),
            "{name}"
        );
    }
    for name in names {
        assert_eq!(user(name, "wonderland"), UserId::of_static(name.into()), "{name}");
    }
}

#[test]
fn names_and_passwords_of_static_users_are_compared_as_clients_prepare_them() {
    // Configured with a combining accent and a no-break space; sent composed, with a plain space.
    let zoe = credentials(&[], &[("Zoe\u{308}", "pass\u{A0}cafe\u{301}")]);
    assert!(login(&zoe, "Zo\u{eb}", "pass caf\u{e9}", None).is_some());
    // The example of RFC 5769 §2.4 needs no preparation.
    let name = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
    let matrix = credentials(&[], &[(name, "TheMatrIX")]);
    assert!(login(&matrix, name, "TheMatrIX", None).is_some());
}

#[test]
fn static_users_that_cannot_be_are_refused_at_start() {
    let error = |users: &[(&str, &str)]| Credentials::new(config(&[], users)).unwrap_err();
    let long = "x".repeat(509);
    for name in ["", "a\0", "a\nb", &long] {
        assert_eq!(error(&[(name, "password")]), CredentialError::Name(name.into()));
    }
    for password in ["", "a\tb"] {
        assert_eq!(error(&[("alice", password)]), CredentialError::Password("alice".into()));
    }
    assert_eq!(
        error(&[("bob", "a"), ("alice", "b"), ("bob", "c")]),
        CredentialError::Duplicate("bob".into())
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let config = config(&["topsecret"], &[("alice", "wonderland")]);
    let shown = format!(
        "{config:?} {:?} {:?}",
        Credentials::new(config.clone()).unwrap(),
        mint(b"topsecret", NOW, None)
    );
    let password = mint(b"topsecret", NOW, None).unwrap().password;
    for hidden in ["topsecret", "wonderland", &password] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    assert!(shown.contains("alice") && shown.contains(REALM));
}

//= REST-08
#[test]
fn a_userid_as_long_as_matrix_has_them_and_longer_is_minted_and_logs_in_whatever_marks_the_name_carries() {
    let credentials = credentials(&["north"], &[]);
    let matrix = format!("@{}:matrix.example.org", "u".repeat(255 - 20));
    assert_eq!(matrix.len(), 255);
    for userid in [matrix, "u".repeat(256), "\u{e9}".repeat(TimeLimited::MAX_USERID / 2)] {
        // The longest possible expiry.
        for expiry in [NOW.0 + 60, 999_999_999_999] {
            for mint in [Secret::mint, Secret::mint_forced] {
                let minted = mint(&Secret::new(b"north"), UnixTime(expiry), Some(&userid)).unwrap();
                let found = login(&credentials, &minted.username, &minted.password, None).unwrap();
                assert_eq!(found.user, UserId::of_time_limited(&userid));
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_minted_is_read_back_and_logs_in(expiry in 0_u64..=999_999_999_999, userid in "\\PC{1,120}") {
        let minted = mint(b"north", UnixTime(expiry), Some(&userid)).unwrap();
        let parts = TimeLimited::parse(minted.username.as_bytes()).unwrap();
        prop_assert_eq!((parts.expiry.0, parts.userid), (expiry, &*userid));
        let found = login(&credentials(&["north"], &[]), &minted.username, &minted.password, None);
        prop_assert_eq!(found.unwrap().user, UserId::of_time_limited(&userid));
    }

    #[test]
    fn any_bytes_are_read_or_refused(username in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(parts) = TimeLimited::parse(&username) {
            prop_assert!(parts.expiry.0 <= 999_999_999_999);
            prop_assert!(username.ends_with(parts.userid.as_bytes()));
        }
    }
}

#[test]
fn what_is_wrong_with_a_static_user_is_said_with_its_name_and_without_its_password() {
    let refused = |users: &[(&str, &str)]| Credentials::new(config(&[], users)).err().unwrap().to_string();
    for (users, wrong) in [
        (&[("a\u{7}b", "hidden")][..], "user name"),
        (&[("alice", "hid\u{7}den")][..], "password"),
        (&[("alice", "hidden"), ("alice", "hidden")][..], "two users"),
    ] {
        let why = refused(users);
        assert!(
            why.contains(wrong) && why.contains(&format!("{:?}", users[0].0)),
            "{why}"
        );
        assert!(!why.contains("hid"), "{why}");
    }
}

#[test]
fn why_nothing_was_minted_is_said() {
    let said = |error: MintError| error.to_string();
    assert!(said(MintError::NoSecret).contains("no secret"));
    assert!(said(MintError::Lifetime).contains("lifetime"));
    assert!(said(MintError::Userid).contains(&TimeLimited::MAX_USERID.to_string()));
}

#[test]
fn credentials_know_their_realm_and_whether_a_static_user_is_bound_to_the_forced_path() {
    let mut wanted = config(&["secret"], &[("alice", "wonderland"), ("bob", "builder")]);
    let none = Credentials::new(wanted.clone()).unwrap();
    assert_eq!((none.realm(), none.has_forced_users()), (REALM, false));
    wanted.users[1].forced = true;
    assert!(Credentials::new(wanted).unwrap().has_forced_users());
}
