//! Files that are no files, and file systems that do not answer: nothing the program reads may hold it up.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::changes::put;

/// A look gives up after five seconds, and there are several.
const LOOKS: Duration = Duration::from_secs(60);

fn with_certificate(setup: &Setup) -> std::path::PathBuf {
    let tls = put(setup, "old.example.org");
    setup.write(&format!("{}{tls}", setup.with_secret_file()))
}

/// Puts a FIFO in the place of a file, as a rename does it.
fn replace_by_fifo(path: &Path) {
    let fifo = path.with_extension("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    std::fs::rename(fifo, path).expect("in its place");
}

fn ends_in_time(server: &mut Server) {
    server.signal(Signal::SIGTERM);
    let status = server
        .exit_within(Duration::from_secs(7))
        .expect("gone within shutdown_timeout");
    assert_eq!(status.code(), Some(0), "{}", server.errors());
}

/// What stands behind a mount whose server is gone: a FUSE connection nobody reads. Ends when dropped.
struct DeadMount(Child);

/// Mounts one at the directory named first, and goes on with the command behind it.
const MOUNT: &str = "exec 3<>/dev/fuse && mount -i -t fuse \
                     -o fd=3,rootmode=40000,user_id=0,group_id=0 dead \"$0\" && echo mounted && exec \"$@\"";

impl DeadMount {
    /// At `dir`, where `server` sees it and nobody else.
    fn new(server: &Server, dir: &Path) -> Self {
        let mut child = Command::new("nsenter")
            .args(["--mount", "--target", &server.pid().as_raw_nonzero().to_string()])
            .args(["bash", "-c", MOUNT])
            .arg(dir)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter runs, as root");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("read");
        assert_eq!(line, "mounted\n", "needs root and FUSE");
        Self(child)
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program with mounts of its own.
fn spawn_with_own_mounts(config: &Path, dead: Option<&Path>) -> Server {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if let Some(dir) = dead {
        command.args(["bash", "-c", MOUNT]).arg(dir);
    }
    command.arg(env!("CARGO_BIN_EXE_relay")).arg("--config").arg(config);
    Server::spawn_command(command)
}

#[test]
fn what_is_no_regular_file_is_refused_at_start_at_once() {
    for (place, name) in [
        ("cert.pem", "certificate"),
        ("key.pem", "private_key"),
        ("secret", "secret_file"),
    ] {
        let setup = Setup::new();
        let config = with_certificate(&setup);
        replace_by_fifo(&setup.dir.join(place));
        let begin = Instant::now();
        let mut server = Server::spawn(&config, &[]);
        let status = server.exit_within(LOOKS).expect("it ends");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{name}: {:?}",
            begin.elapsed()
        );
        assert_eq!(status.code(), Some(78));
        assert!(server.errors().contains("it is a pipe"), "{name}: {}", server.errors());
    }
    let setup = Setup::new();
    let config = with_certificate(&setup);
    replace_by_fifo(&config);
    let mut server = Server::spawn(&config, &[]);
    assert_eq!(server.exit_within(LOOKS).expect("it ends").code(), Some(78));
    assert!(server.errors().contains("RELAY_CONFIG"), "{}", server.errors());
}

#[test]
fn a_certificate_that_becomes_a_fifo_changes_nothing_and_sigterm_ends_in_time() {
    let setup = Setup::new();
    let mut server = Server::start(&with_certificate(&setup));
    replace_by_fifo(&setup.dir.join("cert.pem"));
    server.wait_for_log_within("a certificate cannot be used", LOOKS);
    server.wait_for_log("it is a pipe");
    assert_eq!(support::name_shown(local(setup.tls)), "old.example.org");
    server.signal(Signal::SIGHUP);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    assert_eq!(support::name_shown(local(setup.tls)), "old.example.org");
    ends_in_time(&mut server);
}

#[test]
fn a_mount_that_dies_holds_up_neither_clients_nor_reload_nor_sigterm() {
    let setup = Setup::new();
    let config = with_certificate(&setup);
    let folder = setup.dir.join("mounted");
    std::fs::create_dir(&folder).expect("a directory");
    for name in ["cert.pem", "key.pem"] {
        std::fs::rename(setup.dir.join(name), folder.join(name)).expect("moved");
    }
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let text = text
        .replace("/cert.pem", "/mounted/cert.pem")
        .replace("/key.pem", "/mounted/key.pem");
    std::fs::write(&config, text).expect("written");
    let mut server = spawn_with_own_mounts(&config, None);
    server.wait_for_output("is ready");
    let _mount = DeadMount::new(&server, &folder);

    server.wait_for_log_within("a certificate cannot be used", LOOKS);
    server.wait_for_log("the file system has not answered for 5 s");
    assert!(matches!(setup.allocate(SECRET), Outcome::Allocated(_)));
    assert_eq!(support::name_shown(local(setup.tls)), "old.example.org");
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero()))
        .expect("ours")
        .count();
    assert!(threads < 40, "{threads} threads: they pile up");

    server.signal(Signal::SIGHUP);
    server.wait_for_log_within("not reloaded", LOOKS);
    setup.wait_for_metric(PARTLY_RELOADED, 1.0);
    ends_in_time(&mut server);
}

#[test]
fn a_dead_mount_at_start_is_named_and_sigterm_does_not_wait_for_it() {
    let setup = Setup::new();
    let config = with_certificate(&setup);
    let folder = setup.dir.join("mounted");
    std::fs::create_dir(&folder).expect("a directory");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("/cert.pem", "/mounted/cert.pem")).expect("written");

    let mut server = spawn_with_own_mounts(&config, Some(&folder));
    assert_eq!(server.exit_within(LOOKS).expect("it ends by itself").code(), Some(78));
    let told = server.errors();
    assert!(
        told.contains("mounted/cert.pem") && told.contains("has not answered"),
        "{told}"
    );

    let mut server = spawn_with_own_mounts(&config, Some(&folder));
    server.wait_for_log("still looking up");
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(
        server.exit_within(LOOKS).expect("it ends").code(),
        Some(0),
        "{}",
        server.errors()
    );
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
