//! What is measured, for which servers, and the results.
//!
//! ```text
//! cases    traffic patterns, and what each measures
//! servers  starts and stops servers, each on a core of its own
//! network  two namespaces joined by a veth pair
//! host     other load on the machine
//! results  raw results, medians, the table
//! plot     bars, as SVG
//! ```

mod cases;
mod host;
mod network;
mod plot;
mod results;
mod servers;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use self::cases::{CASES, Case, Figure, Place};
use self::host::Load;
use self::network::Namespaces;
use self::results::Results;
pub(crate) use self::servers::Server;
use self::servers::{Bench, Setup};

/// The argument that turns this program into the bare loop.
pub(crate) const BARE: &str = "bare";
pub(crate) const PAUSED: &str = "bare-paused";
/// The relay in the profile of this build.
const RELAY: &str = env!("CARGO_BIN_EXE_relay");
/// If the machine is busier than this before anything starts, the figures are less reliable.
const QUIET: f64 = 0.10;

/// Measures servers side by side and writes results.jsonl, table.md and two plots.
#[derive(Debug, clap::Parser)]
#[command(name = "benches/run", about)]
pub(crate) struct Options {
    /// How often each case is measured of each server
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u32,
    /// Cases whose name begins with one of these, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    pub(crate) only: Vec<String>,
    /// Servers: relay, coturn, turn-server, bare (a loop that relays and asks nothing), bare-paused
    /// (it lets packets gather)
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SERVER",
        default_value = "relay,coturn,bare,bare-paused"
    )]
    pub(crate) servers: Vec<Server>,
    /// The program of turn-server 4.1.5 (`cargo install turn-server --version 4.1.5`)
    #[arg(long, value_name = "PATH", default_value = "turn-server")]
    pub(crate) turn_server: PathBuf,
    /// Where the results go
    #[arg(long, value_name = "FOLDER", default_value = "target/side_by_side")]
    pub(crate) out: PathBuf,
    /// Add to the results that are there, as further runs of one sitting; with --runs 0, only write
    /// table and plots again
    #[arg(long)]
    pub(crate) append: bool,
    /// Leave server and generator to the scheduler: for a machine with one core, and for trying out
    #[arg(long)]
    pub(crate) unpinned: bool,
}

/// Runs the measurement.
///
/// # Errors
/// What is missing, or which measurement failed, with its output.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| options.only.is_empty() || options.only.iter().any(|wish| case.name.starts_with(wish.as_str())))
        .collect();
    if cases.is_empty() {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("no such case; there are {}", names.join(", ")));
    }
    let mut results = Results::open(&options.out, options.append)?;
    let setup = Setup::new(options)?;
    if options.runs > 0 {
        let idle = Load::during(|| std::thread::sleep(std::time::Duration::from_secs(1))).0;
        if idle.busiest() > QUIET {
            eprintln!(
                "note: a core is {:.0} % busy with something else already",
                idle.busiest() * 100.0
            );
        }
        results.add(json!({ "machine": machine(), "busy_before": idle.cores }))?;
    }
    let namespaces = if options.runs > 0 && cases.iter().any(|case| case.place == Place::Veth) {
        Namespaces::make()
            .inspect_err(|why| eprintln!("note: no cases through veth: {why}"))
            .ok()
    } else {
        None
    };
    for run in 0..options.runs {
        for case in &cases {
            let place = match (case.place, &namespaces) {
                (Place::Veth, None) => continue,
                (Place::Veth, found) => found.as_ref(),
                (Place::Loopback, _) => None,
            };
            let mut servers: Vec<Server> = options.servers.iter().copied().filter(|s| case.fits(*s)).collect();
            if run % 2 == 1 {
                servers.reverse();
            }
            // Discarded: after traffic of another kind, the first server copies to its sockets many
            // times slower than the later ones, however long it is measured (docs/performance.md,
            // "Noise").
            if let (Figure::Packet, Some(&first)) = (case.figure, servers.first()) {
                measure(&setup, options, case, first, place)?;
            }
            for server in servers {
                let figures = measure(&setup, options, case, server, place)?;
                eprintln!(
                    "run {} {:<18} {:<12} {}",
                    run + 1,
                    case.name,
                    server.name(),
                    case.brief(&figures)
                );
                results.add(json!({ "case": case.name, "server": server.name(), "run": run, "figures": figures }))?;
            }
        }
    }
    results.write(&options.out)
}

/// Measures one case of one server, which is started and stopped for it.
fn measure(
    setup: &Setup,
    options: &Options,
    case: &Case,
    server: Server,
    place: Option<&Namespaces>,
) -> Result<Value, String> {
    let running = setup.start(server, place)?;
    let bench = Bench {
        case,
        seconds: options.seconds,
        running: &running,
        place,
    };
    let (load, output) = Load::during(|| setup.bench(&bench).output());
    let output = output.map_err(|error| format!("relay bench: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} of {}: {}\n{}",
            case.name,
            server.name(),
            told.trim_end(),
            running.log()
        ));
    }
    let mut figures: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("relay bench: {error}"))?;
    figures["cores_busy"] = json!(load.cores);
    figures["stolen"] = json!(load.stolen);
    Ok(figures)
}

/// The machine that the figures belong to.
fn machine() -> Value {
    let told = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "cpu": model.map(|(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": told("uname", &["-r"]),
        "relay": told(RELAY, &["--version"]),
        "coturn": told("dpkg-query", &["--show", "--showformat=${Version}\n", "coturn"]),
    })
}
