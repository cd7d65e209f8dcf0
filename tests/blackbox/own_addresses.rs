//! The relay's own addresses are never peers, even if they are added while the server runs, or lie
//! in a network that was opened for another purpose. Each test has its own network.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use relay::base::address::Transport;

use crate::client::{Client, PATIENCE, SILENCE};
use crate::harness::{EchoPeer, SECRET, Server, minted};

/// Runs `test` in a network with loopback only, and with its own view of files.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces; run the tests as root");
        run("mount", &["--make-rprivate", "/"]);
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("the program runs");
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

fn ip(words: &str) {
    run("ip", &words.split(' ').collect::<Vec<_>>());
}

/// An interface with a network behind it.
fn network(address: &str) {
    ip("link add lan type veth peer name far");
    ip("link set far up");
    ip("link set lan up");
    ip(&format!("address add {address} dev lan"));
}

fn client(server: &Server, v6: bool) -> Client {
    let mut client = Client::udp(server.plain).with_login(&minted(SECRET, 600, "own"));
    let allocated = if v6 { client.allocate_v6() } else { client.allocate() };
    allocated.expect("allocated");
    client
}

fn peer(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 7000)
}

/// Waits until a permission for `ip` is answered with `code`.
#[track_caller]
fn becomes(client: &mut Client, ip: &str, code: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.create_permission(peer(ip));
        if answer == code {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited for {ip} to be answered {code}: {answer}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

//= TURN-PERM-04
#[test]
fn an_address_a_prefix_on_loopback_and_an_anyip_route_are_own_as_long_as_they_are_there() {
    in_own_network(|| {
        let server = Server::start_dual_stack("");
        // Each command after `ip`, with `add` for a later `del`; addresses inside, and one outside.
        for (command, within, beside) in [
            ("address add 8.8.4.4/32 dev lo", ["8.8.4.4", "8.8.4.4"], "8.8.4.5"),
            ("address add 8.9.0.1/24 dev lo", ["8.9.0.1", "8.9.0.200"], "8.9.1.1"),
            (
                "route add local 8.10.0.0/16 dev lo",
                ["8.10.0.1", "8.10.255.255"],
                "8.11.0.1",
            ),
            (
                "address add 2600:9::1/64 dev lo",
                ["2600:9::1", "2600:9::1"],
                "2600:9::2",
            ),
            (
                "route add local 2600:a::/64 dev lo",
                ["2600:a::1", "2600:a::ffff"],
                "2600:a:0:1::1",
            ),
        ] {
            let mut client = client(&server, beside.contains(':'));
            let mut all = |code| within.iter().for_each(|ip| becomes(&mut client, ip, code));
            all(0);
            ip(command);
            all(403);
            ip(&command.replace(" add ", " del "));
            all(0);
            ip(command);
            all(403);
            assert_eq!(client.create_permission(peer(beside)), 0, "{beside}");
            ip(&command.replace(" add ", " del "));
        }
        assert!(server.metric("relay_own_address_reads_total", "changed") >= 10.0);
        server.wait_for_log("8.9.0.0/24");
    });
}

//= TURN-PERM-04
#[test]
fn a_service_at_an_address_that_came_after_the_start_is_not_reached_over_a_channel_bound_before() {
    in_own_network(|| {
        let server = Server::start_with("[peers]\nallow = [\"10.0.0.0/8\"]\n");
        let mut client = client(&server, false);
        assert_eq!(client.channel_bind(0x4000, peer("10.77.0.1")), 0, "an ordinary peer");
        ip("address add 10.77.0.1/32 dev lo");
        let service = EchoPeer::start_on("10.77.0.1:7000");
        becomes(&mut client, "10.77.0.1", 403);
        client.send_channel(0x4000, b"to the service");
        assert_eq!(client.receive_data(SILENCE), None);
        // Named as a single address it is open.
        let config = std::fs::read_to_string(server.path("relay.toml")).expect("the configuration");
        let named = config.replace("\"10.0.0.0/8\"", "\"10.0.0.0/8\", \"10.77.0.1/32\"");
        std::fs::write(server.path("relay.toml"), named).expect("written");
        server.signal(Signal::SIGHUP);
        becomes(&mut client, "10.77.0.1", 0);
        client.send_channel(0x4000, b"to the service");
        assert_eq!(
            client.receive_data(PATIENCE),
            Some((Ok(0x4000), b"to the service".to_vec()))
        );
        drop(service);
    });
}

//= TURN-PERM-04
#[test]
fn a_transparent_proxys_local_default_closes_nothing_and_a_table_our_packets_come_to_does() {
    in_own_network(|| {
        let server = Server::start_dual_stack("");
        for (family, world, fenced, next) in [
            ("-4", "9.9.9.9", "8.20.0.0/16", "8.21.0.1"),
            ("-6", "2600:99::9", "2600:20::/64", "2600:21::1"),
        ] {
            let mut client = client(&server, family == "-6");
            let within = fenced.split('/').next().expect("an address").replace("0.0", "0.1");
            let within = within.replace("20::", "20::1");
            ip(&format!("{family} rule add fwmark 1 lookup 100"));
            ip(&format!("{family} route add local default dev lo table 100"));
            ip(&format!("{family} route add local {fenced} dev lo table 100"));
            // The earlier change is known once the later one is.
            ip(&format!("address add {next} dev lo"));
            becomes(&mut client, next, 403);
            assert_eq!(client.create_permission(peer(world)), 0, "{world}");
            assert_eq!(client.create_permission(peer(&within)), 0, "{within}");
            ip(&format!("{family} rule add to {fenced} lookup 100"));
            becomes(&mut client, &within, 403);
            assert_eq!(client.create_permission(peer(world)), 0, "{world}");
            ip(&format!("{family} rule del to {fenced} lookup 100"));
            becomes(&mut client, &within, 0);
        }
    });
}

//= TURN-PERM-04
#[test]
fn what_went_with_its_interface_is_an_ordinary_peer_again() {
    in_own_network(|| {
        network("8.40.0.1/32");
        ip("link add other type veth peer name end");
        ip("link set other up");
        // The kernel does not report this route when the interface is removed, only the interface.
        ip("route add local 8.41.0.0/24 dev other");
        let server = Server::start_with("");
        let mut client = client(&server, false);
        for (interface, inside) in [("lan", "8.40.0.1"), ("other", "8.41.0.7")] {
            assert_eq!(client.create_permission(peer(inside)), 403, "{inside}");
            ip(&format!("link del {interface}"));
            becomes(&mut client, inside, 0);
        }
    });
}

//= TURN-PERM-04
#[test]
fn more_changes_at_once_than_the_system_can_tell_are_known_all_the_same() {
    in_own_network(|| {
        let server = Server::start_with("");
        let mut client = client(&server, false);
        assert_eq!(client.create_permission(peer("8.30.15.200")), 0);
        let batch = server.path("batch");
        let line = |action, n: u32| format!("address {action} 8.30.{}.{}/32 dev lo\n", n / 200, n % 200 + 1);
        let write = |action| {
            let lines: String = (0..3200).map(|n| line(action, n)).collect();
            std::fs::write(&batch, lines).expect("written");
            run("ip", &["-batch", batch.to_str().expect("UTF-8")]);
        };
        write("add");
        for inside in ["8.30.0.1", "8.30.8.100", "8.30.15.200"] {
            becomes(&mut client, inside, 403);
        }
        write("del");
        becomes(&mut client, "8.30.15.200", 0);
        becomes(&mut client, "8.30.0.1", 0);
    });
}

/// Makes the system refuse netlink, as `RestrictAddressFamilies=` of a unit does.
#[expect(unsafe_code, reason = "there is no safe way to a filter for a child")]
fn without_netlink(command: &mut Command) {
    let filter = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("a code"),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EAFNOSUPPORT).expect("a number");
    let filters = [
        filter(load, 0, 0, 0),
        filter(equal, 0, 3, u32::try_from(libc::SYS_socket).expect("a number")),
        // The first argument, on a little-endian machine.
        filter(load, 0, 0, 16),
        filter(equal, 0, 1, u32::try_from(libc::AF_NETLINK).expect("a number")),
        filter(ret, 0, 0, refuse),
        filter(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let restrict = move || {
        let program = libc::sock_fprog {
            len: 6,
            filter: filters.as_ptr().cast_mut(),
        };
        // SAFETY: plain system calls, with a program that outlives them.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    // SAFETY: it only makes system calls.
    unsafe { command.pre_exec(restrict) };
}

#[test]
fn where_the_addresses_of_the_machine_cannot_be_read_nothing_is_served_and_it_says_why() {
    let dir = std::env::temp_dir().join(format!("relay-no-netlink-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let config = dir.join("relay.toml");
    // Nothing is bound: it ends before that.
    let text = format!(
        "external = {{ ipv4 = \"127.0.0.1\", ipv6 = \"off\" }}\nrelay.ipv4 = \"127.0.0.1\"\nadmin.address = \"off\"\n\
         credentials.secrets = [\"{SECRET}\"]\nlistener = [{{ bind = \"127.0.0.1:13999\", protocols = [\"udp\"] }}]\n"
    );
    std::fs::write(&config, text).expect("written");
    for (arguments, code) in [(&[][..], 78), (&["check"], 0)] {
        let mut command = Command::new("timeout");
        command.args(["--verbose", "20", env!("CARGO_BIN_EXE_relay")]);
        command.args(arguments).arg("--config").arg(&config);
        without_netlink(&mut command);
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("the addresses of this machine cannot be read"), "{said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
    std::fs::remove_dir_all(&dir).expect("removed");
}

//= TURN-PERM-04
#[test]
fn a_network_that_is_open_for_an_sfu_opens_neither_the_relays_host_in_it_nor_the_backends() {
    in_own_network(|| {
        network("10.0.8.2/24");
        let server = Server::start_with(
            "[peers]\nallow = [\"10.0.8.0/24\"]\n[turn.redirect]\nipv6 = \"[2600::1]:443\"\n\
             [front_door]\nhttp_upstream = \"10.0.8.7:8080\"\n\
             [[front_door.route]]\nnames = [\"www.example.org\"]\nbackend = \"10.0.8.8:8443\"\n\
             [front_door.http3]\nbackend = \"10.0.8.9:8443\"\n",
        );
        let mut client = client(&server, false);
        assert_eq!(client.create_permission(peer("10.0.8.3")), 0, "the SFU");
        for own in ["10.0.8.2", "10.0.8.255", "10.0.8.7", "10.0.8.8", "10.0.8.9"] {
            assert_eq!(client.create_permission(peer(own)), 403, "{own}");
            assert_eq!(client.channel_bind(0x4001, peer(own)), 403, "{own}");
        }
    });
}

//= TURN-PERM-04
#[test]
fn what_is_open_as_one_address_is_open_but_for_the_ports_of_listeners_and_backends() {
    in_own_network(|| {
        network("10.0.8.2/24");
        ip("address add 10.0.8.7/24 dev lan");
        let web = TcpListener::bind("0.0.0.0:8080").expect("a port");
        let other = TcpListener::bind("0.0.0.0:8081").expect("a port");
        let server = Server::start_with(
            "[peers]\nallow = [\"10.0.8.0/24\", \"10.0.8.2/32\", \"10.0.8.7\", \"127.0.0.0/8\"]\n\
             [turn.tcp_allocations]\nenabled = true\n[front_door]\nhttp_upstream = \"localhost:8080\"\n",
        );
        let mut client = Client::over_transport(Transport::Tcp, server.plain).with_login(&minted(SECRET, 600, "own"));
        client.allocate_tcp(1).expect("allocated");
        for own in ["10.0.8.2", "10.0.8.7", "127.0.0.1", "127.0.0.9"] {
            let at = |port| SocketAddr::new(own.parse().expect("an address"), port);
            assert_eq!(client.connect(at(8080)), Err(403), "the web server at {own}");
            assert!(client.connect(at(8081)).is_ok(), "another program at {own}");
        }
        drop((web, other));
    });
}

//= TURN-PERM-04
#[test]
fn a_backend_whose_name_leads_somewhere_later_is_closed_when_it_does() {
    in_own_network(|| {
        network("10.0.8.2/24");
        let hosts = std::env::temp_dir().join(format!("relay-hosts-{}", std::process::id()));
        let lead = |line: &str| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{line}\n")).expect("written");
        lead("");
        run("mount", &["--bind", hosts.to_str().expect("UTF-8"), "/etc/hosts"]);
        let server = Server::start_with(
            "[peers]\nallow = [\"10.0.8.0/24\"]\n\
             [[front_door.route]]\nnames = [\"www.example.org\"]\nbackend = \"web.relay-test.invalid:8443\"\n",
        );
        let mut client = client(&server, false);
        assert_eq!(client.create_permission(peer("10.0.8.7")), 0);
        lead("10.0.8.7 web.relay-test.invalid");
        becomes(&mut client, "10.0.8.7", 403);
        assert_eq!(client.create_permission(peer("10.0.8.8")), 0);
        std::fs::remove_file(&hosts).expect("removed");
    });
}

/// Clients of the other server have their relayed addresses there.
//= TURN-PERM-04
#[test]
fn of_the_server_that_clients_are_sent_to_the_port_is_closed_and_a_network_does_not_open_it() {
    in_own_network(|| {
        network("10.0.8.2/24");
        let redirect =
            |target: &str| format!("[peers]\nallow = [\"10.0.8.0/24\"]\n[turn.redirect]\nipv4 = \"{target}\"\n");
        // Clients over TCP are served for a while.
        let serve = |target: &str| {
            let server = Server::start_with(&redirect(target));
            let mut client =
                Client::over_transport(Transport::Tcp, server.plain).with_login(&minted(SECRET, 600, "own"));
            client.allocate().expect("allocated");
            (server, client)
        };
        let (_server, mut client) = serve("8.8.4.4:3478");
        assert_eq!(
            client.channel_bind(0x4000, "8.8.4.4:3478".parse().expect("an address")),
            403
        );
        assert_eq!(client.channel_bind(0x4000, peer("8.8.4.4")), 0, "a relayed address");
        let (_server, mut client) = serve("10.0.8.20:3478");
        assert_eq!(client.create_permission(peer("10.0.8.20")), 403);
        assert_eq!(client.create_permission(peer("10.0.8.21")), 0);
    });
}
