//! What the server does when it may open no more files.

use std::io::{ErrorKind, Read as _};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::*;
use crate::support::try_connect;

/// As many connections as a moderate burst brings.
const BURST: usize = 40;

/// The lowest number that none of a process's open files has: the next one would get it. What is open for a moment only
/// does not count: it looks for a while.
fn next_file(pid: Pid) -> u64 {
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let free = |number: &u64| std::fs::symlink_metadata(format!("{folder}/{number}")).is_err();
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        (0..).find(free).expect("numbers do not end")
    });
    looks.min().expect("it has looked")
}

/// Processor time a process has used.
fn time_used(pid: Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).expect("a process of ours");
    // The name before it may hold anything; `utime` and `stime` are the 14th and 15th field, in hundredths of a second.
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = rest.split_whitespace().skip(11).take(2);
    Duration::from_millis(10) * ticks.map(|ticks| ticks.parse::<u32>().expect("a number")).sum::<u32>()
}

#[test]
fn without_files_new_connections_are_turned_away_and_the_rest_is_served() {
    let setup = Setup::new();
    let server = setup.start();
    let limit = Rlimit {
        current: Some(next_file(server.pid())),
        ..getrlimit(Resource::Nofile)
    };
    let former = prlimit(Some(server.pid()), Resource::Nofile, limit).expect("a process of ours");

    let clients = [(); BURST].map(|()| try_connect(local(setup.turn)));
    for client in clients {
        // It may be closed before the connection is seen to stand.
        let read = client.and_then(|mut client| client.read(&mut [0; 16]));
        let is_closed = read.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |len| len == 0);
        assert!(is_closed, "rather than left to wait");
    }

    let before = time_used(server.pid());
    // Processor time is told against real time.
    std::thread::sleep(Duration::from_secs(1));
    let used = time_used(server.pid()) - before;
    assert!(
        used < Duration::from_millis(500),
        "{used:?} of processor time in an idle second"
    );
    assert_eq!(
        setup.allocate(SECRET),
        Outcome::Refused(508),
        "served over UDP, but for a socket"
    );

    prlimit(Some(server.pid()), Resource::Nofile, former).expect("as it was");
    setup.wait_for_metric_of_at_least("relay_accept_errors_total{reason=\"exhausted\"}", 1.0);
    setup.wait_for_metric("relay_connections_shed_total", BURST as f64);
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
}
