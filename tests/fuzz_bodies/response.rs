//! One answer at most, and a small one, whatever is sent.

use std::cell::RefCell;

use relay::base::address::Transport;
use relay::turn::{Response, Verdict};
use relay::wire::attribute::AttributeType;
use relay::wire::classic::ClassicBinding;
use relay::wire::demux::{Kind, classify};
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;

use super::Bytes;
use relay_testkit::world::{self, Answer, REALM, World, allocate, client_over, refresh};

/// An unsigned challenge or list of unknown attributes: the most a stranger can make this server send over UDP.
const MOST_TO_STRANGERS: usize = 108;

thread_local!(static WORLD: RefCell<World> = RefCell::new(World::new()));

fn transport(input: &mut Bytes<'_>) -> Transport {
    input.pick(&Transport::ALL)
}

/// F5: any bytes from somebody who has no allocation.
pub(crate) fn demux(input: &[u8]) {
    let mut input = Bytes(input);
    let client = client_over(1, transport(&mut input));
    let packet = input.0;
    WORLD.with_borrow_mut(|world| {
        let (now, mut response) = (world.now(), Response::new());
        let verdict = world.shards[0].handle_client(now, &client.client, packet, &mut response);
        match verdict {
            // RFC 3489 over DTLS is told off.
            Verdict::Respond if ClassicBinding::parse(packet).is_some() => {
                assert_eq!(client.client.five_tuple.transport, Transport::Dtls);
                let response = response.bytes();
                assert_eq!(
                    (&response[..4], &response[4..20]),
                    (&[1, 0x11, 0, 8][..], &packet[4..20])
                );
            }
            Verdict::Respond => {
                assert_eq!(classify(packet[0]), Kind::Stun);
                let request = Message::parse(packet).expect("only messages are answered");
                assert_eq!(request.class(), Class::Request);
                let response = Message::parse(response.bytes()).expect("a message");
                assert_eq!(response.transaction_id(), request.transaction_id());
                assert_eq!(response.method(), request.method());
                assert!(matches!(response.class(), Class::Success | Class::Error));
            }
            Verdict::Drop(_) => {}
            other => panic!("{other:?} for a stranger"),
        }
        while world.shards[0].poll_command().is_some() {
            assert!(client.client.five_tuple.transport.is_stream(), "streams may be closed");
        }
        assert!(world.shards[0].poll_event().is_none() && world.shards[0].allocations() == 0);
    });
}

/// F15: any attributes in a request, signed or not.
pub(crate) fn response_size(input: &[u8]) {
    let mut input = Bytes(input);
    let client = client_over(1, transport(&mut input));
    let method = input.pick(&[
        Method::Binding,
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
    ]);
    let how = input.byte();
    WORLD.with_borrow_mut(|world| {
        let mut client = client.clone();
        if how & 0x80 != 0 {
            client.allocate(world);
        } else {
            let answer = client.send_plain(world, &allocate());
            client.nonce = answer.attribute(AttributeType::NONCE);
        }
        let mut buffer = vec![0; 70_000];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, TransactionId(input.array()));
        if how & 2 != 0 && method == Method::Allocate {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        }
        while !input.is_empty() {
            let (kind, len) = (input.word(), input.byte() % 64);
            let kind = if how & 4 != 0 { kind & 0x803F } else { kind };
            writer.attribute(AttributeType(kind), input.take(len.into()));
        }
        if how & 1 != 0 {
            let key = Key::long_term(b"alice", REALM, b"wonderland", PasswordAlgorithm::Md5);
            writer
                .attribute(AttributeType::USERNAME, b"alice")
                .attribute(AttributeType::REALM, REALM.as_bytes())
                .attribute(AttributeType::NONCE, client.nonce.as_ref().expect("a nonce"))
                .integrity(
                    &key,
                    if how & 8 == 0 {
                        Integrity::Sha1
                    } else {
                        Integrity::Sha256
                    },
                );
        }
        if how & 16 != 0 {
            writer.fingerprint();
        }
        if let Ok(len) = writer.finish() {
            // `packet` checks what every response must be, its 548 bytes among it.
            if let Answer::Response(response) = world.packet(&client, &buffer[..len])
                && Message::parse(&response).expect("a response").integrity().is_none()
                && !client.client.five_tuple.transport.is_stream()
            {
                assert!(response.len() <= MOST_TO_STRANGERS, "{} bytes", response.len());
            }
        }
        release(world, &mut client);
    });
}

/// Ends whatever came of it, so that the next input finds the same server.
fn release(world: &mut World, client: &mut world::Client) {
    if world.shards[0].has_or_awaits_allocation(&client.client) {
        client.nonce = None;
        assert_eq!(client.request(world, &refresh(0)).code(), 0);
    }
    // Reservations and tombstones last up to forty seconds.
    world.pass(world::secs(41));
    world.events.clear();
    world.binds.clear();
    world.closed_streams.clear();
    world.assert_empty();
}
