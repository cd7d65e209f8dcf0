//! The grammar of time-limited usernames, and the valid names and passwords of static users.

use zeroize::Zeroizing;

use super::MintError;
use crate::base::time::UnixTime;
use crate::turn::refusal::Refusal;
use crate::wire::opaque_string;

/// Longest USERNAME in bytes: RFC 8489 §14.3 requires less than 509.
pub(super) const MAX_USERNAME: usize = 508;

/// Matrix has the longest user ids in use, 255 bytes.
const _: () = assert!(TimeLimited::MAX_USERID >= 255);

/// A parsed username `expiry["+forced"][:userid]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimited<'a> {
    /// When it expires.
    pub expiry: UnixTime,
    /// Valid on the forced path only (`config::forced`). The mark stands before the colon, where
    /// other minting services write only digits, so none of their userids can be mistaken for it.
    pub forced: bool,
    /// The user it was minted for; empty if not given. May contain further colons.
    pub userid: &'a str,
}

impl<'a> TimeLimited<'a> {
    /// Most digits of an expiry: enough for 30,000 years, too few to overflow.
    const MAX_DIGITS: usize = 12;
    /// The mark of a forced credential, after the expiry.
    const FORCED: &'static str = "+forced";
    /// Longest userid that this server mints, in bytes: with every mark and the longest expiry it
    /// fits into a USERNAME. Other services may use all the available space.
    pub const MAX_USERID: usize = MAX_USERNAME - Self::MAX_DIGITS - Self::FORCED.len() - 1;

    /// Parses `username`: 1 to 12 ASCII digits, optionally `+forced`, and after the first colon a
    /// userid of UTF-8 without control characters, as long as fits. No sign, no space, no other
    /// word, no other order.
    pub fn parse(username: &'a [u8]) -> Option<Self> {
        if username.len() > MAX_USERNAME {
            return None;
        }
        let username = core::str::from_utf8(username).ok()?;
        let (head, userid) = username.split_once(':').unwrap_or((username, ""));
        let marked = head.strip_suffix(Self::FORCED);
        let digits = marked.unwrap_or(head);
        let decimal = digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= Self::MAX_DIGITS;
        if !decimal || !is_userid(userid) {
            return None;
        }
        Some(Self {
            expiry: UnixTime(digits.parse().ok()?),
            forced: marked.is_some(),
            userid,
        })
    }
}

fn is_userid(userid: &str) -> bool {
    !userid.chars().any(char::is_control)
}

/// Writes the username for `expiry` and `userid`.
pub(super) fn time_limited(expiry: UnixTime, userid: Option<&str>, forced: bool) -> Result<String, MintError> {
    let head = format!("{}{}", expiry.0, if forced { TimeLimited::FORCED } else { "" });
    let username = match userid {
        None => head,
        Some(userid) if (1..=TimeLimited::MAX_USERID).contains(&userid.len()) && is_userid(userid) => {
            format!("{head}:{userid}")
        }
        Some(_) => return Err(MintError::Userid),
    };
    // Only an expiry with too many digits can still fail.
    let readable = TimeLimited::parse(username.as_bytes()).is_some();
    readable.then_some(username).ok_or(MintError::Lifetime)
}

/// What is wrong with a username that was meant to be time-limited, if its form shows it. `signed`:
/// one of our secrets produces its password, so a service mints names that this server cannot read.
pub(super) fn fault(username: &[u8], signed: bool) -> Option<Refusal> {
    let text = core::str::from_utf8(username).unwrap_or_default();
    let (head, _) = text.split_once(':').unwrap_or((text, ""));
    let last = text.rsplit_once(':').map_or("", |(_, last)| last);
    let digits = head.bytes().take_while(u8::is_ascii_digit).count();
    let behind = &head[digits..];
    let whole = behind.is_empty() || behind == TimeLimited::FORCED;
    if whole && digits > TimeLimited::MAX_DIGITS {
        return Some(Refusal::ExpiryMilliseconds { digits });
    }
    // Ten digits: from 2001 until 2286.
    let is_time = |text: &str| text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit());
    if !(whole && digits >= 10) && is_time(last) {
        return Some(Refusal::UsernameReversed);
    }
    let readable = TimeLimited::parse(username).is_some();
    (!readable && (signed || digits >= 10)).then_some(Refusal::UsernameMalformed)
}

/// Prepares a static user's name or password as clients do (RFC 8265 §4.2). `None` if the
/// OpaqueString profile forbids it in a way that occurs in practice: empty, or with control
/// characters.
pub(super) fn prepared(text: &str) -> Option<Zeroizing<String>> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    Some(Zeroizing::new(opaque_string::prepare(text).into_owned()))
}
