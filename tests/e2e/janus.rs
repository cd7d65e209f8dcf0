//! Janus, a real SFU, in the SFU's namespace or beside the relay. Its echo test sends a browser's
//! media back. The test program uses its HTTP API; browsers reach it only through the relay.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http;
use crate::lab::{Lab, Namespace, RELAY, SFU};
use crate::process::{Output, Process};

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8088);

/// A running Janus with one session attached to the echo test.
pub(crate) struct Janus {
    process: Process,
    namespace: Namespace,
    /// The address of its media.
    pub(crate) address: Ipv4Addr,
    session: u64,
    handle: u64,
}

impl Janus {
    /// Starts it with only the echo test and the HTTP API, and attaches to the echo test.
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::start_in(lab, lab.sfu(), SFU, "")
    }

    /// The same on the relay's own machine, with these ports for media.
    pub(crate) fn start_beside_relay(lab: &Lab, ports: &RangeInclusive<u16>) -> Self {
        let media = format!("media: {{ rtp_port_range = \"{}-{}\" }}", ports.start(), ports.end());
        Self::start_in(lab, lab.relay(), RELAY, &media)
    }

    fn start_in(lab: &Lab, namespace: &Namespace, address: Ipv4Addr, settings: &str) -> Self {
        let folder = lab.folder().join("janus");
        write_configuration(&folder, settings);
        let mut command = namespace.command("janus");
        command.arg("--configs-folder").arg(&folder).arg("--disable-colors");
        let process = Process::start("janus", lab.folder(), command, Output::Log);
        let mut janus = Self {
            process,
            namespace: namespace.clone(),
            address,
            session: 0,
            handle: 0,
        };
        let namespace = janus.namespace.clone();
        janus
            .process
            .wait_until("answers on its API", Duration::from_secs(20), |_| {
                let answer = http::request(&namespace, API, "GET", "/janus/info", &[], None);
                answer.is_ok_and(|answer| answer.status == 200)
            });
        janus.attach();
        janus
    }

    /// Starts another session with the echo test, for another concurrent call.
    pub(crate) fn attach(&mut self) {
        self.session = id_of(&self.post("/janus", json!({"janus": "create"})));
        let attach = json!({"janus": "attach", "plugin": "janus.plugin.echotest"});
        self.handle = id_of(&self.post(&format!("/janus/{}", self.session), attach));
    }

    /// Sends an offer with all its candidates and returns the answer with all of Janus' candidates.
    pub(crate) fn answer(&mut self, offer: &str) -> String {
        let path = format!("/janus/{}/{}", self.session, self.handle);
        let message = json!({
            "janus": "message",
            "body": {"audio": true, "video": true},
            "jsep": {"type": "offer", "sdp": offer, "trickle": false},
        });
        self.post(&path, message);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let event = self.get(&format!("/janus/{}?maxev=1", self.session));
            assert!(
                event["plugindata"]["data"].get("error").is_none(),
                "the echo test refuses: {event}"
            );
            if event["jsep"]["type"] == "answer" {
                return event["jsep"]["sdp"].as_str().expect("an answer holds SDP").to_owned();
            }
        }
        panic!("no answer from Janus:\n{}", self.process.log());
    }

    fn post(&self, path: &str, mut message: Value) -> Value {
        message["transaction"] = "e2e".into();
        self.request("POST", path, Some(&message.to_string()))
    }

    fn get(&self, path: &str) -> Value {
        self.request("GET", path, None)
    }

    fn request(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        let answer = http::request(&self.namespace, API, method, path, &[], body)
            .unwrap_or_else(|error| panic!("{method} {path} at Janus: {error}"));
        let value: Value = serde_json::from_str(&answer.body).expect("Janus answers with JSON");
        assert!(value["janus"] != "error", "{method} {path} at Janus: {value}");
        value
    }
}

fn id_of(answer: &Value) -> u64 {
    answer["data"]["id"]
        .as_u64()
        .unwrap_or_else(|| panic!("an id was expected from Janus: {answer}"))
}

/// One candidate (`eth0`), no trickling from Janus, the API on loopback.
fn write_configuration(folder: &Path, settings: &str) {
    let plugins = folder.join("plugins");
    let transports = folder.join("transports");
    for (kind, target, library) in [
        ("plugins", &plugins, "libjanus_echotest.so"),
        ("transports", &transports, "libjanus_http.so"),
    ] {
        fs::create_dir_all(target).expect("the lab's folder is writable");
        std::os::unix::fs::symlink(installed(kind, library), target.join(library)).expect("a new folder");
    }
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("the lab's folder is writable");
    write(
        "janus.jcfg",
        format!(
            "general: {{
               plugins_folder = \"{}\"
               transports_folder = \"{}\"
               admin_secret = \"unused\"
             }}
             nat: {{
               full_trickle = false
               ice_enforce_list = \"eth0\"
               ignore_mdns = true
             }}
             {settings}",
            plugins.display(),
            transports.display()
        ),
    );
    write(
        "janus.transport.http.jcfg",
        format!(
            "general: {{ http = true, ip = \"{}\", port = {}, https = false }}",
            API.ip(),
            API.port()
        ),
    );
    write("janus.plugin.echotest.jcfg", "general: { }".to_owned());
}

/// The folder of Janus' parts in the distribution, which contains the machine's architecture.
fn installed(kind: &str, library: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|entry| entry.path().join("janus").join(kind).join(library));
    found.find(|path| path.exists()).unwrap_or_else(|| {
        panic!(
            "{library} is not below /usr/lib/*/janus/{kind}: is the package `janus` installed (tests/install-packages)?"
        )
    })
}
