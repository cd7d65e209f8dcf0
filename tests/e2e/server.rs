//! The server under test: `relay`, or coturn for comparison.

use std::env;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::coturn;
use crate::lab::Lab;
use crate::process::Process;
use crate::relay::Relay;

/// The secret that server and test share.
pub(crate) const SECRET: &str = "7f3b1c9e5a2d48680c6e1fd29b47a835";
/// Ports of relayed transport addresses.
pub(crate) const RELAY_PORTS: RangeInclusive<u16> = 49_152..=49_999;

/// A running server.
pub(crate) enum Server {
    Relay(Relay),
    Coturn(Process),
}

impl Server {
    /// Starts the server `RELAY_E2E_SERVER` asks for (`relay` by default) and waits until it serves.
    pub(crate) fn start(lab: &Lab, certs: &Certs) -> Self {
        match env::var("RELAY_E2E_SERVER").as_deref() {
            Ok("coturn") => Self::Coturn(coturn::start(lab, certs)),
            Ok("relay") | Err(_) => Self::Relay(Relay::start(lab, certs)),
            Ok(other) => panic!("RELAY_E2E_SERVER={other}: there is only `relay` and `coturn`"),
        }
    }

    /// An `RTCConfiguration` with `uri` alone, which the page fetches from the server's API on port 443.
    pub(crate) fn fetch_configuration(&self, browser: &mut Chromium, uri: &str) -> Value {
        match self {
            Self::Relay(relay) => only(uri, &relay.fetch_configuration(browser)),
            Self::Coturn(_) => coturn::configuration(uri),
        }
    }

    /// The same, fetched by the test program: TCP may be closed to the page.
    pub(crate) fn mint_configuration(&self, uri: &str) -> Value {
        match self {
            Self::Relay(relay) => only(uri, &relay.mint_configuration()),
            Self::Coturn(_) => coturn::configuration(uri),
        }
    }

    /// Stops it; the relay must do so by itself within its bound.
    pub(crate) fn stop(self) {
        match self {
            Self::Relay(relay) => relay.stop(),
            Self::Coturn(mut process) => process.assert_running(),
        }
    }
}

/// The entry of `configuration` that offers `uri`, reduced to it.
fn only(uri: &str, configuration: &Value) -> Value {
    let servers = configuration["iceServers"].as_array().into_iter().flatten();
    let mut offering =
        servers.filter(|server| server["urls"].as_array().is_some_and(|urls| urls.contains(&uri.into())));
    let mut server = offering
        .next()
        .unwrap_or_else(|| panic!("the API does not offer {uri}: {configuration:#}"))
        .clone();
    server["urls"] = json!([uri]);
    json!({"iceServers": [server]})
}
