//! What a client can bring into the operator's log.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use relay::base::address::{FiveTuple, Transport};
use relay::config::settings::{ClientIp, LogSettings};
use relay::daemon::log::{is_harmful, subscriber};
use relay::shard::{LogClient, log_event};
use relay::turn::output::{EndReason, Event, Traffic};
use relay::turn::types::RelayedAddr;
use tracing::Dispatch;

use super::Bytes;

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static TEXT: Dispatch = dispatch(false);
    static JSON: Dispatch = dispatch(true);
}

/// Writes to [`WRITTEN`] of its thread.
struct Sink;

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dispatch(json: bool) -> Dispatch {
    let settings = LogSettings {
        level: "info".to_owned(),
        json,
        client_ip: ClientIp::Full,
        allocation_lines_per_second: 1000,
    };
    Dispatch::new(subscriber(&settings, || Sink).expect("\"info\" is a level"))
}

/// F13: any username in the lines about an allocation. A line stays one line, does nothing to a terminal, and in JSON
/// stays an object with the same fields.
pub(crate) fn log_line(input: &[u8]) {
    let mut input = Bytes(input);
    let choices = input.byte();
    let (json, ended) = (choices & 1 != 0, choices & 2 != 0);
    let client = [LogClient::Full, LogClient::Truncated, LogClient::Off][usize::from(choices >> 2) % 3];
    let username: Arc<str> = String::from_utf8_lossy(input.0).into();
    let event = event(Arc::clone(&username), ended);
    let dispatch = if json { &JSON } else { &TEXT };
    dispatch.with(|dispatch| tracing::dispatcher::with_default(dispatch, || log_event(&event, 3, client)));
    let line = WRITTEN.with_borrow_mut(std::mem::take);

    let line = String::from_utf8(line).expect("a log is UTF-8");
    let line = line.strip_suffix('\n').expect("a line has an end");
    assert!(!line.contains(is_harmful), "{line:?}");
    assert!(line.len() < 4096, "{}", line.len());
    let is_plain = username.len() <= 128 && username.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    let is_word = is_plain && !username.is_empty() && !username.contains(['=', '"', '\'']);
    if json {
        let object: serde_json::Value = serde_json::from_str(line).expect("a line is an object");
        assert_eq!(object["level"], "INFO");
        assert_eq!(object["target"], "relay::allocation");
        assert_eq!(
            object["message"],
            if ended { "allocation ended" } else { "allocation began" }
        );
        assert_eq!(object["id"], ID);
        assert!(!is_plain || object["user"] == *username, "{line}");
    } else {
        assert_eq!(names(line), NAMES[usize::from(ended)], "{line}");
        assert!(!is_word || line.contains(&*format!(" user={username}")), "{line}");
    }
}

const ID: &str = "0123456789abcdef00000000";

const NAMES: [&[&str]; 2] = [
    &["id", "client", "transport", "relayed", "user"],
    &[
        "id",
        "client",
        "transport",
        "relayed",
        "user",
        "up_bytes",
        "up_packets",
        "down_bytes",
        "down_packets",
        "seconds",
        "why",
    ],
];

/// The names of the fields behind the message, which has no `=`.
fn names(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = line;
    while let Some((before, value)) = rest.split_once('=') {
        names.push(before.rsplit(' ').next().unwrap_or_default());
        rest = match value.strip_prefix('"') {
            None => value.find(' ').map_or("", |end| &value[end..]),
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                &quoted[end.expect("a quote at the end") + 1..]
            }
        };
    }
    names
}

fn event(username: Arc<str>, ended: bool) -> Event {
    let id = ID.parse().expect("a session id");
    let five_tuple = FiveTuple {
        client: "192.0.2.1:50000".parse().expect("an address"),
        server: "198.51.100.1:443".parse().expect("an address"),
        transport: Transport::Tls,
    };
    let relayed = [
        Some(RelayedAddr("198.51.100.1:49152".parse().expect("an address"))),
        None,
    ];
    if ended {
        Event::AllocationEnded {
            id,
            five_tuple,
            username,
            relayed,
            traffic: Traffic::default(),
            age: Duration::from_secs(600),
            why: EndReason::Expired,
        }
    } else {
        Event::AllocationBegan {
            id,
            five_tuple,
            username,
            relayed,
        }
    }
}
