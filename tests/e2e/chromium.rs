//! Headless Chromium in a client's namespace, driven over the DevTools protocol on two pipes. That
//! needs no port, and pipes work across namespaces.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::certs::Certs;
use crate::dns::Dns;
use crate::http::PageServer;
use crate::lab::{self, Lab, RELAY_HOST};
use crate::page::{ORIGIN, PAGE, PAGE_PORT, Page, call_expression};
use crate::process::{Output, Process};

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream=fps=30",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--remote-debugging-pipe",
];

/// A browser with one open page (`page.html`), its own profile, certificate store and name server.
pub(crate) struct Chromium {
    devtools: DevTools,
    session: String,
    process: Process,
    home: PathBuf,
    _page: PageServer,
    _dns: Dns,
}

impl Chromium {
    /// Starts a browser for client `index` that trusts the authority of `certs`, and opens the
    /// page.
    pub(crate) fn start(lab: &Lab, index: usize, certs: &Certs) -> Self {
        Self::start_with(lab, index, certs, "--disable-quic")
    }

    /// The same, but it connects to `host` over HTTP/3 only.
    pub(crate) fn start_over_http3(lab: &Lab, index: usize, certs: &Certs, host: &str) -> Self {
        Self::start_with(lab, index, certs, &format!("--origin-to-force-quic-on={host}:443"))
    }

    fn start_with(lab: &Lab, index: usize, certs: &Certs, flag: &str) -> Self {
        let namespace = lab.client(index);
        let home = lab.folder().join(format!("chromium{index}"));
        let temporary = home.join("tmp");
        fs::create_dir_all(&temporary).expect("the lab's folder is writable");
        certs.trust_in(&home);
        let dns = Dns::start(namespace, RELAY_HOST, lab::RELAY);
        let page = PageServer::start(namespace, PAGE_PORT, PAGE);

        // The browser reads commands from descriptor 3 and writes answers to 4, so the shell moves
        // its own 0 and 1 there.
        let mut command = namespace.command("sh");
        command
            .args(["-c", "exec \"$@\" 3<&0 4>&1 0</dev/null 1>&2", "sh", "chromium"])
            .args(FLAGS)
            .arg(flag);
        command
            .arg(format!("--user-data-dir={}", home.join("profile").display()))
            .arg("about:blank");
        command
            .env("HOME", &home)
            .env("TMPDIR", &temporary)
            .env_remove("DISPLAY");
        let mut process = Process::start(&format!("chromium{index}"), lab.folder(), command, Output::Piped);
        let (input, output) = process.pipes();
        let mut devtools = DevTools::new(input, output);

        let target = devtools.call(None, "Target.createTarget", &json!({"url": "about:blank"}), START);
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = devtools.call(None, "Target.attachToTarget", &attach, START);
        let session = attached["sessionId"]
            .as_str()
            .expect("attaching gives a session")
            .to_owned();
        let mut browser = Self {
            devtools,
            session,
            process,
            home,
            _page: page,
            _dns: dns,
        };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.call(domain, &json!({}));
        }
        browser.call("Page.navigate", &json!({"url": format!("{ORIGIN}/")}));
        let deadline = Instant::now() + START;
        while browser.evaluate("typeof sample === 'function' && document.readyState === 'complete'") != true {
            assert!(
                Instant::now() < deadline,
                "the page did not load: {}",
                browser.devtools.console()
            );
            thread::sleep(Duration::from_millis(50));
        }
        browser
    }

    /// Kills the browser while it is busy.
    pub(crate) fn kill(mut self) {
        self.process.kill(&self.home);
    }

    /// Evaluates an expression in the page, awaits its promise, and returns the value.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let result = self.call("Runtime.evaluate", &parameters);
        if let Some(exception) = result.get("exceptionDetails") {
            let text = exception["exception"]["description"]
                .as_str()
                .map_or_else(|| exception.to_string(), Into::into);
            panic!(
                "in the page: {expression:.120}: {text}\nconsole: {}",
                self.devtools.console()
            );
        }
        result["result"]["value"].clone()
    }

    /// Calls a function of the page.
    pub(crate) fn call_page(&mut self, function: &str, arguments: &[&Value]) -> Value {
        self.evaluate(&call_expression(function, arguments))
    }

    /// Errors and warnings of the page and the browser so far.
    pub(crate) fn console(&self) -> String {
        self.devtools.console()
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.devtools.call(Some(&self.session), method, parameters, CALL)
    }
}

impl Page for Chromium {
    fn call_page(&mut self, function: &str, arguments: &[&Value]) -> Value {
        Self::call_page(self, function, arguments)
    }

    fn console(&self) -> String {
        Self::console(self)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- console of the page ----\n{}", self.devtools.console());
        }
        self.devtools.send(0, None, "Browser.close", &json!({}));
        self.process.wait(Duration::from_secs(3));
    }
}

/// How long the browser may take to start; slow machines run several builds at the same time.
const START: Duration = Duration::from_secs(60);
/// How long one call into the page may take; above every limit inside the page.
const CALL: Duration = Duration::from_secs(40);

/// One DevTools connection. Calls are made one at a time; events are searched for console messages.
struct DevTools {
    input: ChildStdin,
    messages: Receiver<Value>,
    next_id: u64,
    console: VecDeque<String>,
}

impl DevTools {
    fn new(input: ChildStdin, output: ChildStdout) -> Self {
        let (sender, messages) = mpsc::channel();
        // Ends with the browser, which holds the other end of the pipe.
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(value) = serde_json::from_slice(&message) else {
                    continue;
                };
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Self {
            input,
            messages,
            next_id: 1,
            console: VecDeque::new(),
        }
    }

    fn call(&mut self, session: Option<&str>, method: &str, parameters: &Value, limit: Duration) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        assert!(
            self.send(id, session, method, parameters),
            "{method}: the browser has gone: {}",
            self.console()
        );
        let deadline = Instant::now() + limit;
        loop {
            match self
                .messages
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(message) if message["id"] == id => {
                    assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                    return message["result"].clone();
                }
                Ok(message) => self.note(&message),
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "{method}: no answer within {limit:?}; {parameters:.200}; console: {}",
                        self.console()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{method}: the browser has gone; console: {}", self.console())
                }
            }
        }
    }

    fn send(&mut self, id: u64, session: Option<&str>, method: &str, parameters: &Value) -> bool {
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).is_ok()
    }

    /// Keeps what is of interest in the console.
    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let text = match message["method"].as_str() {
            Some("Runtime.consoleAPICalled") => {
                let arguments = parameters["args"].as_array().into_iter().flatten();
                arguments
                    .map(|argument| argument["value"].to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Some("Runtime.exceptionThrown") => parameters["exceptionDetails"]["exception"]["description"].to_string(),
            Some("Log.entryAdded") => format!("{} {}", parameters["entry"]["text"], parameters["entry"]["url"]),
            _ => return,
        };
        if self.console.len() == 50 {
            self.console.pop_front();
        }
        self.console.push_back(text);
    }

    fn console(&self) -> String {
        if self.console.is_empty() {
            return "empty".to_owned();
        }
        self.console.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
