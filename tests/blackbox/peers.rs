//! Which peers a client may reach.

use std::net::SocketAddr;

use crate::client::{Client, PATIENCE, SILENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};

fn allocated(server: &Server, id: &str) -> Client {
    let mut client = Client::udp(server.plain).with_login(&minted(SECRET, 600, id));
    client.allocate().expect("allocated");
    client
}

//= TURN-PERM-04
//= TURN-CHAN-06
//= TURN-DATA-04
#[test]
fn private_special_and_own_addresses_are_refused_in_every_spelling() {
    let server = Server::start_with("");
    let own = [server.plain, server.tls, server.door, server.admin];
    let denied = [
        "127.0.0.1:9",
        "10.0.0.1:9",
        "169.254.169.254:80",
        "192.168.1.1:9",
        "100.64.0.1:9",
        "0.0.0.0:9",
    ];
    for peer in denied.iter().map(|p| p.parse().expect("an address")).chain(own) {
        let mut client = allocated(&server, &format!("denied-{peer}"));
        assert_eq!(client.channel_bind(0x4000, peer), 403, "ChannelBind to {peer}");
        assert_eq!(client.create_permission(peer), 403, "CreatePermission for {peer}");
    }
}

#[test]
fn ipv6_and_mapped_spellings_are_refused_too() {
    let server = Server::start_dual_stack("");
    for peer in [
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "[::ffff:10.0.0.1]:9",
        "[64:ff9b::a00:1]:9",
        "[2002:a00:1::1]:9",
        "[fd00::1]:9",
    ] {
        let peer: SocketAddr = peer.parse().expect("an address");
        let mut client = allocated_v6(&server, &format!("denied-{peer}"));
        assert_eq!(client.channel_bind(0x4000, peer), 403, "ChannelBind to {peer}");
        if peer.ip().to_string() != "::1" {
            // ::1 is this server's own relay address, for which permissions are granted so that
            // clients reach each other.
            assert_eq!(client.create_permission(peer), 403, "CreatePermission for {peer}");
        }
    }
}

fn allocated_v6(server: &Server, id: &str) -> Client {
    let mut client = Client::udp(server.plain).with_login(&minted(SECRET, 600, id));
    client.allocate_v6().expect("allocated");
    client
}

//= TURN-PERM-04
#[test]
fn allow_reopens_a_network_but_never_the_servers_own_listeners() {
    let server = Server::start_with("[peers]\nallow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n");
    let peer = EchoPeer::start_on("127.0.0.3:0");
    let mut client = allocated(&server, "allowed");
    assert_eq!(client.create_permission("10.0.0.1:9".parse().expect("an address")), 0);
    assert_eq!(client.channel_bind(0x4000, peer.address), 0);
    client.send_channel(0x4000, b"through");
    assert_eq!(client.receive_data(PATIENCE), Some((Ok(0x4000), b"through".to_vec())));
    for own in [server.plain, server.tls, server.door, server.admin] {
        assert_eq!(client.channel_bind(0x4001, own), 403, "own listener {own}");
        client.send_indication(own, b"loop");
    }
    assert_eq!(client.receive_data(SILENCE), None);
}

#[test]
fn only_allowed_closes_everything_else() {
    let server = Server::start_with("[peers]\nallow = [\"127.0.0.2/32\"]\nonly_allowed = true\n");
    let peer = EchoPeer::start();
    let mut client = allocated(&server, "only");
    assert_eq!(client.create_permission("8.8.8.8:9".parse().expect("an address")), 403);
    assert_eq!(client.create_permission(peer.address), 0);
}
