//! What the control plane asks a worker, and how it gets the answer.

use std::fmt;
use std::time::Duration;

use crate::turn::SessionId;
use crate::turn::sessions::{SessionCursor, SessionDetail, SessionPage, SessionQuery};

/// Takes an answer, in the worker's turn: it must not block. Dropped without a call if the worker
/// has ended.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// Hands the answer to `take`.
    pub fn new(take: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(take))
    }

    pub(super) fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer(..)")
    }
}

/// A question. A worker answers every question it has been asked in its next turn, so whoever asks
/// bounds the work by what is asked, and asks again when the answer is there.
#[derive(Debug)]
pub enum Question {
    /// A piece of the listing.
    Sessions(SessionQuery, Answer<SessionPage>),
    /// One session. `None`: this worker does not have it.
    Session(SessionId, Answer<Option<SessionReport>>),
    /// End a session. `None`: this worker does not have it. When the answer comes, nothing more of
    /// it is relayed.
    End(SessionId, Answer<Option<()>>),
    /// End the sessions of revoked users, looking at so many behind this one.
    EndRevoked(Option<SessionCursor>, usize, Answer<RevokedPiece>),
}

/// What became of [`Question::EndRevoked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedPiece {
    /// Sessions ended.
    pub ended: usize,
    /// Where to continue. `None`: all have been looked at.
    pub next: Option<SessionCursor>,
}

/// One session, and the stream it comes by.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// What the core knows.
    pub detail: SessionDetail,
    /// `None`: the client comes by datagrams.
    pub stream: Option<StreamReport>,
}

/// The state of a client's stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamReport {
    /// Bytes queued for the client.
    pub queued_bytes: usize,
    /// How long the oldest application data among them has waited.
    pub queue_age: Duration,
    /// The kernel's estimate of the round trip. `None`: it does not know.
    pub round_trip: Option<Duration>,
}
