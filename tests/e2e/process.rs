//! Programs of the lab: started inside a namespace with their output in a file, and ended by
//! process id within a time limit.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started program. Dropping it ends it: SIGTERM, a short wait, SIGKILL.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its standard error in `folder/NAME.log`, and its standard output too
    /// unless `command` says otherwise.
    pub(crate) fn start(name: &str, folder: &Path, mut command: Command, output: Output) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("the lab's folder takes a log file");
        command.stderr(file.try_clone().expect("a file handle can be doubled"));
        match output {
            Output::Log => command.stdin(Stdio::null()).stdout(file),
            Output::Piped => command.stdin(Stdio::piped()).stdout(Stdio::piped()),
        };
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// The pipes to standard input and from standard output of a program started with
    /// [`Output::Piped`].
    pub(crate) fn pipes(&mut self) -> (std::process::ChildStdin, std::process::ChildStdout) {
        let input = self.child.stdin.take().expect("started with pipes, taken once");
        let output = self.child.stdout.take().expect("started with pipes, taken once");
        (input, output)
    }

    /// Everything the program has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Fails the test, with the log, if the program has ended by itself.
    pub(crate) fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended by itself ({status}):\n{}", self.name, tail(&self.log(), 60));
        }
    }

    /// Waits until `ready` holds, failing when the program ends first or `limit` passes.
    pub(crate) fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + limit;
        while !ready(self) {
            self.assert_running();
            assert!(
                Instant::now() < deadline,
                "{}: {what}: not within {limit:?}; its log:\n{}",
                self.name,
                tail(&self.log(), 60)
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the program to end by itself; `None` when it is still running after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(None) => return None,
                Err(error) => panic!("{}: cannot be waited for: {error}", self.name),
            }
        }
    }

    /// Sends SIGTERM; returns how the program ended and how long that took, or `None` if it did not
    /// end within `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Option<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        self.wait(limit).map(|status| (status, start.elapsed()))
    }

    /// Kills it, as in a crash, and moves the folder `home` that it has written to out of the way
    /// of the next one.
    pub(crate) fn kill(&mut self, home: &Path) {
        self.signal(Signal::SIGKILL);
        let status = self.wait(Duration::from_secs(10));
        assert!(status.is_some(), "{}: SIGKILL: still there after 10 s", self.name);
        let used = home.with_extension(self.child.id().to_string());
        fs::rename(home, used).expect("both are in the lab's folder");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // An error means that it has already ended, which is the purpose.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait()
            && self.terminate(Duration::from_secs(3)).is_none()
        {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!(
                "---- last lines of {} ({}) ----\n{}",
                self.name,
                self.log.display(),
                tail(&self.log(), 40)
            );
        }
    }
}

/// Where a program's standard input and output go; standard error always goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Nothing in, output to the log.
    Log,
    /// To and from the test.
    Piped,
}

/// The last `lines` lines of `text`, without those of the sound library about a missing sound card.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.starts_with("ALSA lib")).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Writes a file with a secret, readable only by its owner.
pub(crate) fn write_private(path: &Path, text: &str) {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("the lab's folder is writable");
}

/// Runs a tool to its end; panics with its output if it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", command.get_program().display()));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
