//! Which error is returned if several apply: RFC 8489 §6.3 and §9.2.4 (design decision D1), RFC
//! 8656 §5, then the numbered steps of each method.

use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::message::Method;

use relay_testkit::world::*;

const NOBODY: (&str, &str) = ("alice", "wrong");
const ALICE: (&str, &str) = ("alice", "wonderland");
const BOB: (&str, &str) = ("bob", "builder");

//= TURN-ALLOC-02
//= STUN-MSG-19
//= D1
#[test]
fn of_several_errors_the_first_in_the_rfcs_order_is_told() {
    let transport = |protocol| {
        let bare = allocate().without(AttributeType::REQUESTED_TRANSPORT);
        bare.with(AttributeType::REQUESTED_TRANSPORT, [protocol, 0, 0, 0])
    };
    let unknown = |message: Message| message.with(AttributeType(0x7FFE), []);
    let no_transport = || allocate().without(AttributeType::REQUESTED_TRANSPORT);
    let token = |message: Message| message.with(AttributeType::RESERVATION_TOKEN, [7; 8]);
    let (v6, private) = (addr("[2001:db8::1]:1"), addr("10.0.0.1:1"));
    let bad_channel = || channel_bind(0x3FFF, v6);
    /// Description, whether alice has an allocation, the sender, whether the nonce is fresh,
    /// request, code.
    type Case<'a> = (&'a str, bool, (&'a str, &'a str), bool, Message, u16);
    let cases: Vec<Case<'_>> = vec![
        (
            "stale nonce before wrong password",
            false,
            NOBODY,
            false,
            unknown(allocate()),
            438,
        ),
        (
            "wrong password before unknown attribute",
            false,
            NOBODY,
            true,
            unknown(allocate()),
            401,
        ),
        ("wrong password before mismatch", true, NOBODY, true, allocate(), 401),
        (
            "unknown attribute before mismatch",
            true,
            ALICE,
            true,
            unknown(allocate()),
            420,
        ),
        (
            "unknown attribute before no allocation",
            false,
            ALICE,
            true,
            unknown(refresh(600)),
            420,
        ),
        (
            "unknown attribute before wrong user",
            true,
            BOB,
            true,
            unknown(refresh(600)),
            420,
        ),
        (
            "wrong user before bad request",
            true,
            BOB,
            true,
            request(Method::CreatePermission),
            441,
        ),
        (
            "no allocation before bad request",
            false,
            ALICE,
            true,
            request(Method::CreatePermission),
            437,
        ),
        (
            "mismatch before missing transport",
            true,
            ALICE,
            true,
            no_transport(),
            437,
        ),
        (
            "another user's five-tuple is a mismatch",
            true,
            BOB,
            true,
            allocate(),
            437,
        ),
        (
            "missing transport before bad token",
            false,
            ALICE,
            true,
            token(no_transport()),
            400,
        ),
        (
            "wrong transport before token with even port",
            false,
            ALICE,
            true,
            token(transport(6)).even_port(true),
            442,
        ),
        (
            "token beside even port before unknown token",
            false,
            ALICE,
            true,
            token(allocate()).even_port(true),
            400,
        ),
        ("unknown token", false, ALICE, true, token(allocate()), 508),
        (
            "both families asked for before unknown family",
            false,
            ALICE,
            true,
            allocate().family(9).also(9),
            400,
        ),
        (
            "unknown family before pair",
            false,
            ALICE,
            true,
            allocate().family(9).even_port(true),
            440,
        ),
        (
            "even pair beside two families",
            false,
            ALICE,
            true,
            allocate().also(1).even_port(true),
            400,
        ),
        ("bad number before wrong family", true, ALICE, true, bad_channel(), 400),
        (
            "wrong family before denied",
            true,
            ALICE,
            true,
            create_permission(&[private, v6]),
            443,
        ),
        (
            "missing channel number before denied",
            true,
            ALICE,
            true,
            request(Method::ChannelBind).peer(private),
            400,
        ),
    ];
    for (story, allocated, (username, password), fresh, message, code) in cases {
        let mut world = World::with(|config| config.nonce_lifetime = secs(60));
        let mut alice = client(1);
        if allocated {
            alice.allocate(&mut world);
        } else {
            alice.request(&mut world, &refresh(600));
        }
        if !fresh {
            world.pass(secs(61));
        }
        let mut who = alice.user(username, password);
        assert_eq!(who.request(&mut world, &message).code(), code, "{story}");
    }
}

//= TURN-ALLOC-21
//= TURN-ALLOC-25
#[test]
fn quota_comes_after_everything_about_the_request_itself() {
    let mut world = World::with(|config| {
        config.limits.allocations_per_user = 1;
        config.relay.ports = 50_001..=50_003;
    });
    client(1).allocate(&mut world);
    let cases = [
        (allocate(), 486),
        (allocate().family(9), 440),
        (allocate().with(AttributeType::RESERVATION_TOKEN, [7; 8]), 508),
        (allocate().without(AttributeType::REQUESTED_TRANSPORT), 400),
    ];
    for (message, code) in cases {
        assert_eq!(client(2).request(&mut world, &message).code(), code);
    }
    assert_eq!(world.ports_used(), 1, "a refusal gives the port back");
}
