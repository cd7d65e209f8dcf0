//! Starts the real program on loopback and talks to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use relay::net::clock::unix_now;
use relay::wire::attribute::AttributeType;
use relay::wire::integrity::{Integrity, Key, PasswordAlgorithm};
use relay::wire::message::{Class, Message, Method, TransactionId};
use relay::wire::writer::MessageWriter;
use relay_client::accept_any_certificate;
use relay_testkit::ports::free_port;

/// No step of these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const REALM: &str = "test.example.org";

/// Ports that nobody uses, over UDP and TCP alike.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The running program. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    output: Pipe,
    errors: Pipe,
}

impl Server {
    /// Starts `relay --config config`, with `environment` and nothing else of ours in the environment.
    pub(crate) fn spawn(config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command
            .arg("--config")
            .arg(config)
            .env_clear()
            .envs(environment.iter().copied());
        Self::spawn_command(command)
    }

    /// The same without a file.
    pub(crate) fn spawn_without_file(environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
        command.env_clear().envs(environment.iter().copied());
        Self::spawn_command(command)
    }

    pub(crate) fn spawn_command(mut command: Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let output = Pipe::collect(child.stdout.take().expect("stdout"));
        let errors = Pipe::collect(child.stderr.take().expect("stderr"));
        Self { child, output, errors }
    }

    /// Starts it as an ordinary user with a network of its own.
    pub(crate) fn spawn_unprivileged(config: &Path) -> Self {
        // No user is mapped into the new user namespace, so the program has no capability there; the new network is
        // owned by that namespace and has the default bounds on ports.
        let isolate = ["--user", "--net"];
        let allowed = Command::new("unshare").args(isolate).arg("true").output();
        assert!(
            allowed.as_ref().is_ok_and(|output| output.status.success()),
            "`unshare` (util-linux) must make user and network namespaces here: {allowed:?}\n\
             Run the tests as root, or allow users to: kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
        );
        let mut command = Command::new("unshare");
        command
            .args(isolate)
            .arg(env!("CARGO_BIN_EXE_relay"))
            .arg("--config")
            .arg(config);
        Self::spawn_command(command)
    }

    /// Starts it in a network of its own that has no address but loopback's yet. Root within it is whoever runs the test.
    pub(crate) fn spawn_in_own_network(config: &Path) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--net"])
            // Without a route of its own the kernel would let anything be bound.
            .args(["bash", "-c", "ip link set lo up && exec \"$0\" --config \"$1\""])
            .arg(env!("CARGO_BIN_EXE_relay"))
            .arg(config);
        Self::spawn_command(command)
    }

    /// Runs a command in the network of [`Self::spawn_in_own_network`].
    pub(crate) fn run_in_its_network(&self, command: &str) {
        let pid = self.child.id().to_string();
        let output = Command::new("nsenter")
            .args(["--preserve-credentials", "--user", "--net", "--target", &pid])
            .args(["bash", "-c", command])
            .output()
            .expect("nsenter runs");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Starts and waits until it serves.
    pub(crate) fn start(config: &Path) -> Self {
        let mut server = Self::spawn(config, &[]);
        server.wait_for_output("is ready");
        server
    }

    /// What it has printed.
    pub(crate) fn output(&self) -> String {
        self.output.text()
    }

    /// What it has logged.
    pub(crate) fn errors(&self) -> String {
        self.errors.text()
    }

    pub(crate) fn wait_for_output(&mut self, text: &str) {
        self.wait(text, PATIENCE, |server| server.output().contains(text));
    }

    pub(crate) fn wait_for_log(&mut self, text: &str) {
        self.wait_for_log_within(text, PATIENCE);
    }

    pub(crate) fn wait_for_log_within(&mut self, text: &str, limit: Duration) {
        self.wait(text, limit, |server| server.errors().contains(text));
    }

    fn wait(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            let exited = self.child.try_wait().expect("wait");
            if exited.is_some() {
                self.collect_last_words();
            }
            if exited.is_some() || begin.elapsed() > limit {
                if done(self) {
                    return;
                }
                let (out, err) = (self.output(), self.errors());
                panic!("waited for {what:?} ({exited:?})\n--- output\n{out}\n--- errors\n{err}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a process wrote last may still be on its way when it has ended.
    fn collect_last_words(&self) {
        eventually("its output ends with it", || {
            self.output.reader.is_finished() && self.errors.reader.is_finished()
        });
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("pid");
        signal::kill(Pid::from_raw(pid), signal).expect("signal");
    }

    /// Waits for the end; `None` if it does not come within `limit`.
    pub(crate) fn exit_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                self.collect_last_words();
                return Some(status);
            }
            if begin.elapsed() > limit {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program writes to a pipe.
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Pipe {
    /// Reads until the program closes it. What it writes at once is there at once, not line by line.
    fn collect(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut part = vec![0; 65_536];
            while let Ok(len @ 1..) = pipe.read(&mut part) {
                sink.lock().expect("lock").extend_from_slice(&part[..len]);
            }
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("lock")).into_owned()
    }
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An HTTP answer: status and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One HTTP/1.1 request over any connection.
pub(crate) fn http(mut connection: impl Read + Write, request: &str) -> Answer {
    connection.write_all(request.as_bytes()).expect("write");
    let mut bytes = Vec::new();
    // A server that closes without TLS's goodbye has still said everything: the length below tells.
    let _ = connection.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("status");
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).expect("connect")
}

pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    http(connect(address), &request)
}

/// What became of an Allocate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The relayed transport address.
    Allocated(SocketAddr),
    /// Another challenge or another error: the last error code.
    Refused(u16),
    /// Nothing came back.
    Silence,
}

/// A host name of the certificate that a new client is shown.
pub(crate) fn name_shown(server: SocketAddr) -> String {
    let mut tls = tls(connect(server));
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).expect("handshake");
    }
    let certificate = &tls.conn.peer_certificates().expect("a certificate")[0];
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("X.509");
    let names = parsed.subject_alternative_name().expect("well-formed").expect("names");
    names.value.general_names[0]
        .to_string()
        .replace("DNSName(", "")
        .replace(')', "")
}

/// Allocates over one message exchange after the other.
pub(crate) trait Client {
    /// Sends a request and waits for its answer; `None` if none comes.
    fn exchange(&mut self, request: &[u8]) -> Option<Vec<u8>>;

    /// Allocates with a long-term credential: once without, to be given the nonce, and once with it.
    fn allocate(&mut self, username: &str, password: &str) -> Outcome {
        let Some(challenge) = self.exchange(&allocate(|_| {})) else {
            return Outcome::Silence;
        };
        let challenge = Message::parse(&challenge).expect("a STUN message");
        let nonce = challenge.attribute(AttributeType::NONCE).expect("a nonce").to_vec();
        let key = Key::long_term(username.as_bytes(), REALM, password.as_bytes(), PasswordAlgorithm::Md5);
        let answer = self.exchange(&allocate(|writer| {
            writer.attribute(AttributeType::USERNAME, username.as_bytes());
            writer.attribute(AttributeType::REALM, REALM.as_bytes());
            writer.attribute(AttributeType::NONCE, &nonce);
            if let Some(algorithms) = challenge.attribute(AttributeType::PASSWORD_ALGORITHMS) {
                writer.attribute(AttributeType::PASSWORD_ALGORITHMS, algorithms);
                writer.attribute(AttributeType::PASSWORD_ALGORITHM, &[0, 1, 0, 0]);
            }
            writer.integrity(&key, Integrity::Sha1);
        }));
        let Some(answer) = answer else { return Outcome::Silence };
        let answer = Message::parse(&answer).expect("a STUN message");
        if answer.class() == Class::Success {
            let relayed = answer
                .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
                .expect("well-formed");
            return Outcome::Allocated(relayed.expect("a relayed address"));
        }
        let code = answer.attribute(AttributeType::ERROR_CODE).expect("an error code");
        Outcome::Refused(u16::from(code[2]) * 100 + u16::from(code[3]))
    }
}

fn allocate(add: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut id = TransactionId([0; 12]);
    getrandom::fill(&mut id.0).expect("random");
    let mut request = vec![0; 1024];
    let mut writer = MessageWriter::new(&mut request, Class::Request, Method::Allocate, id);
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    add(&mut writer);
    let length = writer.finish().expect("fits");
    request.truncate(length);
    request
}

/// Over UDP.
pub(crate) struct Udp(UdpSocket);

impl Udp {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Self(socket)
    }
}

impl Client for Udp {
    fn exchange(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        self.0.send(request).expect("send");
        let mut answer = vec![0; 2048];
        let length = self.0.recv(&mut answer).ok()?;
        answer.truncate(length);
        Some(answer)
    }
}

/// Over TCP or TLS.
pub(crate) struct Stream<S>(pub(crate) S);

impl<S: Read + Write> Client for Stream<S> {
    fn exchange(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        self.0.write_all(request).ok()?;
        let mut answer = vec![0; 20];
        self.0.read_exact(&mut answer).ok()?;
        answer.resize(20 + usize::from(u16::from_be_bytes([answer[2], answer[3]])), 0);
        self.0.read_exact(&mut answer[20..]).ok()?;
        Some(answer)
    }
}

/// A time-limited credential of `secret`, good for an hour.
pub(crate) fn credential(secret: &str) -> (String, String) {
    let expiry = relay::base::time::UnixTime(unix_now().0 + 3600);
    let minted = relay::turn::login::credential::mint(secret.as_bytes(), expiry, Some("tester")).expect("minted");
    (minted.username, minted.password)
}

pub(crate) type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A TLS client that trusts whatever the server shows: its certificate is tested elsewhere.
pub(crate) fn tls(stream: TcpStream) -> Tls {
    let config = accept_any_certificate(&[]).expect("a TLS client");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("name");
    let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("client");
    rustls::StreamOwned::new(connection, stream)
}
