//! What a process on this machine has used, from `/proc`.

use core::time::Duration;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Readings of one process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// CPU time of all its threads.
    pub(super) cpu: Duration,
    /// Resident memory, in bytes.
    pub(super) resident: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
}

impl Usage {
    /// Reads process `pid`.
    ///
    /// # Errors
    /// It is gone, or not ours to look into.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut cpu = 0_u64;
        for thread in fs::read_dir(folder.join("task"))? {
            // In nanoseconds, where `stat` has ticks of 10 ms. A thread may end meanwhile.
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
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 100_000 && usage.descriptors >= 3, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }
}
