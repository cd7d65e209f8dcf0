//! The command line: each subcommand does one thing and ends.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod credentials;

/// A TURN/STUN server that gets real-time media through when nothing but port 443 is open.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// Configuration file; without it /etc/relay/relay.toml if that is there, else the defaults
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge a configuration: every mistake at once, and what is in force
    Check(check::Arguments),
    /// Time-limited credentials
    Credentials(credentials::Arguments),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config.as_deref();
    match arguments.command {
        Command::Check(arguments) => check::run(config, &arguments),
        Command::Credentials(arguments) => credentials::run(config, &arguments),
    }
}
