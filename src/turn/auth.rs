//! The long-term credential mechanism (RFC 8489 §9.2.4): who sent this request, and how its response is signed.
//!
//! Checks go from cheap to dear: attributes, nonce, user, integrity. A nonce that is not ours for this address ends the
//! matter before any key is derived (design decision D1: RFC 5389's order, which clients of both generations recover from).
//! On a live allocation the key is known and nothing is derived at all.
//!
//! Not here: what an authenticated request may do (437, 441 and the rest are its handler's).

use std::net::IpAddr;
use std::sync::Arc;

use super::config::{Challenge as ChallengeMode, Config};
use super::credential::Name;
use super::limits::Limiters;
use super::nonce::{Features, NonceText, Nonces};
use super::output::DropReason;
use super::refusal::Refusal;
use super::time::Now;
use super::types::{FiveTuple, Transport};
use super::user::UserId;
use crate::wire::attribute::{self, AttributeType};
use crate::wire::integrity::{Integrity, Key, PasswordAlgorithm, userhash};
use crate::wire::message::Message;
use crate::wire::writer::MessageWriter;

/// A login: what an allocation remembers, and what signs the response.
#[derive(Clone, Debug)]
pub struct Session {
    /// USERNAME, also if USERHASH was sent.
    pub username: Arc<str>,
    /// Whose name it is: another expiry is another name of the same user.
    pub user: UserId,
    /// Verifies requests and signs responses.
    pub key: Key,
    /// How responses are signed.
    pub integrity: Integrity,
    /// May allocate on the forced path only.
    pub forced: bool,
    /// The client speaks RFC 8489: it sent PASSWORD-ALGORITHM or USERHASH.
    pub rfc8489: bool,
    /// What `key` was derived with.
    algorithm: PasswordAlgorithm,
}

impl Session {
    /// Whether both are logins with the very same username: what RFC 8656 §5 asks of requests about an allocation. A
    /// static user may be called what a time-limited username looks like; that is another.
    pub fn is_same_login(&self, other: &Self) -> bool {
        self.username == other.username && self.user.is_of_same_kind(&other.user)
    }

    /// Whether both are logins of one user, perhaps under names with different expiries. Where that is enough, the
    /// expiry of the name that was shown must have been tested.
    pub fn is_same_user(&self, other: &Self) -> bool {
        self.is_same_login(other) || self.user.is_somebody() && self.user == other.user
    }
}

/// 401 or 438: what a client needs to try again.
#[derive(Clone, Debug)]
pub struct Challenge {
    code: u16,
    realm: Box<str>,
    nonce: NonceText,
    /// PASSWORD-ALGORITHMS is offered; the nonce says so too.
    algorithms: bool,
}

impl Challenge {
    /// 401 (Unauthenticated) or 438 (Stale Nonce).
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// Writes REALM, NONCE and, if offered, PASSWORD-ALGORITHMS.
    pub fn write(&self, writer: &mut MessageWriter<'_>) {
        writer.attribute(AttributeType::REALM, self.realm.as_bytes());
        writer.attribute(AttributeType::NONCE, self.nonce.as_bytes());
        if self.algorithms {
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER);
        }
    }
}

/// A request is not taken as anybody's.
#[derive(Clone, Debug)]
pub struct AuthError {
    /// What the client gets.
    pub answer: AuthAnswer,
    /// Why, for the operator, where the nonce was good: until then the address may be forged, and 401 and 438 are what
    /// every healthy client begins with.
    pub refusal: Option<Box<Refusal>>,
}

impl From<AuthAnswer> for AuthError {
    fn from(answer: AuthAnswer) -> Self {
        Self { answer, refusal: None }
    }
}

/// The answer to a request that is nobody's. None of these responses is signed.
#[derive(Clone, Debug)]
pub enum AuthAnswer {
    /// 401 or 438.
    Challenge(Challenge),
    /// 400: an attribute is missing, or the algorithm was tampered with.
    BadRequest,
    /// A limit is reached: no answer.
    Silent(DropReason),
}

/// What authentication works with.
#[derive(Debug)]
pub struct Authenticator<'a> {
    /// Realm, credentials, limits, how much a challenge says.
    pub config: &'a Config,
    /// Issues and checks nonces.
    pub nonces: &'a mut Nonces,
    /// Bounds replies to strangers and guessing.
    pub limiters: &'a Limiters,
}

impl Authenticator<'_> {
    /// Tells whose request `message` is. `live` is the login of the allocation on this five-tuple, if there is one. With
    /// `first` (Allocate) a time-limited username must not have expired; later requests are not asked (design decision D7).
    ///
    /// A login other than `live`'s that is good is returned as well; it is the caller who answers 441.
    ///
    /// # Errors
    /// [`AuthError`]: what to answer instead.
    pub fn authenticate(
        &mut self,
        now: Now,
        client: &FiveTuple,
        message: &Message<'_>,
        live: Option<&Arc<Session>>,
        first: bool,
    ) -> Result<Arc<Session>, AuthError> {
        if message.integrity().is_none() {
            return Err(self.challenge(401, now, client).into());
        }
        let Some(claim) = Claim::of(message) else {
            return Err(self.bad_request(now, client).into());
        };
        let config = self.config;
        let lifetime = config.nonce_lifetime;
        let Ok(features) = self
            .nonces
            .check(now.unix, client.client.ip(), &config.realm, claim.nonce, lifetime)
        else {
            return Err(self.challenge(438, now, client).into());
        };
        let Ok(choice) = Choice::of(message, features) else {
            return Err(AuthError {
                answer: self.bad_request(now, client),
                refusal: Some(Box::new(Refusal::AlgorithmsChanged)),
            });
        };
        let integrity = choice.response_integrity();
        let rfc8489 = choice.explicit || matches!(claim.name, Name::Userhash(_));
        // A key is only ever bound to our own realm (STUN-AUTH-08).
        let ours = claim.realm == config.realm.as_bytes();
        if ours && let Some(session) = self.known(&claim, choice.algorithm, integrity, message, live) {
            return Ok(session);
        }
        // Only now: who guesses from behind the same address as a live client must not lock it out.
        let source = client.client.ip();
        if self.limiters.logins_exhausted(now.mono, source, &config.limits) {
            return Err(AuthError {
                answer: AuthAnswer::Silent(DropReason::LoginLimited),
                refusal: Some(Box::new(Refusal::LoginLimited)),
            });
        }
        let at = first.then_some(now.unix);
        let verify = |key: &Key| message.verify(key);
        let login = config.credentials.login(claim.name, choice.algorithm, at, verify);
        let login = if ours { login } else { Err(Refusal::WrongRealm) };
        match login {
            Ok(login) => Ok(Arc::new(Session {
                username: login.username,
                user: login.user,
                key: login.key,
                integrity,
                forced: login.forced,
                rfc8489,
                algorithm: choice.algorithm,
            })),
            Err(refusal) => Err(AuthError {
                answer: self.refuse_login(now, client, source),
                refusal: Some(Box::new(refusal)),
            }),
        }
    }

    /// The login of the allocation that is there, if the request is by the same user: nothing is derived.
    fn known(
        &self,
        claim: &Claim<'_>,
        algorithm: PasswordAlgorithm,
        integrity: Integrity,
        message: &Message<'_>,
        live: Option<&Arc<Session>>,
    ) -> Option<Arc<Session>> {
        let live =
            live.filter(|live| live.algorithm == algorithm && claim.is_of(&live.username, &self.config.realm))?;
        if !message.verify(&live.key) {
            return None;
        }
        Some(if live.integrity == integrity {
            Arc::clone(live)
        } else {
            Arc::new(Session {
                integrity,
                ..Session::clone(live)
            })
        })
    }

    fn refuse_login(&mut self, now: Now, client: &FiveTuple, source: IpAddr) -> AuthAnswer {
        if !self.limiters.admit_login_failure(now.mono, source, &self.config.limits) {
            return AuthAnswer::Silent(DropReason::LoginLimited);
        }
        self.challenge(401, now, client)
    }

    fn challenge(&mut self, code: u16, now: Now, client: &FiveTuple) -> AuthAnswer {
        if let Err(reason) = self.may_answer_stranger(now, client) {
            return AuthAnswer::Silent(reason);
        }
        let full = match self.config.challenge {
            ChallengeMode::Full => true,
            ChallengeMode::CompactUdp => client.transport != Transport::Udp,
            ChallengeMode::Compact => false,
        };
        let features = Features {
            password_algorithms: full,
            anonymity: full && self.config.credentials.offers_anonymity(),
        };
        let nonce = self.nonces.issue(now.unix, client.client, &self.config.realm, features);
        AuthAnswer::Challenge(Challenge {
            code,
            realm: self.config.realm.as_str().into(),
            nonce,
            algorithms: features.password_algorithms,
        })
    }

    fn bad_request(&self, now: Now, client: &FiveTuple) -> AuthAnswer {
        match self.may_answer_stranger(now, client) {
            Ok(()) => AuthAnswer::BadRequest,
            Err(reason) => AuthAnswer::Silent(reason),
        }
    }

    /// Whoever speaks TCP, TLS or DTLS has proved its address; over UDP the source may be a victim's.
    fn may_answer_stranger(&self, now: Now, client: &FiveTuple) -> Result<(), DropReason> {
        if client.transport != Transport::Udp {
            return Ok(());
        }
        self.limiters
            .admit_challenge(now.mono, client.client.ip(), &self.config.limits)
    }
}

/// Who a request says it is from.
struct Claim<'a> {
    name: Name<'a>,
    realm: &'a [u8],
    nonce: &'a [u8],
}

impl<'a> Claim<'a> {
    /// `None`: an attribute is missing, or the user is named twice (STUN-AUTH-02, -20).
    fn of(message: &Message<'a>) -> Option<Self> {
        let username = message.attribute(AttributeType::USERNAME);
        let hash = message.attribute(AttributeType::USERHASH);
        let name = match (username, hash) {
            (Some(username), None) => Name::Username(username),
            (None, Some(hash)) => Name::Userhash(hash.try_into().ok()?),
            (Some(_), Some(_)) | (None, None) => return None,
        };
        Some(Self {
            name,
            realm: message.attribute(AttributeType::REALM)?,
            nonce: message.attribute(AttributeType::NONCE)?,
        })
    }

    fn is_of(&self, username: &str, realm: &str) -> bool {
        match self.name {
            Name::Username(name) => name == username.as_bytes(),
            Name::Userhash(hash) => *hash == userhash(username.as_bytes(), realm),
        }
    }
}

/// The password algorithm of a request.
struct Choice {
    algorithm: PasswordAlgorithm,
    /// It was chosen from our offer, not taken for granted.
    explicit: bool,
}

/// The offer came back changed, or the choice is none of it: somebody between us wants a weaker one.
struct BidDown;

impl Choice {
    /// RFC 8489 §9.2.4: who chose an algorithm is answered with MESSAGE-INTEGRITY-SHA256, whatever key that made; who
    /// did not is taken for an RFC 5389 client and answered with MESSAGE-INTEGRITY.
    const fn response_integrity(&self) -> Integrity {
        if self.explicit {
            Integrity::Sha256
        } else {
            Integrity::Sha1
        }
    }

    /// RFC 8489 §9.2.4, the checks that begin with the nonce cookie.
    fn of(message: &Message<'_>, offered: Features) -> Result<Self, BidDown> {
        let implied = Self {
            algorithm: PasswordAlgorithm::Md5,
            explicit: false,
        };
        if !offered.password_algorithms {
            return Ok(implied);
        }
        let offer = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
        let choice = message.attribute(AttributeType::PASSWORD_ALGORITHM);
        let (offer, choice) = match (offer, choice) {
            (None, None) => return Ok(implied),
            (Some(offer), Some(choice)) => (offer, choice),
            (Some(_), None) | (None, Some(_)) => return Err(BidDown),
        };
        if offer != PasswordAlgorithm::OFFER {
            return Err(BidDown);
        }
        let choice = attribute::password_algorithm(choice).map_err(|_| BidDown)?;
        let algorithm = PasswordAlgorithm::from_number(choice.number).filter(|_| choice.parameters.is_empty());
        Ok(Self {
            algorithm: algorithm.ok_or(BidDown)?,
            explicit: true,
        })
    }
}

#[cfg(test)]
mod tests;
