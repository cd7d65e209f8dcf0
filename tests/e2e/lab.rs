//! A small internet in network namespaces: clients, the relay and an SFU, joined by a router with a
//! firewall.
//!
//! ```text
//!  client 0  192.0.2.10 ───┐
//!                          ├── router (nftables) ──┬── relay  198.51.100.10
//!  client 1  192.0.2.138 ──┘                       └── sfu    203.0.113.10
//! ```
//!
//! Every lab has its own namespaces, so addresses never collide. Their names contain the test's
//! process id, so labs of several runs do not collide either. A lab removes itself when dropped.
//! The next run removes what a killed run leaves behind, which it recognises by the released lock.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::run;
use crate::requirements;

/// The relay's name for clients.
pub(crate) const RELAY_HOST: &str = "turn.example.test";
/// Addresses of the two clients.
pub(crate) const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 138)];
/// Address of the relay.
pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Address of the SFU, and of any other peer.
pub(crate) const SFU: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The SFU's network, which the relay's configuration must allow.
pub(crate) const SFU_NETWORK: &str = "203.0.113.0/24";

/// Prefix of the names of everything that a lab creates on the machine.
pub(crate) const PREFIX: &str = "relay-e2e-";
const LOCKS: &str = "/run/lock";
const PROGRAMS: &[&str] = &["ip", "nft", "setpriv", "tc"];

/// What the router forwards between clients and the rest. Relay and SFU always reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// TCP port 443 of the relay, nothing else.
    OnlyTcp443,
    /// UDP port 443 of the relay, nothing else.
    OnlyUdp443,
    /// Everything.
    Open,
}

/// Packets that the router forwarded from or to clients, and packets of clients that it refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// TCP, port 443 of the relay.
    pub(crate) tcp_443: u64,
    /// UDP, port 443 of the relay.
    pub(crate) udp_443: u64,
    /// Anything else.
    pub(crate) other: u64,
    /// Refused.
    pub(crate) refused: u64,
}

/// The namespaces with their links, and a folder for files.
pub(crate) struct Lab {
    id: String,
    clients: Vec<Namespace>,
    relay: Namespace,
    sfu: Namespace,
    router: Namespace,
    folder: PathBuf,
}

impl Lab {
    /// Builds a lab whose tests start `programs`.
    pub(crate) fn new(firewall: Firewall, programs: &[&str]) -> Self {
        requirements::check(&[PROGRAMS, programs].concat());
        hold_lock();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(&id);
        let namespace = |role: &str| Namespace {
            name: format!("{id}-{role}"),
            role: role.to_owned(),
        };
        // The value exists before its parts, so that dropping it cleans up after a failure midway.
        let lab = Self {
            clients: vec![namespace("client0"), namespace("client1")],
            relay: namespace("relay"),
            sfu: namespace("sfu"),
            router: namespace("router"),
            id,
            folder,
        };
        fs::create_dir_all(&lab.folder).expect("the temporary folder is writable");
        for namespace in lab.namespaces() {
            namespace.create();
        }
        // This file shows the setting for the namespace of the thread that opens it.
        lab.router
            .within(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
            .expect("forwarding can be switched on inside a namespace");
        for (namespace, address, prefix) in [
            (&lab.clients[0], CLIENTS[0], 25),
            (&lab.clients[1], CLIENTS[1], 25),
            (&lab.relay, RELAY, 24),
            (&lab.sfu, SFU, 24),
        ] {
            lab.wire(namespace, address, prefix);
        }
        for namespace in lab.clients.iter().chain([&lab.relay, &lab.sfu]) {
            namespace.wait_until_wired();
        }
        lab.set_firewall(firewall);
        lab
    }

    /// One of the two clients.
    pub(crate) fn client(&self, index: usize) -> &Namespace {
        &self.clients[index]
    }

    /// The relay's namespace.
    pub(crate) fn relay(&self) -> &Namespace {
        &self.relay
    }

    /// The namespace of the SFU, or of another peer.
    pub(crate) fn sfu(&self) -> &Namespace {
        &self.sfu
    }

    /// A folder that is removed with the lab.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Limits the link to a client (`rate` in the notation of `tc`), with a queue of half a second,
    /// as home routers have.
    pub(crate) fn narrow_client(&self, index: usize, rate: &str) {
        let device = router_side(self.client(index));
        let mut tc = self.router.command("tc");
        run(tc
            .args(["qdisc", "replace", "dev", &device, "root", "tbf", "rate", rate])
            .args(["burst", "4kb", "latency", "500ms"]));
    }

    /// How many packets exceeded the rate of a limited link.
    pub(crate) fn overruns(&self, index: usize) -> u64 {
        let device = router_side(self.client(index));
        let mut tc = self.router.command("tc");
        let text = run(tc.args(["-json", "-statistics", "qdisc", "show", "dev", &device]));
        let json: Value = serde_json::from_str(&text).expect("tc prints JSON when asked to");
        json[0]["overlimits"].as_u64().expect("a narrowed wire counts")
    }

    /// The router's counts so far.
    pub(crate) fn passed(&self) -> Passed {
        Passed {
            tcp_443: self.counter("passed_tcp_443"),
            udp_443: self.counter("passed_udp_443"),
            other: self.counter("passed_other"),
            refused: self.counter("refused"),
        }
    }

    /// Packets counted by a named counter of the router's rules.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let text = run(self.router.command("nft").args(["--json", "list", "counters"]));
        let json: Value = serde_json::from_str(&text).expect("nft prints JSON when asked to");
        let entries = json["nftables"].as_array().into_iter().flatten();
        let mut counters = entries
            .map(|entry| &entry["counter"])
            .filter(|counter| counter["name"] == name);
        counters
            .next()
            .and_then(|counter| counter["packets"].as_u64())
            .expect("the rule set has this counter")
    }

    /// Two chains: the first decides, and the second only counts what passed, so the count does not
    /// depend on the rules under test.
    fn set_firewall(&self, firewall: Firewall) {
        let allowed = match firewall {
            Firewall::OnlyTcp443 => {
                "ip daddr $relay tcp dport 443 accept
                 ip saddr $relay tcp sport 443 accept"
            }
            Firewall::OnlyUdp443 => {
                "ip daddr $relay udp dport 443 accept
                 ip saddr $relay udp sport 443 accept"
            }
            Firewall::Open => "accept",
        };
        let rules = format!(
            "define clients = 192.0.2.0/24
             define relay = {RELAY}
             define sfu = {SFU}
             table ip lab {{
               counter passed_tcp_443 {{ }}
               counter passed_udp_443 {{ }}
               counter passed_other {{ }}
               counter refused {{ }}
               chain forward {{
                 type filter hook forward priority 0; policy drop;
                 ip saddr $relay ip daddr $sfu accept
                 ip saddr $sfu ip daddr $relay accept
                 {allowed}
                 counter name refused
               }}
               chain passed {{
                 type filter hook postrouting priority 300; policy accept;
                 ip saddr $clients ip daddr $relay tcp dport 443 counter name passed_tcp_443 accept
                 ip saddr $relay ip daddr $clients tcp sport 443 counter name passed_tcp_443 accept
                 ip saddr $clients ip daddr $relay udp dport 443 counter name passed_udp_443 accept
                 ip saddr $relay ip daddr $clients udp sport 443 counter name passed_udp_443 accept
                 ip saddr $clients counter name passed_other
                 ip daddr $clients counter name passed_other
               }}
             }}"
        );
        self.add_rules("firewall", &rules);
    }

    /// Adds `rules` to the router; `name` is the name of their file.
    pub(crate) fn add_rules(&self, name: &str, rules: &str) {
        let file = self.folder.join(format!("{name}.nft"));
        fs::write(&file, rules).expect("the lab's folder is writable");
        run(self.router.command("nft").arg("--file").arg(file));
    }

    /// Connects a namespace to the router; the router is `.1` of the same network (`.129` for the
    /// upper half).
    fn wire(&self, namespace: &Namespace, address: Ipv4Addr, prefix: u8) {
        let router_side = router_side(namespace);
        let mut gateway = address.octets();
        gateway[3] = (gateway[3] & if prefix == 25 { 0x80 } else { 0 }) + 1;
        let gateway = Ipv4Addr::from(gateway);
        run(Command::new("ip")
            .args(["link", "add", &router_side, "netns", &self.router.name, "type", "veth"])
            .args(["peer", "name", "eth0", "netns", &namespace.name]));
        for (namespace, device, address) in [
            (&self.router, router_side.as_str(), gateway),
            (namespace, "eth0", address),
        ] {
            let address = format!("{address}/{prefix}");
            run(Command::new("ip").args(["-n", &namespace.name, "address", "add", &address, "dev", device]));
            run(Command::new("ip").args(["-n", &namespace.name, "link", "set", device, "up"]));
        }
        run(Command::new("ip").args([
            "-n",
            &namespace.name,
            "route",
            "add",
            "default",
            "via",
            &gateway.to_string(),
        ]));
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.clients.iter().chain([&self.relay, &self.sfu, &self.router])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            remove_namespace(&namespace.name);
        }
        if env::var_os("RELAY_E2E_KEEP").is_some() {
            eprintln!(
                "RELAY_E2E_KEEP is set: files of {} are kept in {}",
                self.id,
                self.folder.display()
            );
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The router's end of the link to `namespace`.
fn router_side(namespace: &Namespace) -> String {
    format!("to-{}", namespace.role)
}

/// One network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
    role: String,
}

impl Namespace {
    /// Its name for `ip netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in this namespace, and ends with the thread that starts it even if that
    /// is killed.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.name, program]);
        command
    }

    /// Runs `action` on a thread in this namespace. Its sockets stay in the namespace wherever they
    /// are used later.
    pub(crate) fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let enter = || -> io::Result<()> {
            let file = File::open(Path::new("/run/netns").join(&self.name))?;
            Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
        };
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().unwrap_or_else(|error| panic!("{} cannot be entered: {error}", self.name));
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits until the kernel reports the link as running. It forwards packets at once, but the
    /// kernel reports new links only once per second, and until then libnice finds no address here
    /// and never gathers anything.
    fn wait_until_wired(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !run(Command::new("ip").args(["-n", &self.name, "link", "show", "dev", "eth0"])).contains("state UP") {
            assert!(Instant::now() < deadline, "the wire to {} stays down", self.role);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn create(&self) {
        // Programs in this namespace see this file as /etc/resolv.conf, so their queries go to the
        // test (dns.rs).
        let etc = Path::new("/etc/netns").join(&self.name);
        fs::create_dir_all(&etc).expect("root may make /etc/netns");
        fs::write(
            etc.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )
        .expect("root may write in /etc/netns");
        run(Command::new("ip").args(["netns", "add", &self.name]));
        run(Command::new("ip").args(["-n", &self.name, "link", "set", "lo", "up"]));
    }
}

/// Takes this process's lock and removes what dead runs have left; once per process.
fn hold_lock() {
    static LOCK: OnceLock<File> = OnceLock::new();
    LOCK.get_or_init(|| {
        let file = take_lock(process::id());
        clear_leftovers();
        file
    });
}

/// The lock that marks the labs of the run `pid` as in use; held while the file is open.
pub(crate) fn take_lock(pid: u32) -> File {
    fs::create_dir_all(LOCKS).expect("root may write in /run");
    let file = File::create(lock_path(pid)).expect("root may write in /run/lock");
    file.lock().expect("a new lock file can be locked");
    file
}

fn lock_path(pid: u32) -> PathBuf {
    Path::new(LOCKS).join(format!("{PREFIX}{pid}.lock"))
}

/// Removes the labs of runs that have ended. The lock decides, because the system releases it when
/// a process ends for any reason, while a process id may already belong to another.
pub(crate) fn clear_leftovers() {
    let owner = |name: &str| -> Option<u32> { name.strip_prefix(PREFIX)?.split(['-', '.']).next()?.parse().ok() };
    let dead =
        |pid: u32| pid != process::id() && File::open(lock_path(pid)).map_or(true, |file| file.try_lock().is_ok());
    let names_in = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    for name in names_in(Path::new("/run/netns")) {
        if owner(&name).is_some_and(dead) {
            eprintln!("removing the network namespace {name} of an earlier run");
            remove_namespace(&name);
        }
    }
    for folder in [Path::new("/etc/netns"), &env::temp_dir()] {
        for name in names_in(folder) {
            if owner(&name).is_some_and(dead) {
                let _ = fs::remove_dir_all(folder.join(name));
            }
        }
    }
    for name in names_in(Path::new(LOCKS)) {
        if owner(&name).is_some_and(dead) {
            let _ = fs::remove_file(Path::new(LOCKS).join(name));
        }
    }
}

/// Ends what still runs in a namespace of the lab, and removes it with its links. Ignores errors,
/// because half-made namespaces get here too.
fn remove_namespace(name: &str) {
    let quiet = |command: &mut Command| command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    if let Ok(output) = quiet(Command::new("ip").args(["netns", "pids", name])) {
        for pid in String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.parse().ok())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = quiet(Command::new("ip").args(["netns", "delete", name]));
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(name));
}
