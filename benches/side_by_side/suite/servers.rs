//! Starts servers, with one worker each on a separate core, and stops them.

use core::time::Duration;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::cases::Case;
use super::network::{AT_GENERATOR, AT_SERVER, Namespaces, SERVER_IP};
use super::{BARE, Options, PAUSED, RELAY};

pub(super) const SERVER_CORE: &str = "0";
pub(super) const GENERATOR_CORE: &str = "1";

/// Long enough to avoid a warning; it protects nothing.
const SECRET: &str = "k8Yw3Zr6Tq1Vn5Xb9Mc2Lp7Jd4Hs0Gf-measured-here";
const PLAIN: u16 = 3478;
const TLS: u16 = 5349;
const ADMIN: u16 = 9478;
/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The measured servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Server {
    Relay,
    Coturn,
    /// turn-rs, whose program has another name.
    #[value(name = "turn-server")]
    TurnRs,
    /// Relays without any checks.
    Bare,
    /// The same with a pause before each drain, as long as the relay's.
    #[value(name = "bare-paused")]
    Paused,
}

/// All servers, in the order of table and plots.
pub(super) const ALL: [Server; 5] = [
    Server::Relay,
    Server::Coturn,
    Server::TurnRs,
    Server::Bare,
    Server::Paused,
];

impl Server {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Coturn => "coturn",
            Self::TurnRs => "turn-server",
            Self::Bare => BARE,
            Self::Paused => PAUSED,
        }
    }
}

/// The common parameters of all servers.
pub(super) struct Setup {
    folder: PathBuf,
    turn_server: PathBuf,
    pinned: bool,
    loopback: IpAddr,
}

/// A running server, stopped when dropped.
pub(super) struct Running {
    child: Child,
    ip: IpAddr,
    log: PathBuf,
}

/// One measurement.
pub(super) struct Bench<'a> {
    pub(super) case: &'a Case,
    pub(super) seconds: u32,
    pub(super) running: &'a Running,
    pub(super) place: Option<&'a Namespaces>,
}

impl Setup {
    /// Writes secret and certificate.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let folder = options.out.join("servers");
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let certified = rcgen::generate_simple_self_signed(vec!["bench.test".to_owned()])
            .map_err(|error| format!("a certificate: {error}"))?;
        let setup = Self {
            folder,
            turn_server: options.turn_server.clone(),
            pinned: !options.unpinned,
            // Each run has its own address, so that concurrent runs do not interfere.
            loopback: IpAddr::V4(Ipv4Addr::from(0x7F4D_0001 + (std::process::id() % 0xFE00 + 1) * 2)),
        };
        setup.file("secret", SECRET)?;
        setup.file("cert.pem", &certified.cert.pem())?;
        setup.file("key.pem", &certified.signing_key.serialize_pem())?;
        Ok(setup)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A command in its namespace and on its core.
    fn command(&self, program: &Path, core: &str, namespace: Option<[&str; 4]>) -> Command {
        let mut words: Vec<&str> = namespace.map(Vec::from).unwrap_or_default();
        if self.pinned {
            words.extend(["taskset", "-c", core]);
        }
        let Some((first, rest)) = words.split_first() else {
            return Command::new(program);
        };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }

    /// Starts `server` and waits until it listens.
    pub(super) fn start(&self, server: Server, place: Option<&Namespaces>) -> Result<Running, String> {
        let ip = match place {
            Some(_) => SERVER_IP.parse().map_err(|_| "an address".to_owned())?,
            None => self.loopback,
        };
        let (program, arguments) = self.program(server, ip)?;
        let log = self.folder.join(format!("{}.log", server.name()));
        let output = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let child = self
            .command(&program, SERVER_CORE, place.map(|_| AT_SERVER))
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut running = Running { child, ip, log };
        // This process cannot check whether a server in another namespace listens.
        if place.is_some() {
            std::thread::sleep(Duration::from_millis(1500));
            return Ok(running);
        }
        let start = Instant::now();
        while TcpStream::connect_timeout(&running.address(PLAIN), Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(format!("{} ended with {status}\n{}", server.name(), running.log()));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{} does not listen\n{}", server.name(), running.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// The program and its arguments, after writing its configuration.
    fn program(&self, server: Server, ip: IpAddr) -> Result<(PathBuf, Vec<String>), String> {
        let at = |config: PathBuf| config.display().to_string();
        Ok(match server {
            Server::Relay => {
                let config = self.file("relay.toml", &self.relay(ip))?;
                (RELAY.into(), vec!["--config".to_owned(), at(config)])
            }
            Server::Coturn => {
                let config = self.file("turnserver.conf", &self.coturn(ip))?;
                ("turnserver".into(), vec!["-c".to_owned(), at(config)])
            }
            Server::TurnRs => {
                let config = self.file("turn-server.toml", &turn_server(ip))?;
                (self.turn_server.clone(), vec![format!("--config={}", at(config))])
            }
            Server::Bare | Server::Paused => {
                let own = std::env::current_exe().map_err(|error| error.to_string())?;
                (
                    own,
                    vec![server.name().to_owned(), format!("{ip}:{PLAIN}"), format!("{ip}:{TLS}")],
                )
            }
        })
    }

    fn relay(&self, ip: IpAddr) -> String {
        let folder = self.folder.display();
        format!(
            r#"realm = "bench.test"
state_dir = "{folder}/state"
workers = 1
[credentials]
secret_file = "{folder}/secret"
[tls]
certificate = "{folder}/cert.pem"
private_key = "{folder}/key.pem"
[external]
ipv4 = "{ip}"
ipv6 = "off"
[relay]
ipv4 = "{ip}"
ports = "20000-29999"
[peers]
allow = ["127.0.0.0/8", "10.77.0.0/24"]
[limits]
allocations_per_user = 10000
allocations_per_ip = 10000
connections_per_ip = 10000
challenges_per_second = 100000
challenge_burst = 100000
all_challenges_per_second = 100000
[admin]
address = "{ip}:{ADMIN}"
[log]
level = "warn"
[[listener]]
bind = "{ip}:{PLAIN}"
protocols = ["udp", "tcp"]
[[listener]]
bind = "{ip}:{TLS}"
protocols = ["tls"]
"#
        )
    }

    fn coturn(&self, ip: IpAddr) -> String {
        let folder = self.folder.display();
        format!(
            "listening-ip={ip}\nrelay-ip={ip}\nlistening-port={PLAIN}\ntls-listening-port={TLS}\n\
             min-port=20000\nmax-port=29999\nrealm=bench.test\nuse-auth-secret\nstatic-auth-secret={SECRET}\n\
             relay-threads=1\nallow-loopback-peers\nno-cli\nno-dtls\nno-software-attribute\nno-stdout-log\n\
             log-file=/dev/null\ncert={folder}/cert.pem\npkey={folder}/key.pem\nuserdb={folder}/turndb\n\
             pidfile={folder}/turnserver.pid\nuser-quota=0\ntotal-quota=0\n"
        )
    }

    /// `relay bench` for a case, ready to run.
    pub(super) fn bench(&self, bench: &Bench<'_>) -> Command {
        let (case, running) = (bench.case, bench.running);
        let mut command = self.command(Path::new(RELAY), GENERATOR_CORE, bench.place.map(|_| AT_GENERATOR));
        let port = if case.carrier == "tls" { TLS } else { PLAIN };
        command.arg("bench").args(case.arguments.split(' '));
        command.args(["--transport", case.carrier, "--json"]);
        command.args(["--server", &running.address(port).to_string()]);
        command.args(["--seconds", &bench.seconds.to_string()]);
        command.arg("--secret-file").arg(self.folder.join("secret"));
        let receiver = bench.place.and_then(|place| place.receiver);
        for pid in [Some(running.child.id()), receiver].into_iter().flatten() {
            command.args(["--server-pid", &pid.to_string()]);
        }
        if bench.place.is_some() {
            command.arg("--i-own-this-server");
        }
        command
    }
}

impl Running {
    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Its standard error.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to save, and the next one needs its ports.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn turn_server(ip: IpAddr) -> String {
    let interface = |transport: &str| {
        format!(
            "[[server.interfaces]]\ntransport = \"{transport}\"\nlisten = \"{ip}:{PLAIN}\"\nexternal = \"{ip}:{PLAIN}\"\n"
        )
    };
    format!(
        "[server]\nrealm = \"bench.test\"\nmax-threads = 1\n{}{}[log]\nlevel = \"error\"\n[auth]\nstatic-auth-secret = \"{SECRET}\"\n",
        interface("udp"),
        interface("tcp")
    )
}
