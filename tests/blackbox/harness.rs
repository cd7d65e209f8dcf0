//! Starts the program with a test's configuration, on free ports, and stops it by pid.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relay_testkit::folder::Folder;
use relay_testkit::ports::free_port;

use crate::client::PATIENCE;

/// The secret of every test server.
pub(crate) const SECRET: &str = "4Fq0mG1kVb9x2Rj7TzYh3LwQe8NcPa5UsDgKoIi6";
/// A second one, for rotation.
pub(crate) const OTHER_SECRET: &str = "pW7eXn2cLr5uBk9tHy4mVa8jQz3sGd6fRo1iTxNb";
/// The address of relayed transport addresses, different from that of the listeners.
pub(crate) const RELAY_IP: &str = "127.0.0.4";
/// The key of the credentials API.
pub(crate) const API_KEY: &str = "k-0bq3vT7mXw9Lr2Yc5Hn8Jd4Ps6Zf1Ga";

/// A running server and where it listens.
pub(crate) struct Server {
    child: Child,
    dir: Folder,
    /// `udp` and `tcp`.
    pub(crate) plain: SocketAddr,
    /// `dtls`, `tls` and `tcp`.
    pub(crate) tls: SocketAddr,
    /// All transports, as on 443.
    pub(crate) door: SocketAddr,
    /// Metrics, health.
    pub(crate) admin: SocketAddr,
}

impl Server {
    /// Starts with the tests' defaults, which allow peers on 127.0.0.2.
    pub(crate) fn start() -> Self {
        Self::start_with("[peers]\nallow = [\"127.0.0.2/32\"]\n")
    }

    /// Starts with `sections` after the listeners, realm and credentials of every test.
    pub(crate) fn start_with(sections: &str) -> Self {
        Self::start_custom(&format!("[credentials]\nsecrets = [\"{SECRET}\"]\n\n{sections}"))
    }

    /// As [`Self::start_with`], relaying over IPv6 (::1) as well.
    pub(crate) fn start_dual_stack(sections: &str) -> Self {
        Self::launch(
            &format!("[credentials]\nsecrets = [\"{SECRET}\"]\n\n{sections}"),
            "::1",
            &[],
        )
    }

    /// As [`Self::start_with`], in a process that may open this many files.
    pub(crate) fn start_with_files(files: u32, sections: &str) -> Self {
        let sections = format!("[credentials]\nsecrets = [\"{SECRET}\"]\n\n{sections}");
        Self::launch_with(&sections, "off", |dir| {
            let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
            let mut command = Command::new("sh");
            command.args(["-c", &limited, env!("CARGO_BIN_EXE_relay")]);
            spawn_command(command, dir, &[])
        })
    }

    /// As [`Self::start_with`], with environment variables that override the configuration.
    pub(crate) fn start_overridden(overrides: &[(&str, &str)]) -> Self {
        let overrides: Vec<_> = overrides
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self::launch(&format!("[credentials]\nsecrets = [\"{SECRET}\"]\n"), "off", &overrides)
    }

    /// Starts with everything except listeners, relay addresses and admin listener from `sections`,
    /// in which `@DOOR@` is the port of the front door.
    pub(crate) fn start_custom(sections: &str) -> Self {
        Self::launch(sections, "off", &[])
    }

    /// A folder with `toml`, the configuration of a recipe, and the files that it names in
    /// /etc/relay.
    pub(crate) fn recipe_files(toml: &str) -> Folder {
        let dir = Folder::new();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a file of this test");
            std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its mode");
        };
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["turn.example.org".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("a name").self_signed(&key);
        write("fullchain.pem", certificate.expect("a certificate").pem());
        write("privkey.pem", key.serialize_pem());
        write("secret", format!("{SECRET}\n"));
        write("api-key", format!("{API_KEY}\n"));
        write("relay.toml", toml.replace("/etc/relay", &dir.display().to_string()));
        dir
    }

    /// Starts with the configuration of a recipe. Its listeners are on loopback and share one port,
    /// that of the front door. Without any, there is one for everything.
    pub(crate) fn start_recipe(toml: &str) -> Self {
        let dir = Self::recipe_files(toml);
        let [door, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let table: toml::Table = toml.parse().expect("TOML");
        let listeners = table
            .get("listener")
            .and_then(toml::Value::as_array)
            .map_or(0, Vec::len);
        let mut overrides = vec![
            ("RELAY__STATE_DIR".to_owned(), dir.join("state").display().to_string()),
            ("RELAY__WORKERS".to_owned(), "1".to_owned()),
            ("RELAY__ADMIN__ADDRESS".to_owned(), admin.to_string()),
            ("RELAY__EXTERNAL__IPV4".to_owned(), RELAY_IP.to_owned()),
            ("RELAY__EXTERNAL__IPV6".to_owned(), "off".to_owned()),
            ("RELAY__RELAY__IPV4".to_owned(), RELAY_IP.to_owned()),
            ("RELAY__RELAY__PORTS".to_owned(), "20000-29999".to_owned()),
            // All listeners are on loopback, where no name resolves to them.
            ("RELAY__API__HOST".to_owned(), "127.0.0.1".to_owned()),
        ];
        for index in 0..listeners.max(1) {
            overrides.push((format!("RELAY__LISTENER__{index}__BIND"), door.to_string()));
        }
        let child = spawn(&dir, &overrides);
        let mut server = Self {
            child,
            dir,
            plain: door,
            tls: door,
            door,
            admin,
        };
        server.wait_until_ready();
        server
    }

    fn launch(sections: &str, ipv6: &str, overrides: &[(String, String)]) -> Self {
        Self::launch_with(sections, ipv6, |dir| spawn(dir, overrides))
    }

    fn launch_with(sections: &str, ipv6: &str, spawn: impl FnOnce(&Path) -> Child) -> Self {
        let dir = Folder::new();
        let [plain, tls, door, admin] = [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let config = format!(
            r#"realm = "relay.test"
state_dir = "{state}"
workers = 2

[external]
ipv4 = "{RELAY_IP}"
ipv6 = "{ipv6}"

[relay]
ipv4 = "{RELAY_IP}"
ports = "20000-29999"

[admin]
address = "{admin}"

[[listener]]
bind = "{plain}"
protocols = ["udp", "tcp"]

[[listener]]
bind = "{tls}"
protocols = ["dtls", "tls", "tcp"]

[[listener]]
bind = "{door}"
protocols = ["udp", "dtls", "tcp", "tls", "https"]

{sections}"#,
            state = dir.join("state").display()
        );
        let config = config.replace("@DOOR@", &door.port().to_string());
        std::fs::write(dir.join("relay.toml"), config).expect("the configuration is written");
        let child = spawn(&dir);
        let mut server = Self {
            child,
            dir,
            plain,
            tls,
            door,
            admin,
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            if self.admin_get("/readyz").is_some_and(|(status, _)| status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The path of a file of this server.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The server's output so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the server is there");
    }

    /// Waits until the log contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "waited for {text:?} in the log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Status and body of a GET on the admin listener.
    pub(crate) fn admin_get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        parse_http(&answer)
    }

    /// The sum of a metric's samples whose labels contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.admin_get("/metrics").expect("metrics");
        text.lines()
            .filter(|l| l.starts_with(name) && l[name.len()..].starts_with([' ', '{']) && l.contains(labels))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until [`Self::metric`] is `expected`: workers count their work after a client has seen
    /// the result.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &str, expected: f64) {
        self.wait_until_metric(name, labels, &format!("{expected}"), |value| value == expected);
    }

    /// Waits until [`Self::metric`] is at least `least`.
    pub(crate) fn wait_for_metric_of_at_least(&self, name: &str, labels: &str, least: f64) {
        self.wait_until_metric(name, labels, &format!("at least {least}"), |value| value >= least);
    }

    fn wait_until_metric(&self, name: &str, labels: &str, text: &str, holds: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name, labels);
            if holds(value) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited for {name} {labels} to be {text}, and it is {value}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asserts that the server still serves and that nothing in it panicked.
    pub(crate) fn assert_healthy(&mut self) {
        assert!(
            self.child.try_wait().expect("the child is ours").is_none(),
            "the server died:\n{}",
            self.log()
        );
        assert!(!self.log().contains("panicked"), "a panic:\n{}", self.log());
        let (status, body) = self.admin_get("/healthz").expect("healthz answers");
        assert_eq!(status, 200, "{body}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- server log\n{}---", self.log());
        }
    }
}

/// Splits an HTTP/1.1 response into status and body (no chunking: the server sends lengths).
pub(crate) fn parse_http(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn spawn(dir: &Path, overrides: &[(String, String)]) -> Child {
    spawn_command(Command::new(env!("CARGO_BIN_EXE_relay")), dir, overrides)
}

fn spawn_command(mut command: Command, dir: &Path, overrides: &[(String, String)]) -> Child {
    let log = File::create(dir.join("log")).expect("a log file");
    command
        .arg("--config")
        .arg(dir.join("relay.toml"))
        // All clients of these tests have the same address; other tests cover the limits per
        // address.
        .env("RELAY__LIMITS__LOGIN_FAILURES_PER_SECOND", "10000")
        .env("RELAY__LIMITS__CHALLENGES_PER_SECOND", "10000")
        .env("RELAY__LIMITS__CHALLENGE_BURST", "10000")
        .envs(overrides.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the program starts")
}

/// A login minted with `secret` that expires `ttl` seconds from now (negative: has expired).
pub(crate) fn minted(secret: &str, ttl: i64, id: &str) -> crate::client::Login {
    use base64::Engine as _;
    use hmac::{KeyInit, Mac};
    let now = relay::net::clock::unix_now().0;
    let username = format!("{}:{id}", now.checked_add_signed(ttl).expect("in range"));
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(username.as_bytes());
    let password = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    crate::client::Login { username, password }
}

/// A UDP peer on 127.0.0.2 that sends everything back, until dropped.
pub(crate) struct EchoPeer {
    pub(crate) address: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<SocketAddr>>>,
}

impl EchoPeer {
    pub(crate) fn start() -> Self {
        Self::start_on("127.0.0.2:0")
    }

    pub(crate) fn start_on(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("a free port");
        let address = socket.local_addr().expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sources = Vec::new();
            let mut buf = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buf) {
                    let _ = socket.send_to(&buf[..n], from);
                    if !sources.contains(&from) {
                        sources.push(from);
                    }
                }
            }
            sources
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// Stops, and returns the source addresses it has seen.
    pub(crate) fn sources(mut self) -> Vec<SocketAddr> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .expect("not stopped yet")
            .join()
            .expect("the peer runs")
    }
}

impl Drop for EchoPeer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
