//! What the server does when it may open no more files.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::*;
use crate::support::try_connect;

/// As many connections as a moderate burst brings.
const BURST: usize = 40;

/// Files that are open for a moment when the limit is set, at most: whoever comes later gets their numbers.
const PASSING: usize = 16;

/// The lowest number that none of a process's open files has: the next one would get it.
fn next_file(pid: Pid) -> u64 {
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let is_free = |number: &u64| std::fs::symlink_metadata(format!("{folder}/{number}")).is_err();
    (0..).find(is_free).expect("numbers do not end")
}

/// A new client over TCP, if it is served, which takes a file. `None`: it was turned away. It is never left to wait.
fn served(connected: std::io::Result<TcpStream>) -> Option<Stream<TcpStream>> {
    // It may be closed before the connection is seen to stand.
    let mut client = Stream(connected.ok()?);
    let begin = Instant::now();
    let outcome = client.allocate("nobody", "wrong");
    assert!(
        begin.elapsed() < support::PATIENCE,
        "neither served nor turned away for {:?}",
        begin.elapsed()
    );
    match outcome {
        Outcome::Silence => None,
        outcome => {
            assert_eq!(outcome, Outcome::Refused(401));
            Some(client)
        }
    }
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

    let mut held = Vec::new();
    let mut burst = |most: usize| {
        let mut turned_away = 0;
        while turned_away < most {
            let clients: Vec<_> = (turned_away..most).map(|_| try_connect(local(setup.turn))).collect();
            let clients = clients.into_iter().map(served);
            for client in clients {
                turned_away += usize::from(client.is_none());
                held.extend(client);
            }
            assert!(held.len() <= PASSING, "clients are served without files");
        }
    };
    burst(BURST);

    let before = time_used(server.pid());
    // Processor time is told against real time.
    std::thread::sleep(Duration::from_secs(1));
    let used = time_used(server.pid()) - before;
    assert!(
        used < Duration::from_millis(500),
        "{used:?} of processor time in an idle second"
    );
    // Meanwhile another file may have been closed.
    burst(1);
    // Or another allocation got the descriptor of one that was closed just now; it holds on to it.
    let outcomes: Vec<_> = (0..PASSING).map(|_| setup.allocate(SECRET)).collect();
    assert_eq!(
        outcomes.last(),
        Some(&Outcome::Refused(508)),
        "served over UDP, but for a socket: {outcomes:?}"
    );

    prlimit(Some(server.pid()), Resource::Nofile, former).expect("as it was");
    setup.wait_for_metric_of_at_least("relay_accept_errors_total{reason=\"exhausted\"}", 1.0);
    setup.wait_for_metric("relay_connections_shed_total", (BURST + 1) as f64);
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
}
