//! Resource usage of processes on this machine, from `/proc`.

use core::time::Duration;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Readings of some processes at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// CPU time of all their threads.
    pub(super) cpu: Duration,
    /// Resident memory, in bytes.
    pub(super) resident: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
}

impl Usage {
    /// Reads the processes together. `None`: none is named.
    ///
    /// # Errors
    /// When one has ended, or may not be read.
    pub(super) fn of(pids: &[u32]) -> io::Result<Option<Self>> {
        let mut all: Option<Self> = None;
        for &pid in pids {
            let one = Self::of_one(pid)?;
            all = Some(all.map_or(one, |sum| Self {
                cpu: sum.cpu + one.cpu,
                resident: sum.resident + one.resident,
                descriptors: sum.descriptors + one.descriptors,
            }));
        }
        Ok(all)
    }

    fn of_one(pid: u32) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut cpu = 0_u64;
        for thread in fs::read_dir(folder.join("task"))? {
            // In nanoseconds; `stat` has ticks of 10 ms. A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            cpu += first_number(&text);
        }
        let status = fs::read_to_string(folder.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(Self {
            cpu: Duration::from_nanos(cpu),
            resident: resident.map_or(0, first_number) * 1024,
            descriptors: fs::read_dir(folder.join("fd"))?.count() as u64,
        })
    }
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let this = std::process::id();
        let usage = Usage::of(&[this]).unwrap().unwrap();
        assert!(usage.resident > 100_000 && usage.descriptors >= 3, "{usage:?}");
        let twice = Usage::of(&[this, this]).unwrap().unwrap();
        assert!(twice.resident > usage.resident + 100_000, "{twice:?}");
        assert!(Usage::of(&[this, u32::MAX]).is_err());
        assert!(Usage::of(&[]).unwrap().is_none());
    }
}
