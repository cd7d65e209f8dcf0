//! Commands that query or control a running server over its control socket.

mod connection;
mod show;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::connection::{ControlConnection, ControlFailure};
use crate::config::parse_duration;
use crate::net::clock::unix_now;

/// The server refuses the request, or the object does not exist.
const EXIT_REFUSED: u8 = 1;
/// No server can be reached.
const EXIT_NO_SERVER: u8 = 69;

/// Arguments of every command.
#[derive(Debug, Args)]
struct Common {
    /// Use this control socket [default: the first that exists of /run/relay/control.sock,
    /// /var/lib/relay/control.sock and $XDG_STATE_HOME/relay/control.sock]
    #[arg(long, value_name = "PATH", env = "RELAY_CONTROL_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum ControlCommand {
    /// Show version, phase, limits and usage, and the load of each worker
    Status(Plain),
    /// List allocations
    Sessions(SessionsArguments),
    /// Show one allocation in full: peers, channels, deadlines, queue
    Session(OneSession),
    /// End one allocation
    End(OneSession),
    /// Refuse a user's credentials, and end the user's allocations
    Revoke(RevokeArguments),
    /// List revoked users
    Revocations(Plain),
    /// Refuse new clients, and exit when no allocation is left
    Drain(DrainArguments),
    /// Accept new clients again
    Undrain(Plain),
    /// Reload the configuration, and show the result
    Reload(Plain),
    /// Change the log level
    Log(LogArguments),
}

/// A command without arguments of its own.
#[derive(Debug, Args)]
pub(super) struct Plain {
    #[command(flatten)]
    common: Common,
}

/// `relay sessions`.
#[derive(Debug, Args)]
pub(super) struct SessionsArguments {
    #[command(flatten)]
    common: Common,
    /// List those of this user: a name, a userid, or a whole username
    #[arg(long)]
    user: Option<String>,
    /// List those of clients in this network
    #[arg(long, value_name = "NETWORK")]
    client: Option<String>,
    /// List those with a permission or channel to a peer in this network
    #[arg(long, value_name = "NETWORK")]
    peer: Option<String>,
    /// List those of clients over udp, tcp, tls or dtls
    #[arg(long)]
    transport: Option<String>,
    /// List those on the forced path, or on other paths
    #[arg(long, value_name = "forced|other")]
    path: Option<String>,
    /// List only the first, sorted by this, instead of all by age
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// List this many with --sort
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Bytes relayed so far
    Bytes,
    /// Bits per second, measured for one second
    Rate,
}

/// `relay session`, `relay end`.
#[derive(Debug, Args)]
pub(super) struct OneSession {
    #[command(flatten)]
    common: Common,
    /// Id of the allocation, as in the log and `relay sessions`
    id: String,
}

/// `relay revoke`.
#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(flatten)]
    common: Common,
    /// Name of a static user, or userid of time-limited usernames
    user: String,
    /// Refuse credentials that expire within this time [default: credentials.max_ttl]
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
    within: Option<u64>,
    /// Take the revocation back
    #[arg(long, conflicts_with = "within")]
    undo: bool,
}

/// `relay drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    common: Common,
    /// Redirect new clients that support it to this server; one for each IP version
    #[arg(long, value_name = "IP:PORT")]
    to: Vec<SocketAddr>,
    /// Exit after this time even if allocations are left
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    deadline: Option<u64>,
}

/// `relay log`.
#[derive(Debug, Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    common: Common,
    /// Filter as in `log.level` (debug, "info,relay::shard=debug"), or `configured` to return to
    /// the configuration
    level: String,
    /// Return to the configuration after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
    during: Option<u64>,
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).ok_or("write it as 90s, 15m or 1h30m")?;
    Ok(duration.as_secs().max(1))
}

/// Runs the command.
pub(super) fn run(command: &ControlCommand) -> ExitCode {
    match answer(command) {
        Ok(text) => {
            show::print(&text);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("relay: {failure}");
            match failure {
                ControlFailure::Refused(_) => EXIT_REFUSED.into(),
                ControlFailure::NoServer(_) => EXIT_NO_SERVER.into(),
            }
        }
    }
}

fn answer(command: &ControlCommand) -> Result<String, ControlFailure> {
    match command {
        ControlCommand::Status(Plain { common }) => ask(common, "/v1/status", show::status),
        ControlCommand::Revocations(Plain { common }) => ask(common, "/v1/revocations", show::revocations),
        ControlCommand::Session(OneSession { common, id }) => ask(common, &session(id), show::session),
        ControlCommand::Sessions(arguments) => sessions(arguments),
        ControlCommand::End(OneSession { common, id }) => {
            ControlConnection::connect(common.socket.as_deref())?.order("DELETE", &session(id), None)?;
            done(common, &format!("ended {id}"))
        }
        ControlCommand::Revoke(arguments) => revoke(arguments),
        ControlCommand::Drain(DrainArguments { common, to, deadline }) => {
            let body = json!({ "to": to, "deadline_seconds": deadline });
            ControlConnection::connect(common.socket.as_deref())?.order("POST", "/v1/drain", Some(&body))?;
            done(
                common,
                "draining: the server refuses new clients and exits when no allocation is left",
            )
        }
        ControlCommand::Undrain(Plain { common }) => {
            ControlConnection::connect(common.socket.as_deref())?.order("DELETE", "/v1/drain", None)?;
            done(common, "accepting new clients")
        }
        ControlCommand::Reload(Plain { common }) => {
            let report = ControlConnection::connect(common.socket.as_deref())?.order("POST", "/v1/reload", None)?;
            let text = if common.json {
                show::json(&report)
            } else {
                show::reload(&report)
            };
            if report["outcome"] == "failure" {
                return Err(ControlFailure::Refused(text));
            }
            Ok(text)
        }
        ControlCommand::Log(LogArguments { common, level, during }) => {
            let body = json!({ "level": level, "for_seconds": during });
            ControlConnection::connect(common.socket.as_deref())?.order("POST", "/v1/log", Some(&body))?;
            done(common, "changed")
        }
    }
}

fn session(id: &str) -> String {
    format!("/v1/sessions/{}", connection::encoded(id))
}

fn ask(common: &Common, path: &str, text: fn(&Value) -> String) -> Result<String, ControlFailure> {
    let answer = ControlConnection::connect(common.socket.as_deref())?.order("GET", path, None)?;
    Ok(if common.json {
        show::json(&answer)
    } else {
        text(&answer)
    })
}

fn done(common: &Common, text: &str) -> Result<String, ControlFailure> {
    Ok(if common.json {
        show::json(&json!({ "ok": true }))
    } else {
        text.to_owned()
    })
}

fn sessions(arguments: &SessionsArguments) -> Result<String, ControlFailure> {
    let common = &arguments.common;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [
        ("user", &arguments.user),
        ("client", &arguments.client),
        ("peer", &arguments.peer),
        ("transport", &arguments.transport),
        ("path", &arguments.path),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match arguments.sort {
        Some(Sort::Bytes) => query.append_pair("sort", "bytes"),
        Some(Sort::Rate) => query.append_pair("sort", "rate"),
        None => &mut query,
    };
    let limit = if arguments.sort.is_some() {
        arguments.limit
    } else {
        1000
    };
    query.append_pair("limit", &limit.to_string());
    let query = query.finish();
    let mut server = ControlConnection::connect(common.socket.as_deref())?;
    let mut all: Vec<Value> = Vec::new();
    let mut next = String::new();
    loop {
        let mut answer = server.order("GET", &format!("/v1/sessions?{query}{next}"), None)?;
        if let Some(page) = answer["sessions"].as_array_mut() {
            all.append(page);
        }
        match answer["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    Ok(if common.json {
        show::json(&Value::Array(all))
    } else {
        show::sessions(&all)
    })
}

fn revoke(arguments: &RevokeArguments) -> Result<String, ControlFailure> {
    let RevokeArguments {
        common,
        user,
        within,
        undo,
    } = arguments;
    let mut server = ControlConnection::connect(common.socket.as_deref())?;
    if *undo {
        server.order(
            "DELETE",
            &format!("/v1/revocations/{}", connection::encoded(user)),
            None,
        )?;
        return done(common, &format!("{user} may log in again"));
    }
    let until = within.map(|seconds| unix_now().0.saturating_add(seconds));
    let answer = server.order(
        "POST",
        "/v1/revocations",
        Some(&json!({ "user": user, "until": until })),
    )?;
    Ok(if common.json {
        show::json(&answer)
    } else {
        show::revoked(&answer)
    })
}
