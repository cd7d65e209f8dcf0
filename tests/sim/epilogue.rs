//! After the end: everything that a run used must be available again.

use std::net::SocketAddr;
use std::rc::Rc;

use relay_proto::base::address::{Family, FiveTuple, Transport};
use relay_proto::turn::types::{Client, Link};

use crate::message::{Ask, Login, Packet, Request, Wanted};
use crate::mirror::Mirror;
use crate::world::World;

impl World {
    /// Checks that every user may hold as much as at the start, and no more; then stops the server.
    pub(crate) fn check_quotas_returned(&mut self) {
        self.site.foreign.clear();
        (self.site.refusing, self.site.slow_opening, self.site.stuck) = (None, 0, false);
        let limit = self.site.rules.limits.allocations_per_user;
        // The oracle knows the limit, so one allocation too many is enough.
        for user in 0..self.setup.users.len() {
            let login = self.login_of(user, false);
            for n in 0..=limit {
                let host = [192, 0, 2, user as u8 + 1];
                self.claim((host, 7000 + n as u16).into(), &login);
            }
            if self.setup.strict {
                break;
            }
        }
        self.shut_down();
        self.run_out();
        for shard in 0..self.setup.shards {
            self.expire(shard);
        }
        self.check_nothing_left();
    }

    /// Checks after the end of all lifetimes that nothing is left.
    pub(crate) fn check_nothing_left(&mut self) {
        assert!(self.oracle.held.is_empty(), "the model holds {:?}", self.oracle.held);
        assert!(
            self.site.sockets.is_empty(),
            "relay sockets are left: {:?}",
            self.site.sockets
        );
        assert_eq!(self.site.shared.allocations(), 0, "quota is left");
        assert_eq!(self.site.shared.port_gauges().used(), 0, "ports are left");
        for (index, shard) in self.site.shards.iter_mut().enumerate() {
            assert_eq!(shard.server.allocations(), 0, "shard {index} has allocations left");
            assert_eq!(shard.server.poll_timeout(), None, "shard {index} waits for something");
            assert!(shard.server.poll_command().is_none());
            assert!(shard.mirror.as_ref().is_none_or(Mirror::is_empty), "routes are left");
            assert_eq!(shard.server.poll_event(), None);
        }
    }

    /// Creates an allocation for a client at `from`, if one is available.
    fn claim(&mut self, from: SocketAddr, login: &Rc<Login>) {
        let five_tuple = FiveTuple {
            client: from,
            server: crate::places::server(Family::V4),
            transport: Transport::Udp,
        };
        let client = Client {
            five_tuple,
            link: Link(0),
        };
        let shard = self.shard_of(from);
        for login in [None, Some(Rc::clone(login))] {
            let issued = self
                .oracle
                .nonces
                .iter()
                .find(|(_, issued)| (issued.to, issued.at) == (from, self.now().unix.0));
            let nonce = issued.map(|(nonce, _)| nonce.clone()).unwrap_or_default();
            let (id, ask) = (self.transaction(), Ask::Allocate(Wanted::default()));
            let request = Rc::new(Request {
                id,
                ask,
                login,
                nonce,
                flaw: None,
                fingerprint: false,
            });
            self.hand(shard, client, &Packet::request(&request));
        }
        // Relay sockets open at once.
        self.run_until(self.mono + core::time::Duration::from_millis(1));
    }
}
