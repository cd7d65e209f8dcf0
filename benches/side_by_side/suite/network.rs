//! Two network namespaces joined by a veth pair: server and generator on separate machines, as far
//! as one kernel can simulate them.
//!
//! What the generator sends arrives packet by packet (its end accepts no large packets), so the
//! server's own GRO does all coalescing. The server pays for segmenting what it sends in one piece.
//! The receive side of its end runs in a thread on the server's core and counts as part of the
//! server.

use std::fs;
use std::process::Command;

use super::servers::{GENERATOR_CORE, SERVER_CORE};

const SERVER: &str = "relay-bench-srv";
const GENERATOR: &str = "relay-bench-gen";
const SERVER_END: &str = "rbench0";
const GENERATOR_END: &str = "rbench1";
/// The server's address.
pub(super) const SERVER_IP: &str = "10.77.0.1";
const GENERATOR_IP: &str = "10.77.0.2";

/// The pair of namespaces, removed when dropped.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// The thread that receives for the server.
    pub(super) receiver: Option<u32>,
}

impl Namespaces {
    /// Creates the pair. Removes left-overs of a run that was killed.
    pub(super) fn make() -> Result<Self, String> {
        drop(Self { receiver: None });
        let mut made = Self { receiver: None };
        for name in [SERVER, GENERATOR] {
            run(&["ip", "netns", "add", name])?;
            run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        }
        let mut link = vec!["ip", "link", "add", SERVER_END, "netns", SERVER, "mtu", "1500"];
        link.extend(["numrxqueues", "1", "numtxqueues", "1", "type", "veth"]);
        link.extend(["peer", "name", GENERATOR_END, "netns", GENERATOR, "mtu", "1500"]);
        link.extend(["numrxqueues", "1", "numtxqueues", "1"]);
        run(&link)?;
        for (namespace, end, ip) in [
            (SERVER, SERVER_END, SERVER_IP),
            (GENERATOR, GENERATOR_END, GENERATOR_IP),
        ] {
            run(&["ip", "-n", namespace, "address", "add", &format!("{ip}/24"), "dev", end])?;
            run(&["ip", "-n", namespace, "link", "set", end, "up"])?;
            let inside = ["ip", "netns", "exec", namespace];
            // Without TSO at the other end, a veth receives through NAPI, and GRO works.
            let mut offloads = inside.to_vec();
            offloads.extend([
                "ethtool",
                "-K",
                end,
                "gro",
                "on",
                "tso",
                "off",
                "tx-udp-segmentation",
                "off",
            ]);
            run(&offloads)?;
            let threaded = format!("echo 1 > /sys/class/net/{end}/threaded");
            let mut thread = inside.to_vec();
            thread.extend(["sh", "-c", &threaded]);
            run(&thread)?;
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        for (end, core) in [(SERVER_END, SERVER_CORE), (GENERATOR_END, GENERATOR_CORE)] {
            let thread = napi_thread(end).ok_or_else(|| format!("no thread receives for {end}"))?;
            run(&["taskset", "-pc", core, &thread.to_string()])?;
            // It has priority, like the interrupt that it stands for.
            run(&["chrt", "-f", "-p", "10", &thread.to_string()])?;
            if end == SERVER_END {
                made.receiver = Some(thread);
            }
        }
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [SERVER, GENERATOR] {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

/// Runs a command in the server's namespace.
pub(super) const AT_SERVER: [&str; 4] = ["ip", "netns", "exec", SERVER];
/// Runs a command in the generator's namespace.
pub(super) const AT_GENERATOR: [&str; 4] = ["ip", "netns", "exec", GENERATOR];

fn napi_thread(end: &str) -> Option<u32> {
    let prefix = format!("napi/{end}-");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with(&prefix).then_some(pid)
    })
}

fn run(words: &[&str]) -> Result<(), String> {
    let (program, arguments) = words.split_first().expect("never empty");
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", words.join(" "), told.trim_end()))
}
