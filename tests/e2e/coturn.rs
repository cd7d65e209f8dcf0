//! coturn in place of the relay. `RELAY_E2E_SERVER=coturn` shows whether a failing test is the
//! fault of the relay or of the lab. It has no credentials API, so the test program mints for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::certs::Certs;
use crate::lab::{Lab, RELAY, RELAY_HOST};
use crate::process::{Output, Process};
use crate::server::{RELAY_PORTS, SECRET};

/// Starts it with port 443 for UDP, TCP and TLS.
pub(crate) fn start(lab: &Lab, certs: &Certs) -> Process {
    let mut command = lab.relay().command("turnserver");
    command.args([
        "-n",
        "--no-cli",
        "--log-file=stdout",
        "--simple-log",
        "--verbose",
        "--fingerprint",
    ]);
    command.args([
        "--use-auth-secret",
        &format!("--static-auth-secret={SECRET}"),
        &format!("--realm={RELAY_HOST}"),
    ]);
    command.args(["--listening-port=443", "--tls-listening-port=443"]);
    command.args([format!("--listening-ip={RELAY}"), format!("--relay-ip={RELAY}")]);
    command.args([
        format!("--min-port={}", RELAY_PORTS.start()),
        format!("--max-port={}", RELAY_PORTS.end()),
    ]);
    command.arg(format!("--cert={}", certs.certificate.display()));
    command.arg(format!("--pkey={}", certs.private_key.display()));
    command.arg(format!("--userdb={}", lab.folder().join("turndb").display()));
    command.arg(format!("--pidfile={}", lab.folder().join("turnserver.pid").display()));
    let mut process = Process::start("coturn", lab.folder(), command, Output::Log);
    process.wait_until("listens", Duration::from_secs(20), |coturn| {
        coturn.log().contains(&format!("listener opened on: {RELAY}:443"))
    });
    process
}

/// A configuration with a time-limited credential for everything on port 443.
pub(crate) fn configuration() -> Value {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    let username = format!("{}:e2e", now.as_secs() + 3600);
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    let credential = STANDARD.encode(mac.finalize().into_bytes());
    let uris = [
        "turn:{}:443?transport=udp",
        "turn:{}:443?transport=tcp",
        "turns:{}:443?transport=tcp",
    ];
    let uris = uris.map(|uri| uri.replace("{}", RELAY_HOST));
    json!({"iceServers": [{"urls": uris, "username": username, "credential": credential}]})
}
