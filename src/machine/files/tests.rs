use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use rustix::fs::{CWD, mkfifoat};
use rustix::process::geteuid;

use super::own::{FileOwner, PRIVATE, StateDir};
use super::*;

/// A directory that is removed when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-files-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        set_mode(&path, 0o600);
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// The error for `path`; it must come at once, not by timeout.
fn refusal(path: &Path) -> String {
    let begin = Instant::now();
    let error = read(path, 10).expect_err("refused");
    assert!(begin.elapsed() < DEADLINE / 2, "{error} took {:?}", begin.elapsed());
    error.to_string()
}

/// Opening a FIFO without a writer waits for one, and opening a device may have effects.
#[test]
fn only_regular_files_of_bounded_size_are_read_and_links_to_them() {
    let dir = Dir::new();
    let file = dir.file("file", b"0123456789");
    let link = dir.0.join("link");
    symlink(&file, &link).unwrap();
    let read = read(&link, 10).unwrap();
    assert_eq!((&read.bytes[..], read.mode), (&b"0123456789"[..], 0o600));

    let pipe = dir.0.join("pipe");
    fifo(&pipe);
    let to_pipe = dir.0.join("to-pipe");
    symlink(&pipe, &to_pipe).unwrap();
    let socket = dir.0.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, why) in [
        (&pipe, "it is a pipe"),
        (&to_pipe, "it is a pipe"),
        (&socket, "it is a socket"),
        (&dir.0, "it is a directory"),
        (&PathBuf::from("/dev/zero"), "it is a device"),
        (&dir.file("large", b"0123456789x"), "it has more than 0 KiB"),
        // `/proc` reports a length of zero.
        (&PathBuf::from("/proc/self/status"), "it has more than 0 KiB"),
        (&dir.0.join("missing"), "No such file"),
    ] {
        let refusal = refusal(path);
        assert!(refusal.contains(why), "{}: {refusal}", path.display());
    }
}

#[test]
fn a_file_system_that_does_not_answer_is_given_up_and_not_asked_again_until_it_does() {
    let path = Path::new("/a mount whose server is gone");
    let (go_on, gone) = channel::<()>();
    let begin = Instant::now();
    let deadline = Duration::from_millis(50);
    let hangs = move || {
        let _ = gone.recv();
        Ok(1)
    };
    let error = within_time(path, deadline, hangs).expect_err("given up");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
    // No second thread starts.
    let error = within(path, || -> Result<i32, _> { panic!("asked") }).expect_err("still hangs");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(within(Path::new("/elsewhere"), || Ok(2)).unwrap(), 2);

    drop(go_on);
    let begin = Instant::now();
    while within(path, || Ok(3)).is_err() {
        assert!(begin.elapsed() < DEADLINE, "its answer has come, and it is asked again");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn below_the_state_directory_no_link_is_followed() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    elsewhere.file("secret", b"theirs");
    symlink(elsewhere.0.join("secret"), dir.0.join("secret")).unwrap();
    symlink(&elsewhere.0, dir.0.join("acme")).unwrap();
    for name in ["secret", "acme/secret"] {
        let file = dir.0.join(name);
        let error = own::read(&dir.0, &file, 100).expect_err("a link").to_string();
        assert!(error.contains("is a symbolic link"), "{name}: {error}");
    }
    let error = own::write(&dir.0, &dir.0.join("acme/new"), b"ours", PRIVATE).expect_err("a link");
    assert!(error.to_string().contains("is a symbolic link"), "{error}");
    assert!(!elsewhere.0.join("new").exists());
    assert!(StateDir::make(&dir.0).unwrap().lock(&dir.0.join("secret")).is_err());

    // A link to a file is replaced, and the file it led to is unchanged.
    own::write(&dir.0, &dir.0.join("secret"), b"ours", PRIVATE).unwrap();
    assert_eq!(fs::read(elsewhere.0.join("secret")).unwrap(), b"theirs");
    assert_eq!(
        &own::read(&dir.0, &dir.0.join("secret"), 100).unwrap().bytes[..],
        b"ours"
    );

    // The directory itself may be a link: systemd makes one.
    let link = elsewhere.0.join("state");
    symlink(&dir.0, &link).unwrap();
    assert_eq!(&own::read(&link, &link.join("secret"), 100).unwrap().bytes[..], b"ours");
}

#[test]
fn what_others_may_write_or_own_is_not_trusted() {
    let dir = Dir::new();
    let state = dir.0.join("state");
    let file = state.join("acme/account-key");
    own::write(&state, &file, b"ours", PRIVATE).unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
    for path in [&state, &state.join("acme"), &file] {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for open in [0o020, 0o002] {
            set_mode(path, mode | open);
            let error = own::read(&state, &file, 100).expect_err("writable").to_string();
            assert!(
                error.contains("may write to") && error.contains(&path.display().to_string()),
                "{error}"
            );
        }
        set_mode(path, mode);
        own::read(&state, &file, 100).unwrap();
        if !geteuid().is_root() {
            continue;
        }
        std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
        let error = own::read(&state, &file, 100).expect_err("foreign").to_string();
        assert!(error.contains("belongs to user 12345"), "{error}");
        if path != &file {
            let error = own::write(&state, &file, b"new", PRIVATE).expect_err("foreign");
            assert!(error.to_string().contains("belongs to user 12345"), "{error}");
        }
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
    }
}

/// `sudo relay credentials mint` on the machine of a server that runs as its own user.
#[test]
fn root_reads_what_the_owner_of_the_directory_keeps_there_but_nobody_elses() {
    if !geteuid().is_root() {
        return;
    }
    let dir = Dir::new();
    let file = dir.file("secret", b"the server's");
    let chown = |path: &Path, user| std::os::unix::fs::chown(path, Some(user), None).unwrap();
    let read = || StateDir::open(&dir.0, FileOwner::OfTheDirectory)?.read(&file, 100);
    chown(&dir.0, 12_345);
    for user in [0, 12_345] {
        chown(&file, user);
        assert_eq!(&read().unwrap().bytes[..], b"the server's");
    }
    chown(&file, 12_346);
    assert!(read().is_err());
}

#[test]
fn a_pipe_in_the_state_directory_is_refused_and_two_writers_leave_one_whole_file() {
    let dir = Dir::new();
    let pipe = dir.0.join("secret");
    fifo(&pipe);
    let begin = Instant::now();
    let error = own::read(&dir.0, &pipe, 100).expect_err("a pipe").to_string();
    assert!(
        error.contains("it is a pipe") && begin.elapsed() < DEADLINE / 2,
        "{error}"
    );
    assert!(own::read(&dir.0, Path::new("/etc/passwd"), 100).is_err());
    assert!(own::read(&dir.0, &dir.0.join("../passwd"), 100).is_err());

    let file = dir.0.join("certificate.pem");
    thread::scope(|scope| {
        for letter in [b'a', b'b'] {
            let (dir, file) = (&dir.0, &file);
            scope.spawn(move || (0..50).for_each(|_| own::write(dir, file, &vec![letter; 50_000], PRIVATE).unwrap()));
        }
        for _ in 0..50 {
            if let Ok(read) = own::read(&dir.0, &file, 60_000) {
                assert!(read.bytes.len() == 50_000 && read.bytes.iter().all(|&b| b == read.bytes[0]));
            }
        }
    });
    let left: Vec<_> = fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");

    // A failed rename leaves no temporary file.
    let folder = dir.0.join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(own::write(&dir.0, &folder, b"x", PRIVATE).is_err());
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 3);
}
