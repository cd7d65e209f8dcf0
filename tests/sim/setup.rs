//! The parameters of a run, drawn from its seed: the server's configuration, users, weather.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use relay_proto::base::address::Family;
use relay_proto::turn::Config;
use relay_proto::turn::config::limits::Limits;
use relay_proto::turn::config::{Challenge, IcmpReports, RelayAddress, RelayConfig};
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use relay_proto::turn::policy::{PeerPolicy, PolicyConfig};
use relay_proto::wire::integrity::PasswordAlgorithm;
use sha1::Sha1;

use crate::message::{Login, REALM};
use crate::places::{self, PeerRules};
use relay_testkit::dice::Dice;

pub(crate) const MAX_TTL: u64 = 86_400;
pub(crate) const SKEW: u64 = 60;
/// A limit that is never reached.
const NO_LIMIT: u32 = 1_000_000;

/// What does not change during a run.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) shards: usize,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) ipv6: bool,
    pub(crate) limits: Limits,
    /// The rate limits are so low that requests may get no response.
    pub(crate) strict: bool,
    pub(crate) nonce_lifetime: u64,
    pub(crate) max_lifetime: u64,
    pub(crate) max_session: Option<u64>,
    pub(crate) challenge: Challenge,
    pub(crate) icmp: IcmpReports,
    /// Channel numbers up to 0x7FFF.
    pub(crate) rfc5766_channels: bool,
    pub(crate) users: Vec<User>,
    pub(crate) clients: usize,
    pub(crate) duration: Duration,
    pub(crate) weather: Weather,
    /// Faults in a run.
    pub(crate) faults: u64,
}

/// The network's treatment of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// In thousandths.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Datagrams that arrive up to a minute late.
    pub(crate) straying: u64,
    /// One way, milliseconds.
    pub(crate) latency: u64,
    pub(crate) jitter: u64,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        loss: 0,
        duplication: 0,
        straying: 0,
        latency: 0,
        jitter: 0,
    };
}

/// A user, and the source of its password.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    /// `None`: time-limited credentials.
    pub(crate) password: Option<String>,
    pub(crate) algorithm: PasswordAlgorithm,
}

/// What a reload changes.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Newest first.
    pub(crate) secrets: Vec<String>,
    pub(crate) peers: PeerRules,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) ipv6: bool,
    pub(crate) limits: Limits,
}

impl Setup {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let shards = 1 + dice.index(3);
        let strict = dice.percent(25);
        // Only a few ports, so that they run out and are reused at once; or plenty.
        let ports = if dice.percent(40) {
            dice.between(6, 14) * shards as u64
        } else {
            dice.between(100, 300)
        };
        let first = 50_000 + dice.below(1000) as u16;
        let mut limits = Limits {
            allocations_per_user: dice.between(2, 5) as u32,
            allocations_per_ip: NO_LIMIT,
            allocations: NO_LIMIT,
            permissions: if dice.percent(30) { 3 } else { 64 },
            channels: if dice.percent(30) { 3 } else { 64 },
            reservations_per_user: 2,
            ..Limits::default()
        };
        if !strict {
            limits.challenges_per_second = NO_LIMIT;
            limits.challenge_burst = NO_LIMIT;
            limits.bindings_per_second = NO_LIMIT;
            limits.login_failures_per_second = NO_LIMIT;
            limits.permission_requests_per_second = NO_LIMIT;
            limits.allocation_requests_per_second = NO_LIMIT;
            limits.user_requests_per_second = NO_LIMIT;
        }
        Self {
            shards,
            ports: first..=first + ports as u16,
            ipv6: dice.percent(80),
            limits,
            strict,
            nonce_lifetime: *dice.pick(&[30, 120, 600, 3600]),
            max_lifetime: *dice.pick(&[600, 900, 3600]),
            max_session: if dice.percent(15) {
                Some(dice.between(700, 1500))
            } else {
                None
            },
            challenge: *dice.pick(&[Challenge::Full, Challenge::CompactUdp, Challenge::Compact]),
            icmp: *dice.pick(&[IcmpReports::Auto, IcmpReports::Always, IcmpReports::Never]),
            rfc5766_channels: dice.percent(30),
            users: draw_users(dice),
            clients: 3 + dice.index(5),
            duration: Duration::from_secs(dice.between(300, 1500)),
            weather: draw_weather(dice),
            faults: dice.below(9),
        }
    }

    /// For stories: no random faults.
    pub(crate) fn calm(shards: usize) -> Self {
        let limits = Limits {
            allocations_per_user: 4,
            challenges_per_second: NO_LIMIT,
            challenge_burst: NO_LIMIT,
            permission_requests_per_second: NO_LIMIT,
            allocation_requests_per_second: NO_LIMIT,
            user_requests_per_second: NO_LIMIT,
            ..Limits::default()
        };
        let user = |name: &str| User {
            name: name.into(),
            password: Some(format!("{name}'s password")),
            algorithm: PasswordAlgorithm::Md5,
        };
        Self {
            shards,
            ports: 50_000..=50_063,
            ipv6: true,
            limits,
            strict: false,
            nonce_lifetime: 600,
            max_lifetime: 3600,
            max_session: None,
            challenge: Challenge::Full,
            icmp: IcmpReports::Auto,
            rfc5766_channels: false,
            users: vec![
                user("alice"),
                user("bob"),
                User {
                    password: None,
                    ..user("carol")
                },
            ],
            clients: 0,
            duration: Duration::ZERO,
            weather: Weather::FINE,
            faults: 0,
        }
    }

    /// The server's configuration.
    pub(crate) fn config(&self, rules: &Rules) -> Arc<Config> {
        let address = |bind, announced| Some(RelayAddress { bind, announced });
        let relay = RelayConfig {
            ipv4: address(places::BOUND_V4, places::ANNOUNCED_V4),
            ipv6: address(places::RELAY_V6, places::RELAY_V6).filter(|_| rules.ipv6),
            port_shift: i32::from(places::PORTS_APART),
            ports: rules.ports.start() - places::PORTS_APART..=rules.ports.end() - places::PORTS_APART,
        };
        let credentials = Arc::new(self.credentials(rules));
        let policy = Arc::new(self.policy(rules));
        Arc::new(Config {
            software: Some("relay simulated".into()),
            challenge: self.challenge,
            icmp: self.icmp,
            nonce_lifetime: Duration::from_secs(self.nonce_lifetime),
            max_lifetime: Duration::from_secs(self.max_lifetime),
            max_session: self.max_session.map(Duration::from_secs),
            mobility: None,
            rfc5766_channels: self.rfc5766_channels,
            tcp: None,
            limits: rules.limits.clone(),
            ..Config::new(REALM.into(), credentials, policy, relay)
        })
    }

    fn credentials(&self, rules: &Rules) -> Credentials {
        let users = self.users.iter().filter_map(|user| {
            let password = user.password.clone()?.into();
            Some(StaticUser {
                name: user.name.clone(),
                password,
                forced: false,
            })
        });
        Credentials::new(CredentialsConfig {
            realm: REALM.into(),
            secrets: rules
                .secrets
                .iter()
                .map(|secret| Secret::new(secret.as_bytes()))
                .collect(),
            users: users.collect(),
            max_ttl: Duration::from_secs(MAX_TTL),
            skew: Duration::from_secs(SKEW),
        })
        .expect("the users are well-formed")
    }

    fn policy(&self, rules: &Rules) -> PeerPolicy {
        let net = |on: bool, net: &str| {
            if on {
                vec![net.parse().expect("a network")]
            } else {
                vec![]
            }
        };
        PeerPolicy::new(PolicyConfig {
            allow: net(rules.peers.private_reopened, places::ALLOW),
            deny: net(rules.peers.shifty_denied, places::DENY),
            own: vec![places::server(Family::V4), places::server(Family::V6)],
            local: [places::SERVER_V4, places::SERVER_V6, places::BOUND_V4]
                .map(Into::into)
                .to_vec(),
            relay_ips: vec![places::BOUND_V4, places::ANNOUNCED_V4, places::RELAY_V6],
            relay_ports: rules.ports.clone(),
            ..PolicyConfig::default()
        })
        .expect("the policy is well-formed")
    }
}

impl Rules {
    pub(crate) fn first(setup: &Setup) -> Self {
        Self {
            secrets: vec!["the first secret".into()],
            peers: PeerRules {
                shifty_denied: false,
                private_reopened: false,
            },
            ports: setup.ports.clone(),
            ipv6: setup.ipv6,
            limits: setup.limits.clone(),
        }
    }

    /// The configuration after a reload: secrets are rotated, peers denied and re-opened, and
    /// occasionally the port range, the families and the limits change too.
    pub(crate) fn change(&self, setup: &Setup, dice: &mut Dice) -> Self {
        let mut secrets = self.secrets.clone();
        match dice.below(3) {
            0 => secrets.insert(0, format!("secret {}", dice.next())),
            1 if secrets.len() > 1 => _ = secrets.pop(),
            _ => {}
        }
        let peers = PeerRules {
            shifty_denied: dice.percent(50),
            private_reopened: dice.percent(50),
        };
        let (first, last) = (*setup.ports.start(), *setup.ports.end());
        let ports = match dice.below(6) {
            0 => first + 3..=last,
            1 => first..=last - 3,
            2 => first - 7..=last + 8,
            3 => last + 1..=last + 40,
            _ => first..=last,
        };
        let limits = match dice.below(4) {
            0 => Limits {
                allocations_per_user: 1,
                permissions: 2,
                channels: 1,
                ..setup.limits.clone()
            },
            _ => setup.limits.clone(),
        };
        Self {
            secrets,
            peers,
            ports,
            ipv6: setup.ipv6 && dice.percent(70),
            limits,
        }
    }

    /// Whether this is a user's password: `limits` also tests when a time-limited name expires
    /// (unix time).
    pub(crate) fn accepts(&self, setup: &Setup, login: &Login, at: Option<u64>) -> bool {
        let mut passwords = setup
            .users
            .iter()
            .filter(|user| user.name == login.username)
            .filter_map(|user| user.password.as_ref());
        if let Some(password) = passwords.next() {
            return *password == login.password;
        }
        let Some(expiry) = login
            .username
            .split(':')
            .next()
            .and_then(|digits| digits.parse::<u64>().ok())
        else {
            return false;
        };
        let in_time = at.is_none_or(|now| now < expiry && expiry <= now + MAX_TTL + SKEW);
        in_time
            && self
                .secrets
                .iter()
                .any(|secret| mint(secret, &login.username) == login.password)
    }
}

/// The password of a time-limited username.
pub(crate) fn mint(secret: &str, username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(username.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

/// The user behind a name: whether it is time-limited, and the name without its expiry.
pub(crate) fn user_of(username: &str) -> (bool, &str) {
    username
        .split_once(':')
        .map_or((false, username), |(_, userid)| (true, userid))
}

fn draw_users(dice: &mut Dice) -> Vec<User> {
    let names = ["alice", "bob", "carol", "dave"];
    let mut users: Vec<User> = names[..2 + dice.index(3)]
        .iter()
        .map(|name| User {
            name: (*name).into(),
            password: if dice.percent(50) {
                Some(format!("{name}'s password"))
            } else {
                None
            },
            algorithm: if dice.percent(30) {
                PasswordAlgorithm::Sha256
            } else {
                PasswordAlgorithm::Md5
            },
        })
        .collect();
    users[0].password = None;
    if dice.percent(30) {
        // The minting service does not know the names in the configuration.
        let name = users[dice.index(users.len())].name.clone();
        for password in [None, Some(format!("{name}'s password"))] {
            if !users
                .iter()
                .any(|user| user.name == name && user.password.is_some() == password.is_some())
            {
                users.push(User {
                    name: name.clone(),
                    password,
                    algorithm: PasswordAlgorithm::Md5,
                });
            }
        }
    }
    users
}

fn draw_weather(dice: &mut Dice) -> Weather {
    Weather {
        loss: *dice.pick(&[0, 10, 50, 300]),
        duplication: *dice.pick(&[0, 20, 200]),
        straying: *dice.pick(&[0, 5, 30]),
        latency: *dice.pick(&[1, 20, 150]),
        jitter: *dice.pick(&[0, 10, 300]),
    }
}
