//! Formats responses for people.

use std::io::Write as _;

use serde_json::Value;

/// Prints. A reader that closed its end is no error.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// Formats for programs.
pub(super) fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// `3d 4h`, `12m 5s`: two units are precise enough.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `1.4 MiB`.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `1.4 Mbit/s`.
fn rate(bits: u64) -> String {
    let value = bits as f64;
    match bits {
        0..1000 => format!("{bits} bit/s"),
        1000..1_000_000 => format!("{:.1} kbit/s", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} Mbit/s", value / 1e6),
        _ => format!("{:.1} Gbit/s", value / 1e9),
    }
}

/// Columns as wide as their widest cell; the last is not padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell: &String| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `relay status`.
pub(super) fn status(status: &Value) -> String {
    let ready = &status["readiness"];
    let reasons: Vec<_> = ready["reasons"].as_array().into_iter().flatten().map(text).collect();
    let state = if reasons.is_empty() {
        "ready".to_owned()
    } else {
        format!("not ready: {}", reasons.join(", "))
    };
    let uptime = span(status["uptime_seconds"].as_f64().unwrap_or_default());
    let reload = if status["last_reload"]["successful"] == true {
        "in force"
    } else {
        "the latest reload failed"
    };
    let mut rows = vec![
        vec!["version".to_owned(), text(&status["version"])],
        vec!["uptime".to_owned(), uptime],
        vec!["state".to_owned(), format!("{}, {state}", text(&ready["phase"]))],
        vec![
            "allocations".to_owned(),
            format!(
                "{} of {}",
                text(&ready["allocations"]),
                text(&ready["allocations_limit"])
            ),
        ],
        vec![
            "relay ports".to_owned(),
            format!(
                "{} of {} free",
                text(&ready["relay_ports_free"]),
                text(&ready["relay_ports_limit"])
            ),
        ],
        vec!["configuration".to_owned(), reload.to_owned()],
        vec!["revoked users".to_owned(), text(&status["revocations"])],
    ];
    if !ready["file_descriptors_free"].is_null() {
        rows.push(vec![
            "descriptors".to_owned(),
            format!("{} free", text(&ready["file_descriptors_free"])),
        ]);
    }
    let mut workers = vec![["worker", "allocations", "streams", "busy"].map(str::to_owned).to_vec()];
    for (index, worker) in status["workers"].as_array().into_iter().flatten().enumerate() {
        workers.push(vec![
            index.to_string(),
            text(&worker["allocations"]),
            text(&worker["streams"]),
            format!("{:.1} s", worker["busy_seconds"].as_f64().unwrap_or_default()),
        ]);
    }
    format!("{}\n{}", table(&rows), table(&workers))
}

/// `relay sessions`.
pub(super) fn sessions(sessions: &[Value]) -> String {
    let heads = ["ID", "AGE", "USER", "CLIENT", "OVER", "RELAYED", "UP", "DOWN", "RATE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for session in sessions {
        let relayed: Vec<_> = session["relayed"].as_array().into_iter().flatten().map(text).collect();
        rows.push(vec![
            text(&session["id"]),
            span(session["age_seconds"].as_f64().unwrap_or_default()),
            text(&session["user"]),
            text(&session["client"]),
            text(&session["transport"]),
            relayed.join(" "),
            bytes(number(&session["up_bytes"])),
            bytes(number(&session["down_bytes"])),
            session["bits_per_second"].as_u64().map(rate).unwrap_or_default(),
        ]);
    }
    if sessions.is_empty() {
        "no sessions".to_owned()
    } else {
        table(&rows)
    }
}

/// `relay session`.
pub(super) fn session(session: &Value) -> String {
    let list = |name: &str, line: fn(&Value) -> String| {
        let items = session[name].as_array().into_iter().flatten();
        items.map(line).collect::<Vec<_>>().join("\n               ")
    };
    let expires = |it: &Value| span(it["expires_in_seconds"].as_f64().unwrap_or_default());
    let relayed: Vec<_> = session["relayed"].as_array().into_iter().flatten().map(text).collect();
    let traffic = |packets: &str, octets: &str| {
        format!(
            "{} packets, {}",
            text(&session[packets]),
            bytes(number(&session[octets]))
        )
    };
    let mut rows = vec![
        vec!["id".to_owned(), text(&session["id"])],
        vec![
            "user".to_owned(),
            format!("{} ({})", text(&session["user"]), text(&session["username"])),
        ],
        vec![
            "client".to_owned(),
            format!(
                "{} over {} at {}",
                text(&session["client"]),
                text(&session["transport"]),
                text(&session["server"])
            ),
        ],
        vec!["relayed".to_owned(), relayed.join(" ")],
        vec![
            "age".to_owned(),
            span(session["age_seconds"].as_f64().unwrap_or_default()),
        ],
        vec!["expires in".to_owned(), expires(session)],
        vec!["up".to_owned(), traffic("up_packets", "up_bytes")],
        vec!["down".to_owned(), traffic("down_packets", "down_bytes")],
        vec![
            "permissions".to_owned(),
            list("permitted_peers", |it| {
                let left = span(it["expires_in_seconds"].as_f64().unwrap_or_default());
                format!("{} for {left}", text(&it["peer"]))
            }),
        ],
        vec![
            "channels".to_owned(),
            list("bound_channels", |it| {
                let left = span(it["expires_in_seconds"].as_f64().unwrap_or_default());
                format!("{:#06x} to {} for {left}", number(&it["number"]), text(&it["peer"]))
            }),
        ],
    ];
    if let Some(stream) = session.get("stream") {
        let round_trip = stream["round_trip_ms"]
            .as_f64()
            .map_or("unknown".to_owned(), |it| format!("{it:.1} ms"));
        let queued = bytes(number(&stream["queued_bytes"]));
        let age = text(&stream["queue_age_ms"]);
        rows.push(vec![
            "stream".to_owned(),
            format!("round trip {round_trip}, queued {queued} for {age} ms"),
        ]);
    }
    table(&rows)
}

/// `relay revocations`.
pub(super) fn revocations(revocations: &Value) -> String {
    let mut rows = vec![["USER", "UNTIL (Unix time)"].map(str::to_owned).to_vec()];
    for revocation in revocations.as_array().into_iter().flatten() {
        rows.push(vec![text(&revocation["user"]), text(&revocation["until"])]);
    }
    if rows.len() == 1 {
        "no user is revoked".to_owned()
    } else {
        table(&rows)
    }
}

/// `relay revoke`.
pub(super) fn revoked(answer: &Value) -> String {
    let kept = if answer["kept"] == true {
        ""
    } else {
        "; a restart forgets it, because the server has no state_dir"
    };
    format!(
        "revoked {}: credentials that expire by {} are refused; {} sessions ended{kept}",
        text(&answer["user"]),
        text(&answer["until"]),
        text(&answer["ended"])
    )
}

/// `relay reload`.
pub(super) fn reload(report: &Value) -> String {
    let list = |name: &str, label: &str| {
        let items = report[name].as_array().into_iter().flatten();
        items.map(|it| format!("{label}: {}\n", text(it))).collect::<String>()
    };
    let outcome = match report["outcome"].as_str() {
        Some("success") => "reloaded",
        Some("partial") => "reloaded in part",
        _ => "not reloaded: the previous configuration stays in force",
    };
    format!(
        "{}{}{}{outcome}",
        report["diagnostics"].as_str().unwrap_or_default(),
        list("failed", "not reloaded"),
        list("waiting", "needs a restart")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_bytes_and_rates_are_short_enough_to_read() {
        assert_eq!(
            [59.9, 61.0, 3_700.0, 90_000.0].map(span),
            ["59s", "1m 1s", "1h 1m", "1d 1h"]
        );
        assert_eq!(
            [5, 2048, 5 << 20, 3 << 40].map(bytes),
            ["5 B", "2.0 KiB", "5.0 MiB", "3.0 TiB"]
        );
        assert_eq!(
            [999, 1500, 2_000_000].map(rate),
            ["999 bit/s", "1.5 kbit/s", "2.0 Mbit/s"]
        );
    }
}
