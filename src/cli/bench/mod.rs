//! `relay bench`: a load generator for any TURN server, for the operator who owns it.
//!
//! One thread is client and peer at once, so that one clock measures how long a packet takes. What
//! it measures of a server on this machine (`--server-pid`) is the CPU time it spends on a relayed
//! packet, which hardly depends on what else the machine does; packets per second do.
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
//! The TURN client is `relay-client`. All of it is behind the cargo feature `bench`.

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

/// What may follow `relay bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, clap::Subcommand)]
enum Measurement {
    /// Relay packets: CPU time for each, packets a second, latency, loss
    Media(Media),
    /// Make allocations and end them again: 401, Allocate, CreatePermission, ChannelBind, Refresh 0
    Allocations(Allocations),
    /// Hold idle allocations: memory and descriptors for each
    Hold(Common),
    /// Send media to stream clients that read slower than it comes: how old is what they get?
    SlowReader(SlowReader),
}

/// What every measurement takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Common {
    /// The server: HOST:PORT
    #[arg(long, default_value = "127.0.0.1:3478", value_name = "HOST:PORT")]
    server: String,
    /// How clients reach it
    #[arg(long, value_enum, default_value_t = ClientTransport::Udp)]
    transport: ClientTransport,
    /// User name; without it a credential is minted with the secret below
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// Password of --user
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// File that holds the secret to mint credentials with [default: that of the configuration]
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    secret_file: Option<PathBuf>,
    /// Allocations
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    allocations: u32,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Process id of the server, if it runs here: reports its CPU time and memory. Give it again
    /// for each process that works for it
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// The server is not on this machine, and it is mine to load
    #[arg(long)]
    i_own_this_server: bool,
}

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ClientTransport {
    /// UDP
    Udp,
    /// TCP
    Tcp,
    /// TLS over TCP; any certificate will do
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
    /// What the traffic looks like
    #[arg(long, value_enum, default_value_t = Shape::Audio)]
    shape: Shape,
    /// Which way
    #[arg(long, value_enum, default_value_t = TrafficDirection::Up)]
    direction: TrafficDirection,
    /// From client to client through two allocations of the server, in place of an outside peer
    #[arg(long, conflicts_with = "direction")]
    pair: bool,
    /// Send and Data indications in place of ChannelData
    #[arg(long)]
    indications: bool,
    /// Bytes of application data in a packet [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u16).range(16..=1452))]
    size: Option<u16>,
    /// Packets a second in all [default: the shape's; none for flood, which sends as fast as
    /// packets arrive]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Packets under way at a time when there is no rate
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// Packets of one flow in a row [default: the shape's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    burst: Option<u32>,
    /// Look for packets without a pause, so that no latency is our own waking up: wants a core of
    /// its own
    #[arg(long)]
    spin: bool,
}

#[derive(Debug, clap::Args)]
struct Allocations {
    #[command(flatten)]
    common: Common,
    /// How many clients do so at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    at_once: u32,
    /// With another allocation of the server as the peer, in place of an outside one
    #[arg(long)]
    pair: bool,
}

#[derive(Debug, clap::Args)]
struct SlowReader {
    #[command(flatten)]
    common: Common,
    /// Media sent to each client, in bits a second
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    offered: u32,
    /// What each client reads, in bits a second
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    read: u32,
    /// Receive buffer of each client's socket, in bytes
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
    /// Something about the command line or the configuration.
    Refused(String),
    /// The server, or the way to it.
    Client(ClientError),
    /// Sockets of our own.
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

/// What an operator who measures can do about it.
const fn advice(error: &ClientError) -> &'static str {
    match error {
        ClientError::Timeout(..) => {
            ". Is a TURN server there? If it answers some of the clients, its limit on answers to strangers (relay: \
             limits.challenges_per_second) is lower than what is asked here"
        }
        ClientError::Refused(refusal) => match refusal.code {
            401 => ": the server does not take this login",
            403 => ": allow our address as a peer (relay: peers.allow), or measure client to client with --pair",
            486 => {
                ": raise the quotas for the measurement (relay: limits.allocations_per_ip, \
                 limits.allocations_per_user), or ask for less with -n"
            }
            508 => ": the server has no relay ports, or no room, left",
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
            // A reader that closed its end has read enough.
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
