//! `relay bench`: a load generator for any TURN server, for the operator who owns it.
//!
//! One thread is client and peer at once, so that one clock measures latencies. For a server on
//! this machine (`--server-pid`) it measures the CPU time per relayed packet, which hardly depends
//! on the load of the machine; packets per second do.
//!
//! ```text
//! target       which server, which login, whose machine
//! flow         shapes of traffic
//! media        packets through allocations: rates, shapes, slow readers
//! packet       framing and time stamps
//! allocations  handshakes a second, and what an idle allocation takes
//! process      CPU time, memory and descriptors of the server
//! report       figures as a table or as JSON
//! ```
//!
//! The TURN client is `relay-client`. The cargo feature `bench` contains all of it.

mod allocations;
mod flow;
mod media;
mod packet;
mod process;
mod report;
mod target;

use core::fmt;
use core::time::Duration;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::flow::{Shape, TrafficDirection, TrafficShape};
use self::report::Report;
use self::target::Target;
use relay_client::ClientError;

/// Arguments of `relay bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, clap::Subcommand)]
enum Measurement {
    /// Relay packets: CPU time per packet, packets per second, latency, loss
    Media(Media),
    /// Create allocations and end them: 401, Allocate, CreatePermission, ChannelBind, Refresh 0
    Allocations(Allocations),
    /// Hold idle allocations: memory and descriptors per allocation
    Hold(Common),
    /// Send media to stream clients that read too slowly, and measure the age of what they receive
    SlowReader(SlowReader),
}

/// Arguments of every measurement.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// Measure this server: HOST:PORT
    #[arg(long, default_value = "127.0.0.1:3478", value_name = "HOST:PORT")]
    server: String,
    /// Connect clients over this transport
    #[arg(long, value_enum, default_value_t = ClientTransport::Udp)]
    transport: ClientTransport,
    /// Log in with this user name; without it, mint credentials with the secret
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// Log in with this password of --user
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// Mint credentials with the secret in this file [default: the configuration's]
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    secret_file: Option<PathBuf>,
    /// Use this many allocations
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    allocations: u32,
    /// Measure for this many seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Report CPU time and memory of this process on this machine; repeat for several processes
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Confirm that a server on another machine is yours to load
    #[arg(long)]
    i_own_this_server: bool,
}

/// The transport of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ClientTransport {
    /// UDP
    Udp,
    /// TCP
    Tcp,
    /// TLS over TCP; accepts any certificate
    Tls,
}

impl ClientTransport {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

#[derive(Debug, clap::Args)]
struct Media {
    #[command(flatten)]
    common: Common,
    /// Send traffic of this shape
    #[arg(long, value_enum, default_value_t = Shape::Audio)]
    shape: Shape,
    /// Send in this direction
    #[arg(long, value_enum, default_value_t = TrafficDirection::Up)]
    direction: TrafficDirection,
    /// Relay between two allocations of the server, without an outside peer
    #[arg(long, conflicts_with = "direction")]
    pair: bool,
    /// Use Send and Data indications instead of ChannelData
    #[arg(long)]
    indications: bool,
    /// Send this many bytes of application data in a packet [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u16).range(16..=1452))]
    size: Option<u16>,
    /// Send this many packets per second in total [default: the shape's; none for flood, which
    /// sends as fast as packets arrive]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Keep this many packets in flight if there is no rate
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// Send this many packets of one flow in a row [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    burst: Option<u32>,
    /// Poll for packets without a pause, to exclude the generator's wake-ups from latencies; needs
    /// a core of its own
    #[arg(long)]
    spin: bool,
}

#[derive(Debug, clap::Args)]
struct Allocations {
    #[command(flatten)]
    common: Common,
    /// Run this many clients at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    at_once: u32,
    /// Use another allocation of the server as the peer
    #[arg(long)]
    pair: bool,
}

#[derive(Debug, clap::Args)]
struct SlowReader {
    #[command(flatten)]
    common: Common,
    /// Send this much media to each client, in bits per second
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    offered: u32,
    /// Let each client read this much, in bits per second
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    read: u32,
    /// Set this receive buffer on each client's socket, in bytes
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(2048..=16_777_216))]
    receive_buffer: u32,
}

impl Common {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    fn count(&self) -> usize {
        // At most 10,000.
        usize::try_from(self.allocations).unwrap_or(usize::MAX)
    }
}

impl Measurement {
    const fn common(&self) -> &Common {
        match self {
            Self::Media(media) => &media.common,
            Self::Allocations(allocations) => &allocations.common,
            Self::Hold(common) => common,
            Self::SlowReader(slow) => &slow.common,
        }
    }
}

/// Why there are no figures.
#[derive(Debug)]
enum Failure {
    /// An error in the command line or the configuration.
    Refused(String),
    /// The server or the path to it failed.
    Client(ClientError),
    /// A socket of the generator failed.
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Client(error) => write!(f, "{error}{}", advice(error)),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// What the operator can do about it.
const fn advice(error: &ClientError) -> &'static str {
    match error {
        ClientError::Timeout(..) => {
            ". Is a TURN server there? If it answers some of the clients, its limit on challenges (relay: \
             limits.challenges_per_second) is lower than this measurement needs"
        }
        ClientError::Refused(refusal) => match refusal.code {
            401 => ": the server refuses this login",
            403 => {
                ": allow this machine's address as a peer (relay: peers.allow), or measure client to client with --pair"
            }
            486 => {
                ": raise the quotas for the measurement (relay: limits.allocations_per_ip, \
                 limits.allocations_per_user), or reduce -n"
            }
            508 => ": the server has no relay port left, or a limit is reached",
            _ => "",
        },
        _ => "",
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Measures and prints: exit status 0, or 1 with the reason on standard error.
pub(super) fn run(config: Option<&Path>, arguments: &BenchArguments) -> ExitCode {
    let json = arguments.measurement.common().json;
    match measure(config, &arguments.measurement) {
        Ok(report) => {
            let text = if json { report.json() } else { report.table() };
            // A reader that closed its end needs no more.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "relay bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(config: Option<&Path>, measurement: &Measurement) -> Result<Report, Failure> {
    let target = Target::find(config, measurement.common())?;
    match measurement {
        Measurement::Media(media) => {
            let flow = TrafficShape {
                shape: media.shape,
                direction: if media.pair {
                    TrafficDirection::Pair
                } else {
                    media.direction
                },
                indications: media.indications,
                size: media.size.map_or(media.shape.size(), usize::from),
                rate: media.rate.map(f64::from),
                window: media.window.into(),
                burst: media.burst.unwrap_or(media.shape.burst()),
                spin: media.spin,
                slow: None,
            };
            media::measure(&target, &media.common, &flow)
        }
        Measurement::SlowReader(slow) => {
            if slow.common.transport == ClientTransport::Udp {
                return Err(Failure::Refused(
                    "over UDP nothing waits for a slow reader: choose --transport tcp or tls".to_owned(),
                ));
            }
            media::measure(
                &target,
                &slow.common,
                &flow::slow_reader(&slow.common, slow.offered, slow.read, slow.receive_buffer),
            )
        }
        Measurement::Allocations(wish) => allocations::rate(&target, &wish.common, wish.at_once, wish.pair),
        Measurement::Hold(common) => allocations::hold(&target, common),
    }
}
