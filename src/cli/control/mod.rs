//! Commands that ask a running server, or order it to do something, over its control socket.

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

/// The server said no, or there is no such thing.
const EXIT_REFUSED: u8 = 1;
/// There is no server to ask.
const EXIT_NO_SERVER: u8 = 69;

/// Which server, and how to show the answer.
#[derive(Debug, Args)]
struct Common {
    /// The server's control socket [default: the first there is of /run/relay/control.sock,
    /// /var/lib/relay/control.sock and $XDG_STATE_HOME/relay/control.sock]
    #[arg(long, value_name = "PATH", env = "RELAY_CONTROL_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

/// What can be asked and ordered.
#[derive(Debug, Subcommand)]
pub(super) enum ControlCommand {
    /// Show version, phase, limits and their use, and the load of each worker
    Status(Plain),
    /// List the allocations
    Sessions(SessionsArguments),
    /// Show one allocation in full: peers, channels, deadlines, queue
    Session(OneSession),
    /// End one allocation
    End(OneSession),
    /// Refuse a user's credentials and end its allocations
    Revoke(RevokeArguments),
    /// List the revoked users
    Revocations(Plain),
    /// Take no new clients, and exit when no allocation is left
    Drain(DrainArguments),
    /// Take new clients again
    Undrain(Plain),
    /// Read the configuration again, and show what came of it
    Reload(Plain),
    /// Change the log level of the running server
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
    /// Of this user: a name, a userid, or a whole username
    #[arg(long)]
    user: Option<String>,
    /// Of clients in this network
    #[arg(long, value_name = "NETWORK")]
    client: Option<String>,
    /// With a permission or channel to a peer in this network
    #[arg(long, value_name = "NETWORK")]
    peer: Option<String>,
    /// Of clients that came over udp, tcp, tls or dtls
    #[arg(long)]
    transport: Option<String>,
    /// On the forced path, or the other
    #[arg(long, value_name = "forced|other")]
    path: Option<String>,
    /// The first ones by this instead of all of them by age
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// How many with --sort
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Bytes relayed so far
    Bytes,
    /// Bits per second, counted for one second
    Rate,
}

/// `relay session`, `relay end`.
#[derive(Debug, Args)]
pub(super) struct OneSession {
    #[command(flatten)]
    common: Common,
    /// The session's id, as the log and `relay sessions` show it
    id: String,
}

/// `relay revoke`.
#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(flatten)]
    common: Common,
    /// A static user's name, or the userid of time-limited usernames
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
    /// ControlConnection for new clients that can follow, one for each IP version
    #[arg(long, value_name = "IP:PORT")]
    to: Vec<SocketAddr>,
    /// Exit after this time even if there are allocations left
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    deadline: Option<u64>,
}

/// `relay log`.
#[derive(Debug, Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    common: Common,
    /// As `log.level`: debug, "info,relay::shard=debug"; `configured` takes the change back
    level: String,
    /// For this time only
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
    during: Option<u64>,
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).ok_or("a duration is written 90s, 15m or 1h30m")?;
    Ok(duration.as_secs().max(1))
}

/// Does what the command says.
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
                "draining: no new clients; the server exits when no allocation is left",
            )
        }
        ControlCommand::Undrain(Plain { common }) => {
            ControlConnection::connect(common.socket.as_deref())?.order("DELETE", "/v1/drain", None)?;
            done(common, "taking new clients")
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
