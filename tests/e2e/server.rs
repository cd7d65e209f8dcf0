//! The server under test: `relay`, or coturn for comparison.

use std::env;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::coturn;
use crate::lab::Lab;
use crate::process::Process;
use crate::relay::Relay;

/// The secret that server and test share.
pub(crate) const SECRET: &str = "OczwlsjMf6pg1DKKHMc5ZJr423QfK3ulQmsFqErbVU4=";
/// Ports of relayed transport addresses.
pub(crate) const RELAY_PORTS: RangeInclusive<u16> = 49_152..=49_999;

/// A running server.
pub(crate) enum Server {
    Relay(Relay),
    Coturn(Process),
}

impl Server {
    /// Starts the server that `RELAY_E2E_SERVER` names (`relay` by default) and waits until it
    /// serves.
    pub(crate) fn start(lab: &Lab, certs: &Certs) -> Self {
        Self::start_with(lab, certs, "")
    }

    /// The same, with more sections in the relay's configuration.
    pub(crate) fn start_with(lab: &Lab, certs: &Certs, settings: &str) -> Self {
        match env::var("RELAY_E2E_SERVER").as_deref() {
            Ok("coturn") => Self::Coturn(coturn::start(lab, certs)),
            Ok("relay") | Err(_) => Self::Relay(Relay::start(lab, certs, settings)),
            Ok(other) => panic!("RELAY_E2E_SERVER={other}: there is only `relay` and `coturn`"),
        }
    }

    /// The `RTCConfiguration` that the page fetches from the server's API on port 443.
    pub(crate) fn fetch_configuration(&self, browser: &mut Chromium) -> Value {
        match self {
            Self::Relay(relay) => relay.fetch_configuration(browser),
            Self::Coturn(_) => coturn::configuration(),
        }
    }

    /// The same without the page, which may have no access over TCP.
    pub(crate) fn mint_configuration(&self) -> Value {
        match self {
            Self::Relay(relay) => relay.mint_configuration(),
            Self::Coturn(_) => coturn::configuration(),
        }
    }

    /// The losses that the server itself counts.
    pub(crate) fn losses(&self) -> String {
        match self {
            Self::Relay(relay) => relay.losses(),
            Self::Coturn(_) => String::new(),
        }
    }

    /// Stops it; the relay must end by itself in time.
    pub(crate) fn stop(self) {
        match self {
            Self::Relay(relay) => relay.stop(),
            Self::Coturn(mut process) => process.assert_running(),
        }
    }
}
