//! The `relay` program in its namespace, configured as `docs/configuration.md` says.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::http;
use crate::lab::{CLIENTS, Lab, Namespace, RELAY, RELAY_HOST, SFU_NETWORK};
use crate::page::ORIGIN;
use crate::process::{Output, Process, run, tail, write_private};
use crate::server::{RELAY_PORTS, SECRET};

const PROGRAM: &str = env!("CARGO_BIN_EXE_relay");
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 13_478);
const API_KEY: &str = "b1a4c7d2e95f4f60a83c1d0e7b26f519";
/// `shutdown_timeout` below, and some time for the machine.
const STOP: Duration = Duration::from_secs(8);

/// The relays of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The only one of most labs.
    First,
    /// Another one, on the machine of the second client.
    Second,
}

impl Place {
    /// The name of its files.
    const fn name(self) -> &'static str {
        match self {
            Self::First => "relay",
            Self::Second => "relay2",
        }
    }

    pub(crate) const fn address(self) -> Ipv4Addr {
        match self {
            Self::First => RELAY,
            Self::Second => CLIENTS[1],
        }
    }

    fn namespace(self, lab: &Lab) -> Namespace {
        match self {
            Self::First => lab.relay().clone(),
            Self::Second => lab.client(1).clone(),
        }
    }
}

/// A running relay.
pub(crate) struct Relay {
    process: Process,
    namespace: Namespace,
    configuration: PathBuf,
}

impl Relay {
    /// Starts it with its default listeners, and `settings` below the configuration of all tests,
    /// and waits until it serves.
    pub(crate) fn start(lab: &Lab, certs: &Certs, settings: &str) -> Self {
        Self::start_with_tls(lab, &certs.settings(), settings)
    }

    /// The same with `tls` for the section of that name.
    pub(crate) fn start_with_tls(lab: &Lab, tls: &str, settings: &str) -> Self {
        Self::start_with(lab, tls, settings, &[])
    }

    /// The same with `environment`, which overrides the file.
    pub(crate) fn start_with(lab: &Lab, tls: &str, settings: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_at(Place::First, lab, tls, settings, environment)
    }

    /// The same at a place.
    pub(crate) fn start_at(place: Place, lab: &Lab, tls: &str, settings: &str, environment: &[(&str, &str)]) -> Self {
        let configuration = write_configuration(place, lab, tls, settings);
        let namespace = place.namespace(lab);
        let mut command = namespace.command(PROGRAM);
        command.arg("--config").arg(&configuration).env_remove("RELAY_CONFIG");
        command.envs(environment.iter().copied());
        let mut process = Process::start(place.name(), lab.folder(), command, Output::Log);
        process.wait_until("is ready", Duration::from_secs(30), |_| {
            let answer = http::request(&namespace, ADMIN, "GET", "/readyz", &[], None);
            answer.is_ok_and(|answer| answer.body.contains("\"phase\":\"serving\""))
        });
        Self {
            process,
            namespace,
            configuration,
        }
    }

    /// The `RTCConfiguration` the page fetches from the API on port 443.
    pub(crate) fn fetch_configuration(&self, browser: &mut Chromium) -> Value {
        let url = format!("https://{RELAY_HOST}/v1/ice-servers");
        browser.call_page("fetchConfiguration", &[&url.into(), &API_KEY.into()])
    }

    /// The same, from the command line with the relay's own configuration.
    pub(crate) fn mint_configuration(&self) -> Value {
        let mut command = self.namespace.command(PROGRAM);
        command
            .args(["credentials", "mint", "--ttl", "10m", "--config"])
            .arg(&self.configuration);
        serde_json::from_str(&run(&mut command)).expect("an RTCConfiguration is JSON")
    }

    /// Its metrics of losses that are not 0.
    pub(crate) fn losses(&self) -> String {
        let answer = http::request(&self.namespace, ADMIN, "GET", "/metrics", &[], None);
        let metrics = answer.map_or_else(|error| error.to_string(), |answer| answer.body);
        let told = |line: &&str| {
            !line.starts_with('#')
                && !line.ends_with(" 0")
                && ["drop", "error", "lost"].iter().any(|word| line.contains(word))
        };
        metrics.lines().filter(told).collect::<Vec<_>>().join("\n")
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// One value of its metrics.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let answer = http::request(&self.namespace, ADMIN, "GET", "/metrics", &[], None).expect("metrics");
        let mut lines = answer.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no {series}"))
    }

    /// The sum of a metric's samples with these labels.
    pub(crate) fn metric_sum(&self, name: &str, labels: &str) -> f64 {
        let answer = http::request(&self.namespace, ADMIN, "GET", "/metrics", &[], None).expect("metrics");
        let lines = answer
            .body
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits for a log line with all of `words`, and returns it.
    pub(crate) fn wait_for_log(&mut self, words: &[&str], limit: Duration) -> String {
        let find = |log: String| {
            let mut lines = log.lines();
            lines
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
        };
        self.process.wait_until(&format!("logs {words:?}"), limit, |process| {
            find(process.log()).is_some()
        });
        find(self.process.log()).expect("just seen")
    }

    /// Makes it reload its configuration.
    pub(crate) fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Stops it like a service manager: it must end by itself, in time, and report success.
    pub(crate) fn stop(mut self) {
        self.process.assert_running();
        let (status, time) = self.process.terminate(STOP).unwrap_or_else(|| {
            panic!(
                "SIGTERM: still running after {STOP:?}:\n{}",
                tail(&self.process.log(), 40)
            )
        });
        assert!(
            status.success(),
            "SIGTERM: ended with {status} after {time:?}:\n{}",
            tail(&self.process.log(), 40)
        );
        assert!(!self.process.log().contains("panicked"), "{}", self.process.log());
    }
}

fn write_configuration(place: Place, lab: &Lab, tls: &str, settings: &str) -> PathBuf {
    let level = env::var("RELAY_E2E_LOG").unwrap_or_else(|_| "info".to_owned());
    let text = format!(
        r#"realm = "{RELAY_HOST}"
state_dir = "{state}"
shutdown_timeout = "5s"

[credentials]
secrets = ["{SECRET}"]

[tls]
{tls}

[external]
ipv4 = "{address}"

[relay]
ports = "{first}-{last}"

[peers]
allow = ["{SFU_NETWORK}"]  # documentation prefixes are denied otherwise

[api]
cors_origins = ["{ORIGIN}"]

[[api.keys]]
name = "lab"
key = "{API_KEY}"

[admin]
address = "{ADMIN}"

[log]
level = "{level}"
{settings}"#,
        state = lab.folder().join(format!("{}-state", place.name())).display(),
        address = place.address(),
        first = RELAY_PORTS.start(),
        last = RELAY_PORTS.end(),
    );
    let path = lab.folder().join(format!("{}.toml", place.name()));
    write_private(&path, &text);
    path
}
