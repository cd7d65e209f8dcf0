//! The operator's queries about sessions, and actions on them. Every call does a bounded amount of
//! work.

use std::sync::Arc;

use super::Server;
use crate::base::time::{Instant, Now};
use crate::turn::output::EndReason;
use crate::turn::session_id::SessionId;
use crate::turn::sessions::{SessionCursor, SessionDetail, SessionPage, SessionQuery, SessionSummary};
use crate::turn::state::allocation::{Allocation, FAMILIES};
use crate::turn::types::AllocationId;

impl Server {
    /// A piece of the listing. An Allocate that still waits for its relay sockets is not a session
    /// yet.
    pub fn sessions(&self, now: Now, query: &SessionQuery) -> SessionPage {
        let mut page = SessionPage::default();
        let mut behind = self.allocations.after(query.after);
        for (cursor, id) in behind.by_ref().take(query.examine.max(1)) {
            page.next = Some(cursor);
            page.sessions.extend(self.summary_if(now.mono, id, query));
        }
        page.next = page.next.filter(|_| behind.next().is_some());
        page
    }

    /// One session in full.
    pub fn session(&self, now: Now, id: SessionId) -> Option<SessionDetail> {
        let id = self.allocations.by_session(id)?;
        let allocation = self.allocations.get(id)?;
        let summary = self.summary(now.mono, id, allocation)?;
        let routes = self.forward.routes(now.mono, id)?;
        Some(SessionDetail {
            summary,
            link: self.forward.client(id)?.link,
            mobile: allocation.mobile.is_some(),
            permissions: routes.permissions.iter().map(|it| (it.peer, it.until)).collect(),
            channels: routes
                .channels
                .iter()
                .map(|it| (it.number, it.peer, it.until))
                .collect(),
        })
    }

    /// Ends a session: no further packet is relayed. Returns whether it existed.
    pub fn end_session(&mut self, now: Now, id: SessionId) -> bool {
        let Some(id) = self.allocations.by_session(id) else {
            return false;
        };
        self.end(now.mono, id, EndReason::Operator);
        true
    }

    /// Ends the sessions of a revoked user. Examines `examine` sessions after `after`, including
    /// those that still wait for their relay sockets. Returns how many it ended, and where to
    /// continue.
    pub fn end_revoked(
        &mut self,
        now: Now,
        after: Option<SessionCursor>,
        examine: usize,
    ) -> (usize, Option<SessionCursor>) {
        let piece: Vec<_> = self.allocations.after(after).take(examine.max(1)).collect();
        let mut ended = 0;
        for &(_, id) in &piece {
            ended += usize::from(self.end_if_revoked(now, id));
        }
        let next = piece.last().map(|&(cursor, _)| cursor);
        (ended, next.filter(|_| piece.len() >= examine.max(1)))
    }

    /// Ends the allocation if its user is revoked. Returns whether it did.
    pub(super) fn end_if_revoked(&mut self, now: Now, id: AllocationId) -> bool {
        let Some(allocation) = self.allocations.get(id) else {
            return false;
        };
        let session = &allocation.session;
        let revoked = self.shared.revocations.of(now.unix, &session.username, &session.user);
        if revoked.is_some() {
            self.end(now.mono, id, EndReason::Revoked);
        }
        revoked.is_some()
    }

    fn summary_if(&self, now: Instant, id: AllocationId, query: &SessionQuery) -> Option<SessionSummary> {
        let allocation = self.allocations.get(id)?;
        let filter = &query.filter;
        if !filter.admits_user(&allocation.session.username, &allocation.session.user) {
            return None;
        }
        let flow = self.forward.flow(id)?;
        if !filter.admits_client(&flow.client().five_tuple, flow.path()) {
            return None;
        }
        if let Some(net) = &filter.peer
            && !flow.has_peer_in(now, net)
        {
            return None;
        }
        self.summary(now, id, allocation)
    }

    fn summary(&self, now: Instant, id: AllocationId, allocation: &Allocation) -> Option<SessionSummary> {
        let flow = self.forward.flow(id)?;
        if allocation.opening.is_some() {
            return None;
        }
        let (permissions, channels) = flow.live_routes(now);
        let until = FAMILIES.map(|family| self.forward.until(id, family));
        let live = |family| until[family as usize] > now;
        Some(SessionSummary {
            id: allocation.session_id,
            requested: allocation.requested,
            username: Arc::clone(&allocation.session.username),
            user: allocation.session.user.clone(),
            client: flow.client().five_tuple,
            away: flow.is_away(),
            path: flow.path(),
            relayed: FAMILIES.map(|family| {
                allocation.relayed[family as usize]
                    .filter(|_| live(family))
                    .map(|it| it.0)
            }),
            expires: until.into_iter().max().unwrap_or(now),
            permissions,
            channels,
            connections: allocation.tcp.as_deref().map(|tcp| tcp.connections.len()),
            traffic: flow.traffic(),
        })
    }
}
