//! `relay credentials mint`: mints a time-limited credential with the secret of the configuration.

use core::fmt;
use core::time::Duration;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::config::reader::diagnostic::Diagnostics;
use crate::config::settings::Settings;
use crate::config::{Purpose, load_for, parse_duration};
use crate::control::api::{RtcConfiguration, turn_uris};
use crate::machine::{Machine, ThisMachine};
use crate::turn::login::credential::{Credentials, MintError, MintedCredential};

/// Arguments of `relay credentials`.
#[derive(Debug, clap::Args)]
pub(super) struct CredentialsArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Mint a credential with the configured secret
    Mint(Mint),
}

#[derive(Debug, clap::Args)]
struct Mint {
    /// Limit the lifetime to this, as "90s", "15m", "12h" or in seconds [default: api.default_ttl]
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Mint for this user id, by which quotas count and which logs show [default: a random one]
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Mint a credential for the ports of forced relay only
    #[arg(long)]
    forced: bool,
    /// Print in this format
    #[arg(long, value_enum, default_value_t = Format::Ice)]
    format: Format,
}

/// The output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// JSON for `new RTCPeerConnection(…)`
    Ice,
    /// JSON of the TURN REST draft: username, password, ttl, uris
    Rest,
    /// Two lines: username, password
    Plain,
}

/// Prints a credential. Exit status 0, or 1 with the reason on standard error.
pub(super) fn run(config: Option<&Path>, arguments: &CredentialsArguments) -> ExitCode {
    let Command::Mint(wish) = &arguments.command;
    match mint(config, &ThisMachine::default(), wish) {
        // A reader that closed its end needs no more.
        Ok(text) => {
            let mut out = io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let seconds = || text.trim().parse().ok().map(Duration::from_secs);
    let ttl = parse_duration(text).or_else(seconds).filter(|ttl| ttl.as_secs() > 0);
    ttl.ok_or_else(|| "write it as 90s, 15m, 12h, 1h30m, or as a number of seconds".to_owned())
}

/// Why there is no credential.
enum Failure {
    Configuration(Diagnostics),
    /// The server has not generated its secret yet, or keeps it elsewhere.
    NoSecret(String),
    /// Longer than `credentials.max_ttl`.
    TooLong(Duration),
    Mint(MintError),
    /// No listener and no URI is on the ports of forced relay.
    NoForcedPath,
    Random(String),
    Json(serde_json::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(mistakes) => write!(f, "{}", mistakes.for_stderr().trim_end()),
            Self::NoSecret(dir) => write!(
                f,
                "there is no secret to mint with: the configuration has none, and none was generated in {dir}. Start the \
                 server once, name its configuration with --config, or set `credentials.secret_file`"
            ),
            Self::TooLong(ttl) => write!(
                f,
                "{} seconds are longer than the server accepts: shorten --ttl, or raise `credentials.max_ttl`",
                ttl.as_secs()
            ),
            Self::Mint(error) => error.fmt(f),
            Self::NoForcedPath => f.write_str(
                "no listener, and no URI in `api.uris`, is on the ports of forced relay: check `forced_relay.ports`",
            ),
            Self::Random(error) => write!(f, "the system returns no random bytes: {error}"),
            Self::Json(error) => error.fmt(f),
        }
    }
}

fn mint(config: Option<&Path>, env: &dyn Machine, wish: &Mint) -> Result<String, Failure> {
    let settings = load_for(Purpose::Mint, config, env)
        .map_err(Failure::Configuration)?
        .settings;
    let ttl = wish.ttl.unwrap_or(settings.api.default_ttl);
    let user = match &wish.user {
        Some(user) => user.clone(),
        None => random_id()?,
    };
    let forced = wish.forced || settings.api.forced;
    let mint = if forced {
        Credentials::mint_forced
    } else {
        Credentials::mint
    };
    let credential = mint(&settings.turn.credentials, env.now(), ttl, Some(&user)).map_err(|error| match error {
        MintError::NoSecret => Failure::NoSecret(settings.state_dir.display().to_string()),
        MintError::Lifetime => Failure::TooLong(ttl),
        MintError::Userid => Failure::Mint(error),
    })?;
    if forced && settings.api.forced_uris.is_empty() {
        return Err(Failure::NoForcedPath);
    }
    print(&settings, &credential, forced, ttl, wish.format).map_err(Failure::Json)
}

/// Opaque, so that it reveals nothing; random, so that it has its own quota.
fn random_id() -> Result<String, Failure> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Random(error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn print(
    settings: &Settings,
    credential: &MintedCredential,
    forced: bool,
    ttl: Duration,
    format: Format,
) -> Result<String, serde_json::Error> {
    let MintedCredential { username, password } = credential;
    Ok(match format {
        Format::Plain => format!("{username}\n{password}\n"),
        Format::Ice => serde_json::to_string_pretty(&RtcConfiguration::new(&settings.api, credential, forced))? + "\n",
        Format::Rest => {
            let uris = turn_uris(&settings.api, forced);
            let reply = serde_json::json!({
                "username": username, "password": password, "ttl": ttl.as_secs(), "uris": uris,
            });
            serde_json::to_string_pretty(&reply)? + "\n"
        }
    })
}
