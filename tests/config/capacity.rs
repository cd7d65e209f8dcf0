//! How much of everything there may be: what the open files allow, and what one network may have.

use relay::config::Loaded;

use crate::machine::{Machine, summary};

/// Everything that takes open files is switched on.
const EVERYTHING: &str = "[front_door]\nhttp_upstream = \"203.0.113.99:80\"\n[front_door.http3]\nbackend = \"203.0.113.99:443\"\n\
                          [turn.tcp_allocations]\nenabled = true\n";

/// Files for relay sockets, and files for clients.
fn files(loaded: &Loaded) -> (u64, u64) {
    let settings = &loaded.settings;
    let relay = &settings.turn.relay;
    let families = [relay.ipv4, relay.ipv6].iter().flatten().count() as u64;
    let mut clients = settings.stream.max_connections as u64;
    if settings.front_door.http_upstream.is_some() {
        clients += settings.front_door.connections as u64;
    }
    if settings.front_door.http3.backend.is_some() {
        clients += u64::from(settings.front_door.http3.limits.flows);
    }
    clients += settings.turn.tcp.as_ref().map_or(0, |tcp| u64::from(tcp.connections));
    (families * u64::from(settings.turn.limits.allocations), clients)
}

#[test]
fn where_files_are_few_neither_relay_sockets_nor_clients_take_what_the_other_needs() {
    let mut machine = Machine::new();
    for (open_files, least) in [(100_000, 40_000), (4096, 1500), (1024, 250), (512, 40)] {
        machine.open_files = open_files;
        for toml in ["", "[limits]\nconnections = 1000000\nallocations = 16000\n", EVERYTHING] {
            let loaded = machine.good(toml);
            let (relay, clients) = files(&loaded);
            assert!(
                relay + clients + 200 <= open_files,
                "{open_files}: {relay} and {clients} for {toml:?}"
            );
            let wants_less = relay < least && loaded.settings.turn.limits.allocations >= 16_000;
            assert!(
                relay >= least || wants_less,
                "{open_files}: {relay} for relay sockets with {toml:?}"
            );
            assert!(
                clients >= least.min(16_384),
                "{open_files}: {clients} for clients with {toml:?}"
            );
        }
    }
}

#[test]
fn what_is_not_cut_is_as_configured_and_what_one_side_does_not_want_the_other_gets() {
    let mut machine = Machine::new();
    let loaded = machine.good(EVERYTHING);
    assert_eq!(loaded.settings.turn.limits.allocations, 16_384);
    assert_eq!(files(&loaded).1, 16_384 + 4096 + 4096 + 1024);
    machine.open_files = 2048;
    let few_clients = machine.good("[limits]\nconnections = 100\n");
    let few_allocations = machine.good("[limits]\nallocations = 50\n");
    assert_eq!(few_clients.settings.stream.max_connections, 100);
    assert!(files(&few_clients).0 > 1300);
    assert_eq!(few_allocations.settings.turn.limits.allocations, 50);
    assert!(few_allocations.settings.stream.max_connections > 1300);
}

#[test]
fn limits_that_are_cut_are_told_of_in_one_line_that_says_what_to_do() {
    let mut machine = Machine::new();
    let warnings =
        |machine: &Machine, toml: &str| summary(&machine.good(toml).warnings, &machine.dir.join("relay.toml"));
    let cuts = |warnings: &[String]| warnings.iter().filter(|line| line.contains("LimitNOFILE=")).count();
    assert_eq!(cuts(&warnings(&machine, EVERYTHING)), 0);
    machine.open_files = 1024;
    let told = warnings(&machine, EVERYTHING);
    assert_eq!(cuts(&told), 1, "{told:#?}");
    let line = told.iter().find(|line| line.contains("LimitNOFILE=")).unwrap();
    for part in [
        "this process may open 1024 files",
        "limits.allocations to ",
        "(of 16384)",
        "limits.connections to ",
        "front_door.connections to ",
        "front_door.http3.flows to ",
        "turn.tcp_allocations.connections to ",
        "LimitNOFILE=1048576",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Minting with the configuration is no matter of files.
    let minting = machine.load_for(relay::config::Purpose::Mint, "").unwrap();
    assert_eq!(minting.warnings.counts(), (0, 0));
}

#[test]
fn a_network_may_have_sixteen_times_what_an_address_may_and_no_more_than_half_of_all() {
    let machine = Machine::new();
    let per_network = |toml: &str| {
        let settings = machine.good(toml).settings;
        [
            settings.turn.limits.allocations_per_network as usize,
            settings.stream.max_connections_per_network,
            settings.dtls.associations_per_network as usize,
            settings.front_door.http3.limits.flows_per_network as usize,
            settings.api.mints_per_minute_per_network as usize,
        ]
    };
    assert_eq!(per_network(""), [8192, 4096, 4096, 2048, 9600]);
    let small = "[limits]\nallocations = 1000\nallocations_per_ip = 10\nconnections = 20\nconnections_per_ip = 15\n\
                 [api]\nmints_per_minute_per_ip = 0\n";
    assert_eq!(per_network(small), [160, 15, 4096, 2048, 0]);
    let given = "[limits]\nallocations_per_network = 1\nconnections_per_network = 2\n[dtls]\nassociations_per_network = 3\n\
                 [front_door.http3]\nflows_per_network = 4\n[api]\nmints_per_minute_per_network = 5\n";
    assert_eq!(per_network(given), [1, 2, 3, 4, 5]);
    let wrong = machine.bad("[limits]\nconnections_per_network = 0\n");
    let wrong = summary(&wrong, &machine.dir.join("relay.toml"));
    assert!(
        wrong[0].contains("`limits.connections_per_network`: 0 is out of range"),
        "{wrong:?}"
    );
}
