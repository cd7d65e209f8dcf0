//! Headless Firefox in a client's namespace, driven over WebDriver BiDi
//! (<https://www.w3.org/TR/webdriver-bidi/>) on a WebSocket of its own loopback.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::certs::Certs;
use crate::dns::Dns;
use crate::http::PageServer;
use crate::lab::{self, Lab, RELAY_HOST};
use crate::page::{ORIGIN, PAGE, PAGE_PORT, Page, call_expression};
use crate::process::{Output, Process};

/// How long the browser may take to start: 3 s on an idle machine, ten times that on a busy one.
const START: Duration = Duration::from_secs(90);
/// How long one call into the page may take; above every limit inside the page.
const CALL: Duration = Duration::from_secs(40);
const BIDI_PORT: u16 = 9222;

/// A camera without a permission prompt, playback without a click, and no background traffic of the
/// browser.
const PREFERENCES: &[(&str, &str)] = &[
    ("media.navigator.streams.fake", "true"),
    ("media.navigator.permission.disabled", "true"),
    ("media.autoplay.default", "0"),
    ("app.update.enabled", "false"),
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.safebrowsing.malware.enabled", "false"),
    ("browser.safebrowsing.phishing.enabled", "false"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("captivedetect.canonicalURL", "\"\""),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("extensions.update.enabled", "false"),
    ("media.gmp-manager.updateEnabled", "false"),
    ("network.captive-portal-service.enabled", "false"),
    ("network.connectivity-service.enabled", "false"),
    ("network.trr.mode", "5"),
    ("toolkit.telemetry.reportingpolicy.firstRun", "false"),
];

/// A browser with one open page, its own profile, certificate store and name server.
pub(crate) struct Firefox {
    socket: WebSocket<TcpStream>,
    next_id: u64,
    context: Value,
    console: String,
    process: Process,
    home: PathBuf,
    _page: PageServer,
    _dns: Dns,
}

impl Firefox {
    /// Starts a browser for client `index` that trusts the authority of `certs`, and opens the
    /// page.
    pub(crate) fn start(lab: &Lab, index: usize, certs: &Certs) -> Self {
        let namespace = lab.client(index);
        let home = lab.folder().join(format!("firefox{index}"));
        let (profile, temporary) = (home.join("profile"), home.join("tmp"));
        for folder in [&profile, &temporary] {
            fs::create_dir_all(folder).expect("the lab's folder is writable");
        }
        let mut preferences = String::new();
        for (name, value) in PREFERENCES {
            writeln!(preferences, "user_pref(\"{name}\", {value});").expect("a String takes everything");
        }
        fs::write(profile.join("user.js"), preferences).expect("the lab's folder is writable");
        certs.trust_in_database(&profile);
        let dns = Dns::start(namespace, RELAY_HOST, lab::RELAY);
        let page = PageServer::start(namespace, PAGE_PORT, PAGE);

        let mut command: Command = namespace.command("firefox-esr");
        command.args([
            "--headless",
            "--no-remote",
            "--remote-debugging-port",
            &BIDI_PORT.to_string(),
        ]);
        command.arg("--profile").arg(&profile);
        command
            .env("HOME", &home)
            .env("TMPDIR", &temporary)
            .env_remove("DISPLAY");
        let mut process = Process::start(&format!("firefox{index}"), lab.folder(), command, Output::Log);
        process.wait_until("listens for WebDriver BiDi", START, |process| {
            process.log().contains("WebDriver BiDi listening on")
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, BIDI_PORT));
        let stream = namespace
            .within(|| TcpStream::connect(address))
            .expect("the browser listens");
        stream.set_read_timeout(Some(CALL)).expect("a timeout that is not zero");
        let (socket, _) = tungstenite::client(format!("ws://{address}/session"), stream)
            .unwrap_or_else(|error| panic!("WebDriver BiDi: {error}"));
        let mut browser = Self {
            socket,
            next_id: 1,
            context: Value::Null,
            console: String::new(),
            process,
            home,
            _page: page,
            _dns: dns,
        };
        browser.command("session.new", &json!({"capabilities": {}}));
        browser.command("session.subscribe", &json!({"events": ["log.entryAdded"]}));
        let tree = browser.command("browsingContext.getTree", &json!({}));
        browser.context = tree["contexts"][0]["context"].clone();
        let url = json!({"context": browser.context, "url": format!("{ORIGIN}/"), "wait": "complete"});
        browser.command("browsingContext.navigate", &url);
        browser
    }

    /// Kills the browser while it is busy.
    pub(crate) fn kill(mut self) {
        self.process.kill(&self.home);
    }

    fn command(&mut self, method: &str, parameters: &Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let command = json!({"id": id, "method": method, "params": parameters});
        self.socket
            .send(Message::text(command.to_string()))
            .unwrap_or_else(|error| panic!("{method}: {error}"));
        let deadline = Instant::now() + CALL;
        while Instant::now() < deadline {
            let message = self
                .socket
                .read()
                .unwrap_or_else(|error| panic!("{method}: {error}; console: {}", self.console));
            let Message::Text(text) = message else { continue };
            let mut message: Value = serde_json::from_str(&text).expect("BiDi speaks JSON");
            if message["id"] == id {
                assert_eq!(message["type"], "success", "{method}: {message}");
                return message["result"].take();
            }
            if message["method"] == "log.entryAdded" {
                self.console
                    .push_str(message["params"]["text"].as_str().unwrap_or_default());
                self.console.push('\n');
            }
        }
        panic!("{method}: no answer within {CALL:?}; console: {}", self.console);
    }
}

impl Page for Firefox {
    fn call_page(&mut self, function: &str, arguments: &[&Value]) -> Value {
        // BiDi has its own notation for values; text is the same in both.
        let expression = format!(
            "(async () => JSON.stringify(await {} ?? null))()",
            call_expression(function, arguments)
        );
        let answer = self.command(
            "script.evaluate",
            &json!({
                "expression": expression,
                "target": {"context": self.context},
                "awaitPromise": true,
                "userActivation": true,
            }),
        );
        let text = answer["result"]["value"].as_str().unwrap_or_else(|| {
            let exception = &answer["exceptionDetails"]["text"];
            panic!("in the page: {function}: {exception}\nconsole: {}", self.console)
        });
        serde_json::from_str(text).expect("made by JSON.stringify")
    }

    fn console(&self) -> String {
        self.console.clone()
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- console of the page ----\n{}", self.console);
        }
        // Its processes end by themselves after this; the later signal finds none.
        let _ = self.socket.send(Message::text(
            json!({"id": 0, "method": "browser.close", "params": {}}).to_string(),
        ));
    }
}
