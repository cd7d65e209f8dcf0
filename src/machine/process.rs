//! Figures and limits of this process from the operating system: file descriptors, memory, CPU
//! time, low ports.

use std::{fs, io};

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use rustix::time::{ClockId, clock_gettime};

/// Open file descriptors; `None` where `/proc` cannot be read.
pub fn open_fds() -> Option<u64> {
    // Since Linux 6.2 the directory's size is their number, which saves a walk through a million
    // entries.
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // The descriptor that lists them is in the list.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// The limit on file descriptors of this process; `None` means no limit.
pub fn max_fds() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the soft limit on file descriptors to the hard one and returns it.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_max_fds() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )?;
    }
    Ok(max_fds())
}

/// Uses the capability to bind ports below 1024 if the program's file only permits it (`setcap
/// cap_net_bind_service=+p`). Such a file also runs where the capability is withheld; one with
/// `+ep` does not. Threads started later inherit it.
///
/// # Errors
/// When the kernel refuses.
pub fn use_low_ports() -> io::Result<()> {
    let right = CapabilitySet::NET_BIND_SERVICE;
    let mut sets = capabilities(None)?;
    if sets.permitted.contains(right) && !sets.effective.contains(right) {
        sets.effective |= right;
        set_capabilities(None, sets)?;
    }
    Ok(())
}

/// Forbids core dumps of this process, and keeps other processes of its user from reading its
/// memory, which holds every secret. Root is not affected.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_looking_inside() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Resident memory in bytes; `None` where `/proc` cannot be read.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU time of all threads, in seconds.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "CPU seconds stay far below 2^53")]
    let seconds = time.tv_sec as f64;
    #[expect(clippy::cast_precision_loss, reason = "below 10^9")]
    let nanos = time.tv_nsec as f64;
    seconds + nanos / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opened_file_is_seen_and_every_value_is_there() {
        // Other tests of this binary open and close files meanwhile; the number opened here exceeds
        // theirs.
        let before = open_fds().expect("/proc");
        let files = (0..500)
            .map(|_| fs::File::open("/dev/null").expect("open"))
            .collect::<Vec<_>>();
        let during = open_fds().expect("/proc");
        assert!(
            during >= before + 400,
            "{before} before, {during} with {} more",
            files.len()
        );
        assert!(resident_bytes().expect("/proc") > 1024 * 1024);
        let clock = || {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
            core::time::Duration::new(seconds.expect("past"), nanos.expect("past")).as_secs_f64()
        };
        let (earlier, used, later) = (clock(), cpu_seconds(), clock());
        assert!(earlier <= used && used <= later, "{earlier} {used} {later}");
        assert!(max_fds().is_none_or(|max| max > during));
    }

    #[test]
    fn the_soft_limit_on_descriptors_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        // One less than before disturbs no other test.
        let lower = Rlimit {
            current: Some(hard.map_or(1 << 20, |hard| hard - 1)),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, lower).expect("lowering it is always allowed");
        let raised = raise_max_fds().expect("raising to the hard limit is always allowed");
        assert_eq!(raised, hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }

    #[test]
    fn the_right_to_low_ports_is_used_where_it_is_permitted_and_nothing_else_changes() {
        // Capabilities belong to the thread.
        let alone = std::thread::spawn(|| {
            let right = CapabilitySet::NET_BIND_SERVICE;
            let have = |change: fn(&mut rustix::thread::CapabilitySets)| {
                let mut sets = capabilities(None).expect("they can be read");
                change(&mut sets);
                set_capabilities(None, sets).expect("rights can be given up");
                use_low_ports().expect("what is not permitted is not asked for");
                (sets, capabilities(None).expect("they can be read"))
            };
            let (before, after) = have(|sets| sets.effective.remove(CapabilitySet::NET_BIND_SERVICE));
            let used = before.effective.union(before.permitted.intersection(right));
            assert_eq!((after.effective, after.permitted), (used, before.permitted));
            let (before, after) = have(|sets| {
                sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
                sets.permitted.remove(CapabilitySet::NET_BIND_SERVICE);
            });
            assert_eq!((after.effective, after.permitted), (before.effective, before.permitted));
        });
        alone.join().expect("all of it holds");
    }
}
