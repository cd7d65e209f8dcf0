//! A worker's UDP sockets: what listeners and relay sockets receive, and how relay sockets open.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use super::Worker;
use crate::base::address::{FiveTuple, Transport};
use crate::shard::token::Token;
use crate::turn::types::{Client, PeerAddr, RelayId};
use crate::turn::{DropReason, OpenError, QuotedIcmp};
use crate::wire::demux::{self, Kind};

/// Most messages taken from a listener, or from a relay socket, in one turn.
pub(super) const LISTENER_BATCH: usize = 32;
/// Messages taken from a relay socket that stays ready while many sockets are ready. A flood on one
/// must not delay the others.
const RELAY_BATCH: usize = 8;
/// ICMP errors taken from a relay socket in one turn.
const ERROR_BATCH: usize = 16;

/// Messages taken from a relay socket that stays ready, in a turn with `ready` events.
pub(super) fn relay_batch(ready: usize) -> usize {
    (LISTENER_BATCH * 2 / ready.max(1)).clamp(RELAY_BATCH, LISTENER_BATCH)
}

impl Worker {
    pub(super) fn receive_clients(&mut self, index: u32) {
        let Some(listener) = self.udp.sockets.listener(index) else {
            return;
        };
        let local = listener.socket.local_addr();
        let (plain, dtls) = (listener.plain, listener.dtls && self.dtls.is_some());
        let http3 = listener.http3 && self.http3.is_some();
        for i in self.udp.receive(|sockets| sockets.udp_listener(index), LISTENER_BATCH) {
            let Some(slot) = self.udp.recv.slot(i) else {
                continue;
            };
            let mut server = local;
            if let Some(ip) = slot.local {
                server.set_ip(ip);
            }
            let five_tuple = FiveTuple {
                client: slot.source,
                server,
                transport: Transport::Udp,
            };
            let client = Client {
                five_tuple,
                link: Token::Listener(index).link(),
            };
            let mut owner = None;
            for packet in slot.datagrams() {
                self.count_datagram();
                if http3 && self.pass_to_backend(&client, &packet, slot.tos, &mut owner) {
                    continue;
                }
                if dtls && self.is_dtls(&packet) {
                    self.receive_dtls(index, &five_tuple, packet, slot.tos);
                } else if plain {
                    self.handle_client(&client, packet, slot.tos);
                } else {
                    self.counters.received.add(1);
                    self.counters.drop_packet(DropReason::NotTurn);
                }
            }
        }
    }

    /// Whether the datagram at `packet` begins like a DTLS record (RFC 7983).
    fn is_dtls(&self, packet: &Range<usize>) -> bool {
        let first = self.udp.recv.slab().get(packet.clone()).and_then(<[u8]>::first);
        first.is_some_and(|&first| demux::classify(first) == Kind::Dtls)
    }

    /// Handles one datagram, or one message of a stream or an association, at `packet` in the slab.
    pub(super) fn handle_client(&mut self, client: &Client, packet: Range<usize>, tos: u8) {
        let bytes = self.udp.recv.slab().get(packet.clone()).unwrap_or_default();
        let verdict = self.server.handle_client(self.now, client, bytes, &mut self.response);
        self.apply(verdict, Some(client), packet, tos);
    }

    pub(super) fn receive_peers(&mut self, slot: u32, generation: u32) {
        let Some((id, again)) = self.udp.sockets.begin_read(slot, generation, self.turns) else {
            return;
        };
        // Usually one message waits, and asking for more costs the kernel a second look. A socket
        // with more is ready again in the next turn.
        let most = if again { self.relay_batch } else { 1 };
        let slots = self
            .udp
            .receive(|sockets| sockets.relay(slot, generation).map(|(s, _)| s), most);
        for i in slots {
            let Some(slot) = self.udp.recv.slot(i) else {
                continue;
            };
            for packet in slot.datagrams() {
                self.count_datagram();
                let verdict = self
                    .server
                    .handle_peer(self.now, id, PeerAddr(slot.source), packet.len());
                self.apply(verdict, None, packet, slot.tos);
            }
        }
        // At once, while the data is in the nearest cache: the next relay socket's data is usually
        // for another stream.
        self.flush_streams();
    }

    pub(super) fn count_datagram(&mut self) {
        self.packets += 1;
        self.stats.received_datagrams.add(1);
    }

    /// Handles ICMP errors about datagrams that this relay socket has sent (RFC 8656 §11.5). The
    /// socket itself stays usable.
    pub(super) fn receive_errors(&mut self, slot: u32, generation: u32) {
        for _ in 0..ERROR_BATCH {
            let Some((socket, id)) = self.udp.sockets.relay(slot, generation) else {
                return;
            };
            let Some(error) = socket.take_error() else { return };
            self.stats.icmp_errors.add(1);
            let icmp = QuotedIcmp {
                icmp_type: error.kind,
                code: error.code,
                data: error.info,
            };
            let peer = PeerAddr(error.destination);
            if let Some(client) = self.server.handle_icmp(self.now, id, peer, icmp, &mut self.response) {
                self.respond(&client);
            }
        }
    }

    pub(super) fn open_relay(&mut self, id: RelayId, bind: SocketAddr) {
        let result = self.udp.open(self.now.mono, &self.epoll, id, bind);
        self.relay_opened(id, bind, result);
    }

    /// Reports the result to the core, and sends the core's response.
    pub(super) fn relay_opened(&mut self, id: RelayId, bind: SocketAddr, result: io::Result<()>) {
        let result = result.map_err(|error| self.classify(&error, bind));
        if let Some(client) = self
            .server
            .handle_relay_opened(self.now, id, result, &mut self.response)
        {
            self.respond(&client);
        }
    }

    fn classify(&mut self, error: &io::Error, bind: SocketAddr) -> OpenError {
        if error.kind() == io::ErrorKind::AddrInUse {
            return OpenError::AddressInUse;
        }
        self.socket_failed(error, bind);
        if is_exhausted(error) {
            OpenError::Exhausted
        } else {
            OpenError::Other
        }
    }

    /// Counts a relay socket that cannot be opened, and logs it at most once a minute.
    pub(super) fn socket_failed(&mut self, error: &io::Error, bind: SocketAddr) {
        if is_exhausted(error) {
            self.stats.relay_exhausted.add(1);
        } else {
            self.stats.relay_open_failed.add(1);
        }
        if self.no_relay_socket.allows(self.now.mono) {
            tracing::warn!(target: "relay::shard", shard = self.index, %bind, %error, "cannot open a relay socket");
        }
    }
}

/// Whether descriptors or memory have run out.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::worker::tests::Alone;

    #[test]
    fn what_a_worker_may_not_open_is_counted_by_its_reason() {
        let alone = Alone::new();
        let bind = "127.0.0.2:0".parse().unwrap();
        let mut worker = alone.worker.borrow_mut();
        let mut classify = |code| {
            let class = worker.classify(&io::Error::from_raw_os_error(code), bind);
            let stats = &worker.stats;
            (class, stats.relay_exhausted.get(), stats.relay_open_failed.get())
        };
        assert_eq!(classify(libc::EADDRINUSE), (OpenError::AddressInUse, 0, 0));
        assert_eq!(classify(libc::EMFILE), (OpenError::Exhausted, 1, 0));
        assert_eq!(classify(libc::EACCES), (OpenError::Other, 1, 1));
    }

    #[test]
    fn lack_of_descriptors_and_memory_is_told_from_other_errors() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::ENOSPC] {
            assert!(is_exhausted(&io::Error::from_raw_os_error(code)));
        }
        for code in [libc::ECONNABORTED, libc::EADDRINUSE, libc::EINVAL] {
            assert!(!is_exhausted(&io::Error::from_raw_os_error(code)));
        }
    }
}
