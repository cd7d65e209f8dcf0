//! Reports the listeners once everything serves: as a block on a terminal or in a text log, as one
//! event in a JSON log.

use core::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;

use crate::config::settings::{ListenerSettings, Settings};
use crate::control::api::RtcConfiguration;
use crate::edge::listeners::ListenAddresses;
use crate::turn::config::RelayAddress;
use crate::turn::login::credential::MintedCredential;

/// Lines of the block, left column first.
type Lines = Vec<(&'static str, String)>;

/// Prints the listeners and addresses. `trial`: a credential to try the server with, on a first
/// run.
pub fn print(settings: &Settings, places: &ListenAddresses, notes: &[String], trial: Option<&MintedCredential>) {
    let lines = lines(settings, places, notes);
    let configuration = trial.map(|credential| {
        serde_json::to_string(&RtcConfiguration::new(&settings.api, credential, settings.api.forced))
            .unwrap_or_default()
    });
    if settings.log.json {
        let text = |wanted: &str| {
            let values = lines
                .iter()
                .filter(|(name, _)| *name == wanted)
                .map(|(_, value)| value.as_str());
            values.collect::<Vec<_>>().join("; ")
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            udp = text("udp"),
            dtls = text("dtls"),
            tcp = text("tcp"),
            tls = text("tls"),
            https = text("https"),
            admin = text("admin"),
            relay = text("relay"),
            uris = text("uris"),
            workers = settings.workers,
            note = text("note"),
            rtc_configuration = configuration,
            "ready"
        );
        return;
    }
    let mut block = format!("relay {} is ready\n", env!("CARGO_PKG_VERSION"));
    for (name, value) in &lines {
        let _ = writeln!(block, "  {name:<7} {value}");
    }
    if let (Some(configuration), Some(credential)) = (configuration, trial) {
        let _ = writeln!(
            block,
            "\nFor new RTCPeerConnection(), to try it out:\n  {configuration}"
        );
        if let Some(command) = try_command(places, credential) {
            let _ = writeln!(block, "From a shell, with coturn's client:\n  {command}");
        }
    }
    // An error means that standard output is closed.
    let mut out = io::stdout().lock();
    let _ = out.write_all(block.as_bytes()).and_then(|()| out.flush());
}

/// Whether standard output is a terminal.
pub fn is_watched() -> bool {
    io::stdout().is_terminal()
}

fn lines(settings: &Settings, places: &ListenAddresses, notes: &[String]) -> Lines {
    let mut lines = Lines::new();
    let mut list = |name, addresses: Vec<SocketAddr>| {
        if !addresses.is_empty() {
            let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
            lines.push((name, addresses.join(", ")));
        }
    };
    let over_tcp = |wanted: fn(&ListenerSettings) -> bool| {
        places
            .tcp
            .iter()
            .filter(|(_, listener)| wanted(listener))
            .map(|(address, _)| *address)
            .collect()
    };
    list("udp", places.udp.clone());
    list("dtls", places.dtls.clone());
    list("tcp", over_tcp(|listener| listener.tcp));
    list("tls", over_tcp(|listener| listener.tls));
    if settings.api.enabled {
        list("https", over_tcp(|listener| listener.https));
    }
    if let Some(address) = places.admin {
        lines.push(("admin", format!("http://{address}/metrics /healthz /readyz")));
    }
    let ports = &settings.turn.relay.ports;
    for RelayAddress { bind, announced } in [settings.turn.relay.ipv4, settings.turn.relay.ipv6]
        .into_iter()
        .flatten()
    {
        let announced = if bind == announced {
            String::new()
        } else {
            format!(", announced as {announced}")
        };
        lines.push((
            "relay",
            format!("{bind} ports {}-{}{announced}", ports.start(), ports.end()),
        ));
    }
    if settings.api.enabled && !settings.api.uris.is_empty() {
        lines.push(("uris", settings.api.uris.join(" ")));
    }
    lines.push(("realm", settings.realm.clone()));
    lines.push(("workers", settings.workers.to_string()));
    lines.extend(notes.iter().map(|note| ("note", note.clone())));
    lines
}

/// A command that relays ten messages through this server over the first protocol it serves. With
/// `-y` the client is its own peer, from one relayed address to another, so that no peer needs to
/// be allowed. With `-s` it sends indications, because it uses channel numbers that RFC 8656 has
/// removed.
fn try_command(places: &ListenAddresses, credential: &MintedCredential) -> Option<String> {
    let udp = places.udp.first().map(|address| (*address, ""));
    let tcp = places
        .tcp
        .iter()
        .find(|(_, listener)| listener.tcp)
        .map(|(address, _)| (*address, "-t "));
    let (address, flags) = udp.or(tcp)?;
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
        ip if ip.is_unspecified() => "::1".to_owned(),
        ip => ip.to_string(),
    };
    let MintedCredential { username, password } = credential;
    Some(format!(
        "turnutils_uclient {flags}-s -y -n 10 -u '{username}' -w '{password}' -p {} {host}",
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    /// One TCP listener for each of `tcp`, `tls` and `https`.
    fn places(listener: &ListenerSettings) -> ListenAddresses {
        let over_tcp = |address, change: fn(&mut ListenerSettings)| {
            let mut listener = listener.clone();
            change(&mut listener);
            (at(address), listener)
        };
        ListenAddresses {
            udp: vec![at("192.0.2.1:3478"), at("[2001:db8::1]:3478")],
            dtls: vec![at("192.0.2.1:5349")],
            tcp: vec![
                over_tcp("192.0.2.1:81", |l| l.tls = true),
                over_tcp("192.0.2.1:82", |l| l.https = true),
                over_tcp("192.0.2.1:83", |l| l.tcp = true),
            ],
            admin: Some(at("127.0.0.1:13478")),
        }
    }

    #[test]
    fn what_listens_where_is_told_and_nothing_of_what_is_switched_off() {
        let mut settings = sample::settings(sample::BASE);
        settings.api.enabled = true;
        settings.workers = 3;
        settings.turn.relay.ports = 50_000..=50_999;
        let places = places(&settings.listeners[0]);
        let told = |settings: &Settings, places: &ListenAddresses| lines(settings, places, &["a note".to_owned()]);
        settings.api.uris = vec!["turn:192.0.2.1".into(), "turns:192.0.2.1".into()];
        let expected: Vec<(&str, &str)> = vec![
            ("udp", "192.0.2.1:3478, [2001:db8::1]:3478"),
            ("dtls", "192.0.2.1:5349"),
            ("tcp", "192.0.2.1:83"),
            ("tls", "192.0.2.1:81"),
            ("https", "192.0.2.1:82"),
            ("admin", "http://127.0.0.1:13478/metrics /healthz /readyz"),
            ("relay", "127.0.0.1 ports 50000-50999, announced as 192.0.2.1"),
            ("uris", "turn:192.0.2.1 turns:192.0.2.1"),
            ("realm", "relay"),
            ("workers", "3"),
            ("note", "a note"),
        ];
        let all = told(&settings, &places);
        let all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(all, expected);

        let has = |settings: &Settings, name: &str| {
            let lines = told(settings, &places);
            lines.iter().any(|(told, _)| *told == name)
        };
        settings.api.uris.clear();
        assert!(has(&settings, "https") && !has(&settings, "uris"));
        settings.api.uris.push("turn:192.0.2.1".into());
        settings.api.enabled = false;
        assert!(!has(&settings, "https") && !has(&settings, "uris"));
        let address = settings.turn.relay.ipv4.expect("it has one");
        settings.turn.relay.ipv4 = Some(RelayAddress {
            announced: address.bind,
            ..address
        });
        let lines = told(&settings, &ListenAddresses::default());
        assert_eq!(lines[0], ("relay", "127.0.0.1 ports 50000-50999".to_owned()));
    }

    #[test]
    fn the_command_to_try_it_with_takes_a_way_that_is_served() {
        let mut places = places(&sample::settings(sample::BASE).listeners[0]);
        let credential = MintedCredential {
            username: "user".into(),
            password: "password".into(),
        };
        let mut ends = |change: fn(&mut ListenAddresses)| {
            change(&mut places);
            let command = try_command(&places, &credential)?;
            let (_, end) = command.split_once(" -w 'password' -p ").expect("a password");
            Some((command.contains(" -t "), end.to_owned()))
        };
        let over = |tcp, end: &str| Some((tcp, end.to_owned()));
        assert_eq!(ends(|_| ()), over(false, "3478 192.0.2.1"));
        assert_eq!(
            ends(|it| it.udp = vec![at("0.0.0.0:3478")]),
            over(false, "3478 127.0.0.1")
        );
        assert_eq!(ends(|it| it.udp = vec![at("[::]:3478")]), over(false, "3478 ::1"));
        assert_eq!(
            ends(|it| it.udp = vec![at("[2001:db8::1]:1")]),
            over(false, "1 2001:db8::1")
        );
        assert_eq!(ends(|it| it.udp.clear()), over(true, "83 192.0.2.1"));
        assert_eq!(ends(|it| it.tcp.truncate(2)), None, "nothing that client speaks");
    }
}
