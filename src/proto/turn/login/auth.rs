//! The long-term credential mechanism (RFC 8489 §9.2.4): who sent this request, and how its
//! response is signed.
//!
//! Checks go from cheap to expensive: attributes, nonce, user, integrity. A nonce that this server
//! did not issue to this address ends the check before any key is derived (design decision D1: RFC
//! 5389's order, from which clients of both generations recover). On a live allocation the key is
//! known and nothing is derived.
//!
//! Not here: what an authenticated request may do (437, 441 and other errors belong to its
//! handler).

use std::sync::Arc;

use super::credential::LoginName;
use super::nonce::{Features, NonceText, Nonces};
use super::owner::Live;
use super::session::Session;
use crate::base::address::{FiveTuple, Transport};
use crate::base::time::Now;
use crate::turn::config::{Challenge, Config};
use crate::turn::output::DropReason;
use crate::turn::reflection;
use crate::turn::refusal::Refusal;
use crate::turn::shared::limiters::Limiters;
use crate::wire::attribute::{self, AttributeType};
use crate::wire::integrity::{Integrity, Key, PasswordAlgorithm, userhash};
use crate::wire::message::Message;
use crate::wire::writer::MessageWriter;

/// 401 or 438, with what the client needs to try again.
#[derive(Clone, Debug)]
pub struct ChallengeResponse {
    code: u16,
    realm: Box<str>,
    nonce: NonceText,
    /// Offers PASSWORD-ALGORITHMS; the nonce says so too.
    algorithms: bool,
}

impl ChallengeResponse {
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

/// A request that failed authentication.
#[derive(Clone, Debug)]
pub struct AuthError {
    /// The answer to the client.
    pub answer: AuthAnswer,
    /// The reason for the operator, if the nonce was valid. Before that check the address may be
    /// forged, and every healthy client begins with 401 and 438.
    pub refusal: Option<Box<Refusal>>,
    /// Who gets the answer.
    pub asker: Asker,
}

/// The sender of a request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The client of the allocation on this five-tuple: the request is signed with its key.
    Owner,
    /// Unknown.
    Stranger,
}

/// The answer to a request that failed authentication. None of these responses is signed.
#[derive(Clone, Debug)]
pub enum AuthAnswer {
    /// 401 or 438.
    Challenge(ChallengeResponse),
    /// 400: an attribute is missing, or the algorithm was tampered with.
    BadRequest,
    /// A limit is reached: no response.
    Silent(DropReason),
}

/// One request and the state for its authentication.
#[derive(Debug)]
pub struct Authenticator<'a> {
    /// Realm, credentials, limits, content of challenges.
    pub config: &'a Config,
    /// Issues and checks nonces.
    pub nonces: &'a mut Nonces,
    /// Limits replies to unauthenticated clients, and password guessing.
    pub limiters: &'a Limiters,
    /// Now.
    pub now: Now,
    /// The sender's five-tuple.
    pub client: &'a FiveTuple,
    /// The request.
    pub message: &'a Message<'a>,
    /// The allocation on this five-tuple, if there is one.
    pub live: Option<Live<'a>>,
}

impl Authenticator<'_> {
    /// Authenticates the request. With `first` (Allocate) a time-limited username must not have
    /// expired. Later requests do not check that (design decision D7).
    ///
    /// A valid login other than that of `live` is returned as well; the caller answers 441.
    ///
    /// # Errors
    /// [`AuthError`]: the answer to send instead.
    pub fn authenticate(&mut self, first: bool) -> Result<Arc<Session>, AuthError> {
        let (now, message, config) = (self.now, self.message, self.config);
        if message.integrity().is_none() {
            return Err(self.challenge(401, Asker::Stranger, None));
        }
        let Some(claim) = Claim::of(message) else {
            let asker = self.asker();
            return Err(self.bad_request(asker, None));
        };
        let source = self.client.client.ip();
        let lifetime = config.nonce_lifetime;
        let Ok(features) = self
            .nonces
            .check(now.unix, source, &config.realm, claim.nonce, lifetime)
        else {
            let asker = self.asker();
            return Err(self.challenge(438, asker, None));
        };
        let Ok(choice) = Choice::of(message, features) else {
            let asker = self.asker();
            return Err(self.bad_request(asker, Some(Refusal::AlgorithmsChanged)));
        };
        let integrity = choice.response_integrity();
        let rfc8489 = choice.explicit || matches!(claim.name, LoginName::Userhash(_));
        // A key is bound to our own realm only (STUN-AUTH-08).
        let ours = claim.realm == config.realm.as_bytes();
        if ours {
            if let Some(session) = self.known(&claim, choice.algorithm, integrity) {
                return Ok(session);
            }
        } else if self.asker() == Asker::Owner {
            // The realm has changed since the allocation was created.
            return Err(self.challenge(401, Asker::Owner, Some(Refusal::WrongRealm)));
        }
        if self.is_locked_out(&claim) {
            return Err(AuthError {
                answer: AuthAnswer::Silent(DropReason::LoginLimited),
                refusal: Some(Box::new(Refusal::LoginLimited)),
                asker: Asker::Stranger,
            });
        }
        let at = first.then_some(now.unix);
        let verify = |key: &Key| message.verify(key);
        let login = config.credentials.login(claim.name, choice.algorithm, at, verify);
        let login = if ours { login } else { Err(Refusal::WrongRealm) };
        let login = login.map_err(|refusal| self.refuse_login(refusal))?;
        let session = Arc::new(Session {
            username: login.username,
            user: login.user,
            key: login.key,
            integrity,
            forced: login.forced,
            rfc8489,
            algorithm: choice.algorithm,
        });
        if let Some(live) = &mut self.live {
            live.note_login(message, &session);
        }
        Ok(session)
    }

    /// The login of the existing allocation, if the request is by the same user. Derives no key.
    fn known(&mut self, claim: &Claim<'_>, algorithm: PasswordAlgorithm, integrity: Integrity) -> Option<Arc<Session>> {
        let (message, realm) = (self.message, &self.config.realm);
        let live = self
            .live
            .as_mut()
            .filter(|live| live.session.algorithm == algorithm && claim.is_of(&live.session.username, realm))?;
        if !message.verify(&live.session.key) {
            return None;
        }
        live.note(message);
        let session = Arc::clone(live.session);
        Some(if session.integrity == integrity {
            session
        } else {
            Arc::new(Session {
                integrity,
                ..Session::clone(&session)
            })
        })
    }

    /// Whether logins are not checked because too many from this address have failed. An attacker
    /// behind the same address as a live client must not lock it out, whatever key the client signs
    /// with.
    fn is_locked_out(&mut self, claim: &Claim<'_>) -> bool {
        let (now, limits) = (self.now.mono, &self.config.limits);
        if !self.limiters.logins_exhausted(now, self.client.client.ip(), limits) {
            return false;
        }
        let named = |live: &&mut Live<'_>| claim.is_of(&live.session.username, &self.config.realm);
        let live = self.live.as_mut().filter(named);
        !live.is_some_and(|live| live.owner.may_look(now, limits))
    }

    /// The sender of a signed request that is refused.
    fn asker(&mut self) -> Asker {
        let (now, message, limits) = (self.now.mono, self.message, &self.config.limits);
        let live = self.live.as_mut();
        if live.is_some_and(|live| live.is_by(now, message, limits)) {
            Asker::Owner
        } else {
            Asker::Stranger
        }
    }

    fn refuse_login(&mut self, refusal: Refusal) -> AuthError {
        let source = self.client.client.ip();
        if !self
            .limiters
            .admit_login_failure(self.now.mono, source, &self.config.limits)
        {
            return AuthError {
                answer: AuthAnswer::Silent(DropReason::LoginLimited),
                refusal: Some(Box::new(refusal)),
                asker: Asker::Stranger,
            };
        }
        self.challenge(401, Asker::Stranger, Some(refusal))
    }

    fn challenge(&mut self, code: u16, asker: Asker, refusal: Option<Refusal>) -> AuthError {
        let (config, client) = (self.config, self.client);
        let features = self.offers();
        self.answer(asker, refusal, |it| {
            let nonce = it.nonces.issue(it.now.unix, client.client, &config.realm, features);
            AuthAnswer::Challenge(ChallengeResponse {
                code,
                realm: config.realm.as_str().into(),
                nonce,
                algorithms: features.password_algorithms,
            })
        })
    }

    /// What a challenge offers beyond RFC 5389; nothing if the size limit leaves no room.
    fn offers(&self) -> Features {
        let full = match self.config.challenge {
            Challenge::Full => true,
            Challenge::CompactUdp => self.client.transport != Transport::Udp,
            Challenge::Compact => false,
        };
        let offers = Features {
            password_algorithms: full,
            anonymity: full && self.config.credentials.offers_anonymity(),
        };
        let len = reflection::challenge(self.config.realm.len(), offers, self.message.has_fingerprint());
        if len <= reflection::room(self.client, self.message.bytes().len()) {
            offers
        } else {
            Features::NONE
        }
    }

    fn bad_request(&mut self, asker: Asker, refusal: Option<Refusal>) -> AuthError {
        self.answer(asker, refusal, |_| AuthAnswer::BadRequest)
    }

    /// The answer, if the sender may get one.
    fn answer(
        &mut self,
        asker: Asker,
        refusal: Option<Refusal>,
        answer: impl FnOnce(&mut Self) -> AuthAnswer,
    ) -> AuthError {
        let (answer, limited) = match self.may_answer(asker) {
            Ok(()) => (answer(self), None),
            Err(reason) => (
                AuthAnswer::Silent(reason),
                (asker == Asker::Owner).then_some(Refusal::AllocationRate),
            ),
        };
        AuthError {
            answer,
            refusal: refusal.or(limited).map(Box::new),
            asker,
        }
    }

    /// Over TCP, TLS and DTLS the client has proved its address; over UDP the source may be a
    /// victim's. The client of an allocation has a budget of its own.
    fn may_answer(&mut self, asker: Asker) -> Result<(), DropReason> {
        let (now, limits) = (self.now.mono, &self.config.limits);
        match (asker, &mut self.live) {
            (Asker::Owner, Some(live)) => {
                let admitted = live.owner.admit(now, limits);
                admitted.then_some(()).ok_or(DropReason::AllocationRate)
            }
            _ if self.client.transport != Transport::Udp => Ok(()),
            _ => self.limiters.admit_challenge(now, self.client.client.ip(), limits),
        }
    }
}

/// The identity that a request claims.
struct Claim<'a> {
    name: LoginName<'a>,
    realm: &'a [u8],
    nonce: &'a [u8],
}

impl<'a> Claim<'a> {
    /// `None`: an attribute is missing, or the request names its user twice (STUN-AUTH-02, -20).
    fn of(message: &Message<'a>) -> Option<Self> {
        let username = message.attribute(AttributeType::USERNAME);
        let hash = message.attribute(AttributeType::USERHASH);
        let name = match (username, hash) {
            (Some(username), None) => LoginName::Username(username),
            (None, Some(hash)) => LoginName::Userhash(hash.try_into().ok()?),
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
            LoginName::Username(name) => name == username.as_bytes(),
            LoginName::Userhash(hash) => *hash == userhash(username.as_bytes(), realm),
        }
    }
}

/// The password algorithm of a request.
struct Choice {
    algorithm: PasswordAlgorithm,
    /// The client chose it from our offer; it is not the default.
    explicit: bool,
}

/// The client returned a changed offer, or chose an algorithm outside it. An attacker on the path
/// wants a weaker one.
struct BidDown;

impl Choice {
    /// RFC 8489 §9.2.4: a client that chose an algorithm gets MESSAGE-INTEGRITY-SHA256, whatever
    /// algorithm made the key. Any other is taken for an RFC 5389 client and gets
    /// MESSAGE-INTEGRITY.
    const fn response_integrity(&self) -> Integrity {
        if self.explicit {
            Integrity::Sha256
        } else {
            Integrity::Sha1
        }
    }

    /// The checks of RFC 8489 §9.2.4 that depend on the nonce cookie.
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
