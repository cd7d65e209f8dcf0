//! WebRTC stacks other than browsers. A small program around each (`agents/`) reads one JSON
//! command per line and writes one JSON answer per line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::certs::Certs;
use crate::dns::Dns;
use crate::lab::{self, Lab, RELAY_HOST};
use crate::page::Page;
use crate::process::{Output, Process};

/// How long one command may take; above every limit inside the programs.
const CALL: Duration = Duration::from_secs(40);

/// The stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// aiortc and aioice, in Python.
    Aiortc,
    /// GStreamer's webrtcbin on libnice.
    GStreamer,
}

impl Stack {
    /// Programs that the machine must have.
    pub(crate) const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Aiortc => &["janus"],
            Self::GStreamer => &["janus", "/usr/bin/python3"],
        }
    }

    const fn script(self) -> &'static str {
        match self {
            Self::Aiortc => "aiortc_agent.py",
            Self::GStreamer => "gstreamer_agent.py",
        }
    }

    /// aiortc comes as a wheel (tests/install-wheels); GStreamer's bindings belong to the Python of
    /// the distribution.
    fn python(self) -> PathBuf {
        let wheels = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python");
        match self {
            Self::Aiortc if wheels.exists() => wheels,
            Self::Aiortc => panic!("{} is missing: `tests/install-wheels` makes it", wheels.display()),
            Self::GStreamer => "/usr/bin/python3".into(),
        }
    }
}

/// One running program, with one call.
pub(crate) struct Agent {
    process: Process,
    input: ChildStdin,
    answers: Receiver<String>,
    _dns: Dns,
}

impl Agent {
    /// Starts it for client `index`; it trusts the authority of `certs`.
    pub(crate) fn start(lab: &Lab, index: usize, certs: &Certs, stack: Stack) -> Self {
        let namespace = lab.client(index);
        let dns = Dns::start(namespace, RELAY_HOST, lab::RELAY);
        let python = stack.python();
        let mut command: Command = namespace.command(&python.to_string_lossy());
        command
            .arg(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/e2e/agents")
                    .join(stack.script()),
            )
            .env("SSL_CERT_FILE", &certs.authority)
            .env("HOME", lab.folder());
        let mut process = Process::start(&format!("{stack:?}{index}"), lab.folder(), command, Output::Piped);
        let (input, output) = process.pipes();
        let (sender, answers) = mpsc::channel();
        // Ends with the program, which holds the other end of the pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            input,
            answers,
            _dns: dns,
        }
    }

    /// Sends one command and waits for its answer.
    pub(crate) fn call(&mut self, function: &str, arguments: &[&Value]) -> Value {
        self.process.assert_running();
        let line = format!("{}\n", json!({"call": function, "arguments": arguments}));
        self.input
            .write_all(line.as_bytes())
            .unwrap_or_else(|error| panic!("{function}: {error}"));
        let answer = self
            .answers
            .recv_timeout(CALL)
            .unwrap_or_else(|error| panic!("{function}: no answer ({error})"));
        let mut answer: Value = serde_json::from_str(&answer).expect("agents answer in JSON");
        assert!(answer.get("error").is_none(), "{function}: {}", answer["error"]);
        answer["ok"].take()
    }
}

impl Page for Agent {
    fn call_page(&mut self, function: &str, arguments: &[&Value]) -> Value {
        self.call(function, arguments)
    }

    fn console(&self) -> String {
        self.process.log()
    }
}
