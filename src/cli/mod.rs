//! The command line: `relay` serves; its subcommands do one thing and end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::daemon::run;

#[cfg(feature = "bench")]
mod bench;
mod check;
mod control;
mod credentials;
mod user;

/// A TURN/STUN server that gets real-time media through when nothing but port 443 is open.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    /// Configuration file; without it /etc/relay/relay.toml if that is there, else the defaults
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "Without a command, relay serves.

Environment: RELAY_CONFIG may hold the whole configuration, RELAY__SECTION__KEY overrides one key.
Signals: SIGTERM stops, SIGHUP reads the configuration again.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge a configuration: every mistake at once, and what is in force
    Check(check::CheckArguments),
    #[command(flatten)]
    Control(control::ControlCommand),
    /// Time-limited credentials
    Credentials(credentials::CredentialsArguments),
    /// Measure a TURN server of your own
    #[cfg(feature = "bench")]
    Bench(bench::BenchArguments),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config.as_deref();
    match arguments.command {
        None => run::serve(config),
        Some(Command::Check(arguments)) => check::run(config, &arguments),
        Some(Command::Control(command)) => control::run(&command),
        Some(Command::Credentials(arguments)) => credentials::run(config, &arguments),
        #[cfg(feature = "bench")]
        Some(Command::Bench(arguments)) => bench::run(config, &arguments),
    }
}
