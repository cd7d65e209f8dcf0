//! Workers end to end with DTLS clients: which are admitted, which are evicted, and when an
//! association ends.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use relay::shard::ShardConfig;
use relay::shard::counters::{DtlsClose, DtlsDrop};
use relay::turn::{DropReason, EndReason};
use relay::wire::message::{Class, Message, Method};
use relay_testkit::dtls_client::DtlsClient;
use relay_testkit::dtls_slow::{SlowClient, early_record, from, hello_with_cookie, hello_with_cookie_from};
use relay_testkit_server::dtls::{client, config, context, over, start, start_under, start_with};
use relay_testkit_server::http3::{passed_to, start_http3_with};
use relay_testkit_server::*;

/// Its allocation still exists.
#[track_caller]
fn assert_served(client: &mut Client) {
    let response = client.request(Method::Refresh, &|_| {});
    assert_eq!(Message::parse(&response).unwrap().class(), Class::Success);
}

fn closed(server: &TestServer, why: DtlsClose) -> u64 {
    server.stat(|s| s.dtls_closed[why as usize].get())
}

fn dropped(server: &TestServer, why: DtlsDrop) -> u64 {
    server.stat(|s| s.dtls_dropped[why as usize].get())
}

fn associations(server: &TestServer) -> u64 {
    server.stat(|s| s.dtls_associations.get())
}

//= XPORT-16
#[test]
fn data_goes_both_ways_and_close_notify_ends_the_allocation() {
    let server = start(config(|_| {}));
    let peer = Peer::new();
    let (mut client, association) = over(DtlsClient::connect(server.udp));
    let relayed = client.allocate();
    client.bind(0x4000, peer.addr());
    for i in 0..50 {
        client.send_channel(0x4000, &pattern(1200, i));
        assert_eq!(peer.recv(), (pattern(1200, i), relayed));
        peer.send(relayed, &pattern(1000, i));
        let data = pattern(1000, i);
        assert_eq!(client.incoming(), Incoming::Channel { number: 0x4000, data });
    }
    association.borrow_mut().close();
    server.eventually("the association is gone", |s| associations(s) == 0);
    server.becomes("closed", 1, |s| closed(s, DtlsClose::Client));
    server.eventually("the allocation is gone", |s| {
        s.count(|c| c.allocations_ended[EndReason::Disconnected as usize].get()) == 1
    });
    // The server closes too.
    assert_eq!(association.borrow_mut().receive(&mut [0; 2048], PATIENCE).unwrap(), 0);
}

//= XPORT-14
#[test]
fn hellos_without_a_cookie_and_stray_records_leave_nothing() {
    let server = start(config(|_| {}));
    let (socket, hello) = hello_with_cookie(server.udp);
    server.becomes("asked for cookies", 1, |s| s.stat(|s| s.dtls_asked.get()));
    // From another address the cookie is invalid.
    let other = DtlsClient::socket(server.udp);
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 0..1000 {
        other.send(&hello).unwrap();
        let mut answer = [0; 2048];
        let len = other.recv(&mut answer).unwrap();
        assert!(len < hello.len() && answer[13] == 3, "{n}: HelloVerifyRequest");
    }
    other.send(&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
    server.eventually("the stray record is counted", |s| {
        dropped(s, DtlsDrop::NoAssociation) == 1
    });
    server.becomes("associations, and asked for cookies", (0, 1001), |s| {
        (associations(s), s.stat(|s| s.dtls_asked.get()))
    });
    // From its own it is valid.
    socket.send(&hello).unwrap();
    server.eventually("an association", |s| associations(s) == 1);
}

//= XPORT-14
#[test]
fn strangers_are_asked_for_cookies_no_more_often_than_they_are_challenged() {
    let mut turn = turn_config();
    (turn.limits.challenges_per_second, turn.limits.challenge_burst) = (1, 3);
    let config = ShardConfig {
        dtls: Some(config(|_| {})),
        ..ShardConfig::default()
    };
    let server = start_under(config, true, turn);
    let (socket, hello) = hello_with_cookie(server.udp);
    let other = DtlsClient::socket(server.udp);
    for _ in 0..100 {
        other.send(&hello).unwrap();
    }
    server.eventually("all are counted", |s| {
        s.stat(|s| s.dtls_asked.get()) + dropped(s, DtlsDrop::ChallengeLimited) == 101
    });
    assert!(dropped(&server, DtlsDrop::ChallengeLimited) >= 90);
    // A client with its cookie is admitted.
    socket.send(&hello).unwrap();
    server.eventually("an association", |s| associations(s) == 1);
}

//= XPORT-04
#[test]
fn an_association_is_answered_so_many_requests_without_a_login_and_then_closed() {
    let server = start(config(|_| {}));
    let mut stranger = client(&server);
    for n in 0..16 {
        let request = stranger.compose(Method::Binding, &|_| {});
        stranger.pipe.send(&request);
        assert_eq!(
            Message::parse(&stranger.response(&request)).unwrap().class(),
            Class::Success,
            "{n}"
        );
    }
    server.becomes("associations and closed", (0, 1), |s| {
        (associations(s), closed(s, DtlsClose::Unauthenticated))
    });
    let mut next = client(&server);
    next.allocate();
}

#[test]
fn where_all_associations_are_used_up_a_stalled_handshake_gives_way_and_nobody_else_does() {
    let server = start(config(|config| config.limits.associations = 2));
    let mut served = client(&server);
    served.allocate();
    let (stalled, hello) = hello_with_cookie(server.udp);
    stalled.send(&hello).unwrap();
    server.eventually("it takes the last place", |s| associations(s) == 2);
    let mut newcomer = client(&server);
    newcomer.allocate();
    server.becomes("associations and closed", (2, 1), |s| {
        (associations(s), closed(s, DtlsClose::Displaced))
    });
    let (socket, hello) = hello_with_cookie(server.udp);
    socket.send(&hello).unwrap();
    server.eventually("refused", |s| dropped(s, DtlsDrop::Limit) == 1);
    assert_served(&mut served);
    assert_served(&mut newcomer);
}

#[test]
fn a_late_copy_of_the_hello_replaces_nothing_and_a_new_one_only_with_its_cookie() {
    let server = start(config(|_| {}));
    let socket = DtlsClient::socket(server.udp);
    let again = socket.try_clone().unwrap();
    let mut first = over(DtlsClient::on(socket, 1200).unwrap()).0;
    first.allocate();
    server.becomes("associations", 1, associations);
    // The client has lost all state and starts again at the same port.
    let mut second = over(DtlsClient::on(again, 1200).unwrap()).0;
    server.becomes("associations and closed", (1, 1), |s| {
        (associations(s), closed(s, DtlsClose::Replaced))
    });
    // Its transaction ids differ from those of the first.
    for _ in 0..10 {
        second.compose(Method::Binding, &|_| {});
    }
    second.allocate();
    server.becomes("allocations ended", 1, |s| {
        s.count(|c| c.allocations_ended[EndReason::Disconnected as usize].get())
    });

    let (socket, hello) = hello_with_cookie(server.udp);
    for _ in 0..3 {
        socket.send(&hello).unwrap();
    }
    server.eventually("one association more", |s| associations(s) == 2);
    server.becomes("closed", 1, |s| closed(s, DtlsClose::Replaced));
}

/// `count` stalled handshakes from `address`. The server has seen each before the next.
fn stall(server: &TestServer, address: [u8; 4], count: u64) -> Vec<UdpSocket> {
    let seen = |s: &TestServer| {
        s.stat(|s| s.dtls_half_open.get()) + closed(s, DtlsClose::Displaced) + s.stat(|s| s.dtls_handshakes.get())
    };
    let stalled = (0..count).map(|_| {
        let before = seen(server);
        let mut client = SlowClient::new(from(address, server.udp));
        client.step();
        client.send_flight();
        server.eventually("the handshake is under way", |s| seen(s) > before);
        client.socket
    });
    stalled.collect()
}

#[test]
fn in_a_flood_of_handshakes_a_slow_client_keeps_its_own() {
    let server = start(config(|config| config.limits.handshakes = 8));
    let mut flood = stall(&server, [127, 0, 1, 1], 20);
    let mut client = SlowClient::new(from([127, 0, 0, 1], server.udp));
    // HelloVerifyRequest, the server's flight, and its Finished, with more handshakes in between
    // than allowed.
    let mut flights = 0;
    while !client.step() {
        flights += 1;
        // From four addresses and from one. The last ones are in vain: each displaces one of its
        // own source.
        for host in 1..=4 {
            flood.extend(stall(&server, [127, 0, host, 1], 4));
        }
    }
    assert!(flights >= 2, "{flights}");
    server.becomes("handshakes", 1, |s| s.stat(|s| s.dtls_handshakes.get()));
    assert!(server.stat(|s| s.dtls_half_open.get()) <= 8);
}

#[test]
fn where_all_associations_are_used_up_who_has_most_without_an_allocation_loses_one() {
    let server = start(config(|config| config.limits.associations = 4));
    let connect = |address| DtlsClient::on(from(address, server.udp), 1200).unwrap();
    let mut served = over(connect([127, 0, 2, 1])).0;
    served.allocate();
    let mut lone = connect([127, 0, 3, 1]);
    let mut many = [connect([127, 0, 1, 1]), connect([127, 0, 1, 1])];
    server.becomes("associations", 4, associations);
    let mut newcomer = over(connect([127, 0, 4, 1])).0;
    newcomer.allocate();
    server.becomes("associations and displaced", (4, 1), |s| {
        (associations(s), closed(s, DtlsClose::Displaced))
    });
    assert_served(&mut served);
    // Those with an association keep it: their messages are answered.
    let binding = newcomer.compose(Method::Binding, &|_| {});
    for client in [&mut lone, &mut many[1]] {
        client.send(&binding).unwrap();
        assert!(client.receive(&mut [0; 2048], PATIENCE).is_ok());
    }
}

#[test]
fn a_cookie_is_good_for_few_associations() {
    let server = start(config(|config| config.limits.associations_per_cookie = 3));
    let (socket, mut hello) = hello_with_cookie(server.udp);
    for n in 0..10 {
        // The random of the ClientHello follows the headers of record and handshake and the
        // version.
        hello[13 + 12 + 2] = n;
        socket.send(&hello).unwrap();
    }
    server.becomes("cookies spent", 7, |s| dropped(s, DtlsDrop::CookieSpent));
    server.becomes("replaced, and left", (2, 1), |s| {
        (closed(s, DtlsClose::Replaced), associations(s))
    });
    // At another port of the address it starts again.
    client(&server).allocate();
}

#[test]
fn a_source_begins_associations_no_more_often_than_it_may() {
    let server = start(config(|config| {
        config.limits.associations_per_ip = 3;
        config.new_associations_per_second = 1;
    }));
    for _ in 0..3 {
        DtlsClient::connect(server.udp).close();
    }
    let (socket, hello) = hello_with_cookie(server.udp);
    socket.send(&hello).unwrap();
    server.eventually("refused", |s| dropped(s, DtlsDrop::TooFast) == 1);
    over(DtlsClient::on(from([127, 0, 1, 1], server.udp), 1200).unwrap())
        .0
        .allocate();
}

#[test]
fn one_network_has_no_more_than_its_share() {
    let server = start(config(|config| {
        config.limits.associations_per_ip = 1;
        config.limits.associations_per_network = 3;
    }));
    let connect = |address| DtlsClient::on(from(address, server.udp), 1200).unwrap();
    let _held: Vec<_> = (1..=3).map(|host| connect([127, 0, 1, host])).collect();
    let mut refused = SlowClient::new(from([127, 0, 1, 4], server.udp));
    refused.step();
    refused.send_flight();
    server.eventually("refused", |s| dropped(s, DtlsDrop::Limit) == 1);
    connect([127, 0, 2, 1]);
}

#[test]
fn who_may_not_begin_one_takes_no_handshake_from_others() {
    // Above its share, and above its rate.
    for (share, reason) in [(2, DtlsDrop::Limit), (4, DtlsDrop::TooFast)] {
        let server = start(config(|config| {
            config.limits.handshakes = 2;
            config.limits.associations_per_ip = share;
            config.new_associations_per_second = 1;
        }));
        let greedy = |begun| {
            for _ in 0..begun {
                DtlsClient::on(from([127, 0, 1, 1], server.udp), 1200).unwrap().close();
            }
        };
        // An ended association no longer counts against the share, but against the rate.
        greedy(share - 2);
        server.becomes("associations", 0, associations);
        let _held = [(); 2].map(|()| DtlsClient::on(from([127, 0, 1, 1], server.udp), 1200).unwrap());
        let _others = stall(&server, [127, 0, 2, 1], 2);
        // After a second one more may begin, and takes a place.
        let answered = |s: &TestServer| dropped(s, reason) + closed(s, DtlsClose::Displaced);
        for n in 1..=5 {
            let (socket, hello) = hello_with_cookie_from([127, 0, 1, 1], server.udp);
            socket.send(&hello).unwrap();
            server.eventually("answered", |s| answered(s) >= n);
        }
        assert_eq!(answered(&server), 5, "who is refused displaces nobody");
        assert_eq!(server.stat(|s| s.dtls_half_open.get()), 2);
    }
}

#[test]
fn so_many_datagrams_wait_for_their_step_of_a_handshake_and_more_are_counted() {
    let server = start(config(|_| {}));
    let (same, socket) = bursting(server.udp);
    let mut client = SlowClient::new(same);
    client.step();
    client.send_flight();
    server.eventually("its hello is done with", |s| s.stat(|s| s.dtls_half_open.get()) == 1);
    // All in one message, so in one turn. The first handshake step follows it.
    burst(&socket, server.udp, &vec![early_record(100); 60]);
    server.becomes("too many", 60 - 16, |s| dropped(s, DtlsDrop::Queue));
    // They do no harm.
    while !client.step() {}
    server.becomes("handshakes", 1, |s| s.stat(|s| s.dtls_handshakes.get()));
}

/// The records of this many do not fit into one batch.
#[test]
fn sixty_four_messages_of_a_turn_reach_a_client_all_of_them() {
    let server = start(config(|_| {}));
    let mut client = client(&server);
    let relayed = client.allocate();
    let (mut sender, socket) = bursting_client(server.udp);
    let from = sender.allocate();
    client.permit(from);
    sender.bind(0x4000, relayed);
    for round in 0..4 {
        let numbered = |n: usize| pattern(1010, round * 64 + n);
        let frames: Vec<_> = (0..64).map(|n| sender.channel_frame(0x4000, &numbered(n))).collect();
        burst(&socket, server.udp, &frames);
        for n in 0..64 {
            let data = numbered(n);
            assert_eq!(client.incoming(), Incoming::Data { peer: from, data }, "{round} {n}");
        }
    }
    server.becomes("dropped", 0, |s| {
        s.count(|c| c.dropped.iter().map(|cell| cell.get()).sum())
    });
}

#[test]
fn of_one_source_the_oldest_handshake_gives_way_and_no_established_association_does() {
    let server = start(config(|config| config.limits.handshakes = 2));
    let mut served = client(&server);
    served.allocate();
    let stalled: Vec<_> = (0..4)
        .map(|n| {
            let (socket, hello) = hello_with_cookie(server.udp);
            socket.send(&hello).unwrap();
            server.eventually("it came", |s| s.stat(|s| s.dtls_asked.get()) == n + 2);
            server.eventually("in order", |s| {
                s.stat(|s| s.dtls_half_open.get()) + closed(s, DtlsClose::Displaced) == n + 1
            });
            socket
        })
        .collect();
    server.becomes("closed", 2, |s| closed(s, DtlsClose::Displaced));
    server.becomes("half open", 2, |s| s.stat(|s| s.dtls_half_open.get()));
    assert_served(&mut served);
    drop(stalled);
}

#[test]
fn one_source_has_no_more_than_its_share_and_gets_it_back() {
    let server = start(config(|config| config.limits.associations_per_ip = 2));
    let mut clients: Vec<_> = (0..2).map(|_| DtlsClient::connect(server.udp)).collect();
    let (socket, hello) = hello_with_cookie(server.udp);
    socket.send(&hello).unwrap();
    server.eventually("refused", |s| dropped(s, DtlsDrop::Limit) == 1);
    server.becomes("associations", 2, associations);
    clients[0].close();
    server.eventually("one less", |s| associations(s) == 1);
    client(&server).allocate();
}

#[test]
fn a_handshake_that_stalls_and_a_client_without_allocation_are_gone_in_time() {
    let dtls = config(|config| config.handshake_timeout = Duration::from_millis(300));
    let server = start_with(
        ShardConfig {
            dtls: Some(dtls),
            idle_timeout: Duration::from_millis(300),
            ..ShardConfig::default()
        },
        true,
    );
    let mut busy = client(&server);
    busy.allocate();
    let mut idle = DtlsClient::connect(server.udp);
    let (socket, hello) = hello_with_cookie(server.udp);
    socket.send(&hello).unwrap();
    server.eventually("the handshake is given up", |s| {
        closed(s, DtlsClose::HandshakeTimeout) == 1
    });
    server.eventually("the idle one is closed", |s| closed(s, DtlsClose::Idle) == 1);
    assert_eq!(idle.receive(&mut [0; 64], PATIENCE).unwrap(), 0, "with close_notify");
    server.becomes("associations and half open", (1, 0), |s| {
        (associations(s), s.stat(|s| s.dtls_half_open.get()))
    });
    assert_served(&mut busy);
}

//= XPORT-15
#[test]
fn a_client_hello_in_fragments_completes_through_the_worker() {
    let server = start(config(|_| {}));
    // So many protocols that the ClientHello needs several datagrams of the smallest size.
    let protocols = b"\x09stun.turn".repeat(40);
    let association = DtlsClient::offering(DtlsClient::socket(server.udp), 256, &protocols).expect("a handshake");
    over(association).0.allocate();
}

#[test]
fn a_new_certificate_is_served_from_the_next_handshake_on_and_old_associations_stay() {
    let dtls = config(|_| {});
    let contexts = Arc::clone(&dtls.contexts);
    let server = start(dtls);
    let mut old = client(&server);
    old.allocate();
    contexts.store(Arc::new(context("new.test")));
    let new = DtlsClient::connect(server.udp);
    assert_eq!(new.certificate_names(), ["new.test"]);
    assert_served(&mut old);
}

#[test]
fn where_plain_udp_is_not_served_it_is_dropped_and_counted() {
    let config = ShardConfig {
        dtls: Some(config(|_| {})),
        ..ShardConfig::default()
    };
    let server = start_with(config, false);
    let plain = DtlsClient::socket(server.udp);
    plain
        .send(&[
            0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
        ])
        .unwrap();
    server.eventually("dropped", |s| {
        s.count(|c| c.dropped[DropReason::NotTurn as usize].get()) == 1
    });
    client(&server).allocate();
}

#[test]
fn a_stopping_server_says_goodbye() {
    let server = start(config(|_| {}));
    let mut client = DtlsClient::connect(server.udp);
    assert!(server.shards.shutdown(PATIENCE));
    assert_eq!(client.receive(&mut [0; 64], PATIENCE).unwrap(), 0);
    server.becomes("associations and closed", (0, 1), |s| {
        (associations(s), closed(s, DtlsClose::Shutdown))
    });
}

//= XPORT-13
#[test]
fn a_client_with_an_association_begins_no_flow_of_quic_and_one_with_a_flow_may_shake_hands() {
    let backend = Peer::new();
    let config = ShardConfig {
        dtls: Some(config(|_| {})),
        http3: Some(passed_to(backend.addr(), |_| {})),
        ..ShardConfig::default()
    };
    let server = start_http3_with(1, "127.0.0.1:0", config);
    let mut initial = vec![0xC0, 0, 0, 0, 1, 8];
    initial.resize(1200, 0);

    let (socket, hello) = hello_with_cookie(server.udp);
    socket.send(&hello).unwrap();
    server.eventually("it has one", |s| associations(s) == 1);
    socket.send(&initial).unwrap();
    let not_turn = |s: &TestServer| s.count(|c| c.dropped[DropReason::NotTurn as usize].get());
    server.eventually("it is dropped", |s| not_turn(s) == 1);
    assert!(backend.hears_nothing());

    let socket = DtlsClient::socket(server.udp);
    socket.send(&initial).unwrap();
    assert_eq!(backend.recv().0, initial);
    let _association = DtlsClient::on(socket, 1200).expect("a handshake");
    server.eventually("it has one as well", |s| associations(s) == 2);
    server.becomes("flows", 1, |s| s.stat(|s| s.http3_flows.get()));
}
