use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::UdpSocket as StdUdpSocket;
use std::rc::Rc;
use std::time::Duration;

use relay_testkit::turn::{Client as Turn, Incoming, Messages, Peer as TurnPeer, Pipe, turn_config};
use relay_testkit_net::UDP;

use openssl::ssl::{
    ErrorCode, HandshakeError, MidHandshakeSslStream, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream,
    SslVerifyMode,
};
use rcgen::{CertificateParams, KeyPair};

use crate::net::dtls::{DtlsContext, Identity, MAX_PLAINTEXT, RECORD_OVERHEAD};
use crate::net::udp::UdpSocket;
use crate::shard::ShardConfig;
use crate::shard::config::DtlsConfig;
use crate::shard::counters::{DtlsClose, DtlsDrop};
use crate::shard::table::dtls::{DtlsClient, PENDING, longest_message};
use crate::shard::udp::sockets::Listener;
use crate::shard::worker::tests::{Alone, Turning};
use crate::turn::DropReason;
use crate::wire::message::Method;

fn config() -> DtlsConfig {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["relay.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let identity = Identity {
        chain: &[&certificate.der()[..]],
        private_key: &key.serialize_der(),
    };
    let contexts = DtlsContext::new(&[identity], |_| 0).unwrap().into_shared();
    DtlsConfig {
        quick_retransmission: true,
        ..DtlsConfig::new(contexts)
    }
}

fn alone(change: impl FnOnce(&mut DtlsConfig)) -> Alone {
    let mut dtls = config();
    change(&mut dtls);
    serving(Some(dtls), true)
}

/// A worker that knows DTLS or not, with a listener for plain UDP that serves it or not.
fn serving(dtls: Option<DtlsConfig>, listener: bool) -> Alone {
    let config = ShardConfig {
        dtls,
        ..ShardConfig::default()
    };
    let listener = Listener {
        socket: UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap(),
        plain: true,
        dtls: listener,
        http3: false,
    };
    Alone::at(listener, config, turn_config())
}

fn ssl() -> Ssl {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    context.set_options(SslOptions::NO_QUERY_MTU);
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_mtu(1200).unwrap();
    ssl
}

/// An association whose client turns the worker while it waits.
type Association = Rc<RefCell<SslStream<Turning<StdUdpSocket>>>>;

fn connected(alone: &Alone) -> Association {
    Rc::new(RefCell::new(ssl().connect(alone.socket()).unwrap()))
}

struct Hand(Association);

impl Messages for Hand {
    fn send(&mut self, message: &[u8]) {
        self.0.borrow_mut().ssl_write(message).unwrap();
    }

    fn recv(&mut self, _: Duration) -> Option<Vec<u8>> {
        let mut message = vec![0; 1 << 14];
        let len = self.0.borrow_mut().ssl_read(&mut message).ok()?;
        message.truncate(len);
        Some(message)
    }
}

fn over(association: &Association) -> Turn {
    Turn::new(Pipe::Messages(Box::new(Hand(Rc::clone(association)))))
}

/// A client that sends, and whose reads never wait.
struct Slow(StdUdpSocket);

impl Read for Slow {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.recv(into)
    }
}

impl Write for Slow {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn under_way(outcome: Result<SslStream<Slow>, HandshakeError<Slow>>) -> MidHandshakeSslStream<Slow> {
    match outcome {
        Err(HandshakeError::WouldBlock(handshake)) => handshake,
        other => panic!("it waits for the server: {other:?}"),
    }
}

impl core::fmt::Debug for Slow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Slow")
    }
}

/// A client whose handshake is under way: its cookie was good, and it says nothing more.
fn half_open(alone: &Alone) -> MidHandshakeSslStream<Slow> {
    let before = alone.stat(|s| s.dtls_half_open.get());
    let client = under_way(ssl().connect(Slow(alone.socket().socket)));
    alone.turn();
    let client = under_way(client.handshake());
    alone.turn();
    assert_eq!(alone.stat(|s| s.dtls_half_open.get()), before + 1);
    client
}

fn closed(alone: &Alone, why: DtlsClose) -> u64 {
    alone.stat(|s| s.dtls_closed[why as usize].get())
}

fn lost(alone: &Alone, why: DtlsDrop) -> u64 {
    alone.stat(|s| s.dtls_dropped[why as usize].get())
}

/// Associations, and handshakes under way: as counted, and as there are.
fn sizes(alone: &Alone) -> [(u64, usize); 2] {
    alone.look(|worker| {
        let [associations, handshakes, _] = worker.dtls.as_ref().unwrap().sizes();
        [
            (worker.stats.dtls_associations.get(), associations),
            (worker.stats.dtls_half_open.get(), handshakes),
        ]
    })
}

fn peer<T>(alone: &Alone, slot: u32, of: impl FnOnce(&mut DtlsClient) -> T) -> T {
    let mut worker = alone.worker.borrow_mut();
    of(worker.dtls.as_mut().unwrap().at(slot).unwrap())
}

/// Looks at the association in slot 0 that long after it began, or last had an allocation.
fn look(alone: &Alone, after: Duration) {
    let since = peer(alone, 0, |peer| peer.since);
    let mut worker = alone.worker.borrow_mut();
    worker.now.mono = since + after;
    worker.check_dtls_deadline(0);
}

const MOMENT: Duration = Duration::from_nanos(1);

#[test]
fn handshakes_under_way_and_associations_are_counted_while_they_last() {
    let alone = alone(|_| {});
    assert!(alone.look(|worker| worker.dtls.as_ref().unwrap().is_empty()));
    let association = connected(&alone);
    assert_eq!(sizes(&alone), [(1, 1), (0, 0)]);
    let _slow = half_open(&alone);
    assert_eq!(sizes(&alone), [(2, 2), (1, 1)]);
    assert_eq!(alone.stat(|s| s.dtls_handshakes.get()), 1);
    assert_eq!(alone.stat(|s| s.dtls_asked.get()), 2);
    association.borrow_mut().shutdown().unwrap();
    alone.turn();
    assert_eq!(
        (sizes(&alone), closed(&alone, DtlsClose::Client)),
        ([(1, 1), (1, 1)], 1)
    );
    alone.worker.borrow_mut().close_dtls(1, DtlsClose::Failed);
    assert_eq!(
        (sizes(&alone), closed(&alone, DtlsClose::Failed)),
        ([(0, 0), (0, 0)], 1)
    );
}

#[test]
fn where_dtls_is_not_served_a_hello_is_no_turn() {
    for alone in [serving(Some(config()), false), serving(None, true)] {
        let _client = under_way(ssl().connect(Slow(alone.socket().socket)));
        alone.turn();
        let dropped = alone.count(|c| c.dropped.iter().map(|cell| cell.get()).sum::<u64>());
        assert_eq!((alone.count(|c| c.received.get()), dropped), (1, 1));
        assert_eq!(alone.stat(|s| s.dtls_asked.get()), 0);
    }
}

#[test]
fn a_worker_looks_for_deadlines_while_there_are_associations() {
    let alone = alone(|_| {});
    let soon = Duration::from_millis(30);
    let wait = || {
        let mut worker = alone.worker.borrow_mut();
        worker.next_scan = worker.now.mono + soon;
        worker.time_to_wait()
    };
    alone.turn();
    assert!(wait() > soon);
    let _association = connected(&alone);
    assert_eq!(wait(), soon);
}

#[test]
fn a_handshake_has_its_time_to_the_moment() {
    let alone = alone(|_| {});
    let _client = half_open(&alone);
    let most = config().handshake_timeout;
    look(&alone, most - MOMENT);
    assert_eq!(sizes(&alone), [(1, 1), (1, 1)]);
    look(&alone, most);
    assert_eq!(
        (sizes(&alone), closed(&alone, DtlsClose::HandshakeTimeout)),
        ([(0, 0), (0, 0)], 1)
    );
}

#[test]
fn an_association_without_an_allocation_has_its_time_to_the_moment_and_one_with_it_stays() {
    let alone = alone(|_| {});
    let mut client = over(&connected(&alone));
    let most = alone.look(|worker| worker.idle_timeout);
    client.allocate();
    for _ in 0..3 {
        look(&alone, most * 2);
        assert_eq!(sizes(&alone)[0], (1, 1));
    }
    assert!(
        peer(&alone, 0, |peer| peer.yielding.is_none()),
        "it gives way to nobody"
    );
    client.release();
    look(&alone, most - MOMENT);
    assert!(peer(&alone, 0, |peer| peer.yielding.is_some()));
    assert_eq!(alone.look(|worker| worker.dtls.as_ref().unwrap().sizes()[2]), 1);
    look(&alone, most);
    assert_eq!((sizes(&alone)[0], closed(&alone, DtlsClose::Idle)), ((0, 0), 1));
    assert_eq!(alone.look(|worker| worker.dtls.as_ref().unwrap().sizes()[2]), 0);
}

#[test]
fn a_packet_to_a_client_is_as_long_as_the_mtu_at_most() {
    let v4 = "192.0.2.1:4000".parse().unwrap();
    let v6 = "[2001:db8::1]:4000".parse().unwrap();
    assert_eq!(longest_message(1500, v4), 1500 - 28 - RECORD_OVERHEAD);
    assert_eq!(longest_message(1500, v6), 1500 - 48 - RECORD_OVERHEAD);
    assert_eq!(longest_message(65_535, v4), MAX_PLAINTEXT);
    assert_eq!(longest_message(20, v6), 0);
    // Messages are a multiple of four bytes long.
    let alone = alone(|dtls| dtls.limits.mtu = 1501);
    let mut client = over(&connected(&alone));
    let relayed = client.allocate();
    let peer = TurnPeer::new();
    client.bind(0x4000, peer.addr());
    // ChannelData has four bytes of its own.
    let longest = vec![7; longest_message(1501, v4) - 4];
    assert_eq!(longest.len() % 4, 0);
    peer.send(relayed, &longest);
    let (number, data) = (0x4000, longest.clone());
    assert_eq!(client.incoming(), Incoming::Channel { number, data });
    peer.send(relayed, &[&longest[..], &[7]].concat());
    alone.until("it is dropped", |worker| {
        worker.counters.dropped[DropReason::TooLong as usize].get() == 1
    });
}

#[test]
fn a_turn_does_one_step_of_one_handshake() {
    let alone = alone(|_| {});
    let clients: Vec<_> = (0..3).map(|_| half_open(&alone)).collect();
    // Their next flights come in one turn.
    let _clients: Vec<_> = clients.into_iter().map(|client| client.handshake()).collect();
    let todo = || alone.look(|worker| worker.dtls.as_ref().unwrap().todo().len());
    for left in [2, 1, 0] {
        alone.turn();
        assert_eq!(todo(), left);
        let (now, due) = alone.look(|worker| {
            let now = worker.now.mono;
            (now, worker.dtls.as_ref().unwrap().next_due(now))
        });
        assert_eq!(due == Some(now), left > 0);
    }
    assert_eq!(alone.stat(|s| s.dtls_handshakes.get()), 3);
    assert_eq!(sizes(&alone), [(3, 3), (0, 0)]);
}

#[test]
fn a_handshake_that_ends_while_it_waits_for_its_step_leaves_the_queue() {
    let alone = alone(|_| {});
    let clients: Vec<_> = (0..3).map(|_| half_open(&alone)).collect();
    let _clients: Vec<_> = clients.into_iter().map(|client| client.handshake()).collect();
    alone.turn();
    let (done, ends) = alone.look(|worker| {
        let todo = worker.dtls.as_ref().unwrap().todo();
        (todo[0], todo[1])
    });
    alone.worker.borrow_mut().close_dtls(ends, DtlsClose::Failed);
    assert_eq!(alone.look(|worker| worker.dtls.as_ref().unwrap().todo()), [done]);
    alone.turn();
    assert_eq!(alone.stat(|s| s.dtls_handshakes.get()), 2);
}

#[test]
fn a_flight_that_is_lost_is_sent_again_when_it_is_due() {
    let alone = alone(|_| {});
    let client = half_open(&alone);
    let socket = &client.get_ref().0;
    let received = || std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).collect::<Vec<_>>();
    assert!(!received().is_empty());
    let (due, now) = alone.look(|worker| (worker.dtls.as_ref().unwrap().next_timer(), worker.now.mono));
    let due = due.expect("a timer");
    assert!(due > now && due - now <= Duration::from_millis(100), "{:?}", due - now);
    alone.until("its time has come", |worker| worker.now.mono >= due);
    assert!(!received().is_empty());
    let next = alone.look(|worker| worker.dtls.as_ref().unwrap().next_timer().expect("a timer"));
    assert!(next > due);
    // Once it is complete there is nothing to be sent again.
    let association = connected(&alone);
    assert!(peer(&alone, 1, |peer| peer.retransmit_at.is_none() && peer.established));
    drop(association);
}

#[test]
fn what_is_for_an_association_that_is_gone_does_not_reach_the_next_one_in_its_slot() {
    let alone = alone(|_| {});
    let first = connected(&alone);
    let generation = alone.look(|worker| worker.dtls.as_ref().unwrap().generation(0));
    first.borrow_mut().shutdown().unwrap();
    alone.turn();
    let second = connected(&alone);
    assert_eq!(alone.look(|worker| worker.dtls.as_ref().unwrap().slots()), 1);
    let mut worker = alone.worker.borrow_mut();
    let dtls = worker.dtls.as_mut().unwrap();
    assert_ne!(dtls.generation(0), generation);
    assert!(dtls.by_token(0, generation).is_none());
    let present = dtls.generation(0);
    assert!(dtls.by_token(0, present).is_some() && dtls.by_token(1, 0).is_none());
    worker.send_dtls((0, generation), b"late", 0..0, 0, 0);
    worker.end_turn();
    assert_eq!(worker.counters.dropped[DropReason::Gone as usize].get(), 1);
    let mut nothing = [0; 8];
    assert!(second.borrow().get_ref().socket.recv(&mut nothing).is_err());
    worker.send_dtls((0, present), b"in ", 0..0, 2, 0);
    worker.end_turn();
    drop(worker);
    let mut message = [9; 8];
    assert_eq!(second.borrow_mut().ssl_read(&mut message).unwrap(), 5);
    assert_eq!(&message[..5], b"in \0\0");
}

#[test]
fn a_stranger_is_answered_so_often_and_a_login_gives_the_count_back() {
    let alone = alone(|_| {});
    let most = alone.look(|worker| worker.unauthenticated_requests);
    let mut client = over(&connected(&alone));
    let ask = |client: &mut Turn| {
        let request = client.compose(Method::Binding, &|_| {});
        client.pipe.send(&request);
        client.response(&request);
    };
    for _ in 0..most - 1 {
        ask(&mut client);
    }
    assert_eq!(peer(&alone, 0, |peer| peer.unauthenticated_answers), most - 1);
    client.nonce = None;
    peer(&alone, 0, |peer| peer.unauthenticated_answers = 0);
    client.allocate();
    assert_eq!(peer(&alone, 0, |peer| peer.unauthenticated_answers), 0);
    let mut stranger = over(&connected(&alone));
    for _ in 0..most {
        ask(&mut stranger);
    }
    assert_eq!(closed(&alone, DtlsClose::Unauthenticated), 1);
}

#[test]
fn what_is_no_record_of_an_association_is_counted_and_harms_it_not() {
    let alone = alone(|_| {});
    let association = connected(&alone);
    let socket = association.borrow().get_ref().socket.try_clone().unwrap();
    let counts = || [DtlsDrop::Discarded, DtlsDrop::NoAssociation].map(|why| lost(&alone, why));
    let [discarded, none] = counts();
    // Application data of a later epoch.
    let stray = [23, 0xfe, 0xfd, 0, 9, 0, 0, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4];
    socket.send(&stray).unwrap();
    alone.turn();
    assert_eq!(counts(), [discarded + 1, none]);
    alone.socket().socket.send(&stray).unwrap();
    alone.turn();
    assert_eq!(counts(), [discarded + 1, none + 1]);
    over(&association).allocate();
    assert_eq!(counts(), [discarded + 1, none + 1], "messages are none");
}

#[test]
fn so_many_datagrams_wait_for_their_step_and_no_more() {
    let alone = alone(|_| {});
    let client = half_open(&alone);
    // Of a later epoch: nothing the handshake could fail for.
    let stray = [22, 0xfe, 0xfd, 0, 5, 0, 0, 0, 0, 0, 9, 0, 1, 16];
    for _ in 0..PENDING + 3 {
        client.get_ref().0.send(&stray).unwrap();
    }
    alone.turn();
    assert_eq!(lost(&alone, DtlsDrop::Queue), 3);
    // One of them has had its step.
    assert_eq!(peer(&alone, 0, |peer| peer.pending.len()), PENDING - 1);
    client.get_ref().0.send(&stray).unwrap();
    alone.turn();
    assert_eq!(lost(&alone, DtlsDrop::Queue), 3);
}

#[test]
fn a_worker_that_stops_says_goodbye_to_every_association() {
    let alone = alone(|_| {});
    let association = connected(&alone);
    alone.worker.borrow_mut().end_dtls();
    alone.turn();
    let error = association.borrow_mut().ssl_read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ZERO_RETURN);
    assert_eq!((sizes(&alone)[0], closed(&alone, DtlsClose::Shutdown)), ((0, 0), 1));
}
