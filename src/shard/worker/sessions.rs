//! A worker answers what the control plane asks.

use super::Worker;
use crate::shard::question::{Question, RevokedPiece, SessionReport, StreamReport};
use crate::shard::token::Token;
use crate::turn::types::Link;

impl Worker {
    /// Answers a question. What ended is closed before the answer goes out.
    pub(super) fn answer_question(&mut self, question: Question) {
        let now = self.now;
        match question {
            Question::Sessions(query, answer) => answer.give(self.server.sessions(now, &query)),
            Question::Session(id, answer) => {
                let detail = self.server.session(now, id);
                answer.give(detail.map(|detail| SessionReport {
                    stream: self.report_stream(detail.link),
                    detail,
                }));
            }
            Question::End(id, answer) => {
                let ended = self.server.end_session(now, id);
                self.run_commands();
                answer.give(ended.then_some(()));
            }
            Question::EndRevoked(after, examine, answer) => {
                let (ended, next) = self.server.end_revoked(now, after, examine);
                self.run_commands();
                answer.give(RevokedPiece { ended, next });
            }
        }
    }

    fn report_stream(&mut self, link: Link) -> Option<StreamReport> {
        let Token::Stream { slot, generation } = Token::from_link(link) else {
            return None;
        };
        let stream = self.streams.by_token(slot, generation)?;
        let (queued_bytes, queue_age) = stream.conn.backlog(self.now.mono);
        Some(StreamReport {
            queued_bytes,
            queue_age,
            round_trip: stream.round_trip(),
        })
    }
}
