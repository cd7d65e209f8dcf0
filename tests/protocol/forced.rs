//! Forced relay: logins that may allocate on some listeners only.

use std::sync::Arc;

use relay_proto::base::address::Transport;
use relay_proto::base::time::UnixTime;
use relay_proto::turn::DropReason;
use relay_proto::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use relay_proto::turn::types::Path;
use relay_proto::wire::attribute::AttributeType;
use relay_proto::wire::error_code;
use relay_proto::wire::message::Method;

use crate::every_client::*;
use relay_testkit::world::*;

fn at_port(mut client: Client, port: u16) -> Client {
    client.client.five_tuple.server.set_port(port);
    client
}

fn forced(client: Client, userid: &str) -> Client {
    let minted = Secret::new(SECRET)
        .mint_forced(UnixTime(START + 1000), Some(userid))
        .unwrap();
    client.user(&minted.username, &minted.password)
}

fn free(client: Client, userid: &str) -> Client {
    let minted = Secret::new(SECRET).mint(UnixTime(START + 1000), Some(userid)).unwrap();
    client.user(&minted.username, &minted.password)
}

fn refused(world: &World, transport: Transport) -> u64 {
    world.counters[0].forced_refused[transport as usize].get()
}

//= FORCED-02
#[test]
fn a_forced_login_is_refused_on_other_ports_with_a_reason_and_served_on_its_own() {
    for client in every_client() {
        let transport = client.client.five_tuple.transport;
        let mut world = World::new();
        let mut wrong = forced(at_port(client.clone(), 3478), "u");
        let answer = wrong.request(&mut world, &allocate());
        assert_eq!(answer.code(), 403, "{}", story(&client));
        assert!(
            answer.is_signed(&wrong.key(), wrong.integrity),
            "only who has logged in is told"
        );
        let value = answer.attribute(AttributeType::ERROR_CODE).unwrap();
        assert!(String::from_utf8_lossy(error_code::decode(&value).unwrap().reason).contains("forced relay"));
        assert_eq!(refused(&world, transport), 1);
        assert!(world.sockets.is_empty() && world.events.is_empty(), "no trace of it");
        // Not even a request about an allocation that does not exist.
        assert_eq!(wrong.request(&mut world, &refresh(600)).code(), 437);
        forced(at_port(client.clone(), 443), "u").allocate(&mut world);
        // Other users may use any port.
        free(at_port(client.clone(), 3478), "v").allocate(&mut world);
        assert_eq!(refused(&world, transport), 1);
    }
}

//= FORCED-02
#[test]
fn a_login_that_is_wrong_is_a_wrong_login_on_every_port() {
    for port in [443, 3478] {
        let mut client = forced(at_port(client(1), port), "u");
        client.password.push('x');
        assert_eq!(client.request(&mut World::new(), &allocate()).code(), 401);
    }
}

//= FORCED-02
#[test]
fn where_everyone_is_forced_no_login_is_good_elsewhere() {
    for client in every_client() {
        let mut world = World::with(|config| config.forced.everyone = true);
        for (n, port) in [3478, 5349, 444].into_iter().enumerate() {
            let client = at_port(client.clone(), port);
            for mut login in [client.clone(), free(client.clone(), "u"), forced(client, "u")] {
                login.client.five_tuple.client.set_port(1000 + n as u16);
                assert_eq!(login.request(&mut world, &allocate()).code(), 403, "{}", story(&login));
            }
        }
        at_port(client, 443).allocate(&mut world);
    }
}

//= FORCED-02
#[test]
fn the_path_is_ports_and_transports_as_configured() {
    let mut world = World::with(|config| {
        config.forced.ports = vec![8443, 9443];
        config.forced.transports = Transport::ALL.map(|transport| transport == Transport::Tls);
    });
    for (n, (transport, port, code)) in [
        (Transport::Tls, 8443, 0),
        (Transport::Tls, 9443, 0),
        (Transport::Tls, 443, 403),
        (Transport::Tcp, 8443, 403),
        (Transport::Udp, 8443, 403),
        (Transport::Dtls, 9443, 403),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = forced(at_port(client_over(n as u16 + 1, transport), port), "u");
        assert_eq!(
            client.request(&mut world, &allocate()).code(),
            code,
            "{transport} {port}"
        );
    }
}

//= FORCED-02
#[test]
fn a_marked_user_of_the_static_table_is_forced_and_the_others_are_not() {
    let user = |name: &str, forced| StaticUser {
        name: name.into(),
        password: "wonderland".to_owned().into(),
        forced,
    };
    let credentials = CredentialsConfig {
        realm: REALM.into(),
        users: vec![user("alice", true), user("bob", false)],
        ..CredentialsConfig::default()
    };
    let credentials = Arc::new(Credentials::new(credentials).unwrap());
    for base in every_client() {
        let mut world = World::with(|config| config.credentials = Arc::clone(&credentials));
        let mut alice = at_port(base.clone(), 3478);
        assert_eq!(alice.request(&mut world, &allocate()).code(), 403);
        at_port(base.clone(), 3478)
            .user("bob", "wonderland")
            .allocate(&mut world);
        at_port(base, 443).allocate(&mut world);
    }
}

//= FORCED-02
#[test]
fn what_has_begun_goes_on_when_everyone_becomes_forced() {
    let mut world = World::new();
    let mut live = client(1);
    live.allocate(&mut world);
    world.reload(|config| config.forced.everyone = true);
    assert_eq!(live.request(&mut world, &refresh(600)).code(), 0);
    assert_eq!(client(2).request(&mut world, &allocate()).code(), 403);
}

//= FORCED-03
#[test]
fn forced_or_not_a_userid_has_one_quota() {
    let mut world = World::with(|config| config.limits.allocations_per_user = 2);
    forced(at_port(client(1), 443), "u").allocate(&mut world);
    free(client(2), "u").allocate(&mut world);
    for mut third in [forced(at_port(client(3), 443), "u"), free(client(4), "u")] {
        assert_eq!(third.request(&mut world, &allocate()).code(), 486);
    }
    // A client that is refused for its port has used no quota.
    for n in 10..20 {
        assert_eq!(forced(client(n), "w").request(&mut world, &allocate()).code(), 403);
    }
    forced(at_port(client(5), 443), "w").allocate(&mut world);
}

//= FORCED-03
#[test]
fn the_two_names_of_a_user_are_two_logins_on_one_allocation() {
    let mut world = World::new();
    let mut live = forced(at_port(client(1), 443), "u");
    live.allocate(&mut world);
    let mut other = free(live.clone(), "u");
    assert_eq!(other.request(&mut world, &refresh(600)).code(), 441);
}

//= FORCED-05
#[test]
fn binding_can_be_switched_off_on_the_forced_path_alone() {
    let mut world = World::with(|config| config.forced.binding = false);
    for base in every_client() {
        let ask = |world: &mut World, port| at_port(base.clone(), port).send_plain(world, &request(Method::Binding));
        assert_eq!(ask(&mut world, 443), Answer::Dropped(DropReason::BindingDisabled));
        assert_eq!(ask(&mut world, 3478).code(), 0, "{}", story(&base));
    }
}

#[test]
fn traffic_counts_by_the_path_its_client_came_by() {
    let mut world = World::new();
    let peer = addr("192.0.2.1:7000");
    for (n, port) in [(1, 443), (2, 3478), (3, 443)] {
        let mut client = at_port(client(n), port);
        let relayed = client.allocate(&mut world);
        assert_eq!(client.request(&mut world, &create_permission(&[peer])).code(), 0);
        client.send(&mut world, peer, b"up").sent();
        assert!(world.peer(peer, relayed, b"down").is_data(peer, b"down"));
    }
    let carrier = client(1).client.five_tuple.transport as usize;
    for (path, packets) in [(Path::Forced, 2), (Path::Other, 1)] {
        let (up, down) = (
            &world.counters[0].up[path as usize][carrier],
            &world.counters[0].down[path as usize][carrier],
        );
        assert_eq!((up.packets.get(), up.bytes.get()), (packets, 2 * packets), "{path:?}");
        assert_eq!(
            (down.packets.get(), down.bytes.get()),
            (packets, 4 * packets),
            "{path:?}"
        );
    }
}
