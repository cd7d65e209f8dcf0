//! Pebble, a real ACME authority, in the SFU's namespace, with its name server. It validates like
//! public ones: it resolves the name and connects to port 443 there.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::json;

use crate::certs::{self, Certs};
use crate::dns::Dns;
use crate::http;
use crate::lab::{Lab, Namespace, SFU};
use crate::process::{Output, Process};

/// Programs that the machine must have.
pub(crate) const PROGRAMS: [&str; 2] = ["pebble", "pebble-challtestsrv"];
const HOST: &str = "acme.example.test";
const MANAGEMENT: SocketAddr = SocketAddr::new(IpAddr::V4(SFU), 15_000);
const NAMES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8055);

/// A running authority.
pub(crate) struct Pebble {
    namespace: Namespace,
    /// The certificate of its own HTTPS server.
    own: Certs,
    _names: Process,
    _pebble: Process,
    _dns: Dns,
}

impl Pebble {
    /// Starts it; it resolves every name to `address`.
    pub(crate) fn start(lab: &Lab, address: Ipv4Addr) -> Self {
        let folder = lab.folder().join("pebble");
        let own = Certs::make(&folder, HOST);
        let configuration = json!({"pebble": {
            "listenAddress": format!("{SFU}:14000"),
            "managementListenAddress": MANAGEMENT.to_string(),
            "certificate": own.certificate,
            "privateKey": own.private_key,
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": 90 * 86_400,
        }});
        let file = folder.join("pebble.json");
        fs::write(&file, configuration.to_string()).expect("the lab's folder is writable");

        let namespace = lab.sfu().clone();
        let mut command = namespace.command("pebble-challtestsrv");
        command.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        command.args(["-dns01", "127.0.0.1:8053", "-management", &NAMES.to_string()]);
        command.arg("-defaultIPv4").arg(address.to_string());
        let mut names = Process::start("pebble-challtestsrv", lab.folder(), command, Output::Log);
        names.wait_until("listens", Duration::from_secs(10), |_| listens(&namespace, NAMES));

        let mut command = namespace.command("pebble");
        command.arg("-config").arg(&file).args(["-dnsserver", "127.0.0.1:8053"]);
        // Without its random pauses and refusals, which serve to test clients, but with real
        // validation.
        command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")]);
        let mut pebble = Process::start("pebble", lab.folder(), command, Output::Log);
        pebble.wait_until("listens", Duration::from_secs(10), |_| listens(&namespace, MANAGEMENT));
        Self {
            // The relay finds the authority by its name.
            _dns: Dns::start(lab.relay(), HOST, SFU),
            namespace,
            own,
            _names: names,
            _pebble: pebble,
        }
    }

    /// Resolves every name to `address` from now on.
    pub(crate) fn resolve_to(&self, address: Ipv4Addr) {
        let body = json!({"ip": address.to_string()}).to_string();
        let answer = http::request(&self.namespace, NAMES, "POST", "/set-default-ipv4", &[], Some(&body));
        assert_eq!(answer.expect("the name server answers").status, 200);
    }

    /// Configuration below `[tls]` that gets a certificate for `name` from it.
    pub(crate) fn settings(&self, name: &str) -> String {
        format!(
            "acme = {{ domains = [\"{name}\"], directory = \"https://{HOST}:14000/dir\", root = \"{}\" }}\n",
            self.own.authority.display()
        )
    }

    /// The root certificate that it signs with, different at every start: for the browser to trust.
    pub(crate) fn root(&self) -> String {
        let mut tls = certs::connect(&self.namespace, MANAGEMENT, HOST);
        let request = format!("GET /roots/0 HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
        tls.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        // It may close without close_notify. The end of the PEM shows whether it is complete.
        let _ = tls.read_to_string(&mut answer);
        let pem = answer.find("-----BEGIN").map(|start| answer[start..].to_owned());
        pem.filter(|pem| pem.contains("-----END"))
            .unwrap_or_else(|| panic!("no root: {answer}"))
    }
}

fn listens(namespace: &Namespace, address: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_millis(200);
    while Instant::now() < deadline {
        let connected = namespace.within(|| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)));
        if connected.is_ok() {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}
