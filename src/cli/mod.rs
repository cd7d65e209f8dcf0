//! The command line: `relay` serves; each subcommand does one thing and ends.

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

/// A TURN/STUN server that relays real-time media even if only port 443 is open
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    /// Read this configuration file [default: /etc/relay/relay.toml if it exists, else no file]
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "Without a command, relay serves.

Environment: RELAY_CONFIG may hold the whole configuration, RELAY__SECTION__KEY overrides one key.
Signals: SIGTERM stops the server, SIGHUP reloads the configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration: report every error, and print the effective settings
    Check(check::CheckArguments),
    #[command(flatten)]
    Control(control::ControlCommand),
    /// Mint time-limited credentials
    Credentials(credentials::CredentialsArguments),
    /// Measure a TURN server of your own
    #[cfg(feature = "bench")]
    Bench(bench::BenchArguments),
}

/// Runs the command line.
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
