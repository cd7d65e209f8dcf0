//! A program started as another user, with a network of its own, and a directory for its files.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sched::{CloneFlags, setns};

/// No step of these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Fails unless root runs the tests and the programs are there: nothing here is skipped in silence.
pub(crate) fn require(programs: &[&str]) {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    assert!(root, "these tests start programs as other users: run them as root");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for program in programs {
        let found = folders.iter().any(|folder| folder.join(program).is_file());
        assert!(
            found,
            "`{program}` is not installed: `tests/install-packages` installs it"
        );
    }
}

/// The project's own file.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a command that must succeed, within a minute; what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = Command::new("timeout")
        .args(["--verbose", "60"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap_or_else(|error| panic!("timeout (coreutils): {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// A directory that everybody may enter, and that is gone afterwards.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("relay-deploy-{}-{count}", std::process::id()));
        run(Command::new("install").args(["-d", "-m", "755"]).arg(&path));
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program in a network namespace of its own. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a new network namespace that has a loopback interface. What it prints goes to `log`.
    pub(crate) fn start(command: &[&str], log: PathBuf) -> Self {
        let file = File::create(&log).expect("log");
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("unshare");
        Self { child, log }
    }

    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).expect("log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let begin = Instant::now();
        while !self.log().contains("is ready") {
            let ended = self.child.try_wait().expect("wait");
            assert!(ended.is_none(), "it ended ({ended:?}):\n{}", self.log());
            assert!(begin.elapsed() < PATIENCE, "not ready in {PATIENCE:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does something in the program's network.
    pub(crate) fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.child.id())).expect("its network namespace");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("its network can be entered");
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the program's own machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
