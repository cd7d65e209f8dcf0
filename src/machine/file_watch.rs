//! Notices changed files by polling them. That works on every file system and through symbolic
//! links, by which certificates are renewed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files;

/// A set of files, and their state when they were last read.
#[derive(Debug)]
pub struct Watch {
    files: Vec<PathBuf>,
    taken: Vec<Option<Stamp>>,
    latest: Vec<Option<Stamp>>,
}

/// The properties that change when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None`: the file does not exist now, or its metadata cannot be read.
    fn of(path: &Path) -> Option<Self> {
        let file = path.to_owned();
        let data = files::within(path, move || fs::metadata(file)).ok()?;
        let modified = (data.mtime(), data.mtime_nsec());
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            length: data.len(),
            modified,
        })
    }
}

impl Watch {
    /// Begins with the present state of the files.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let taken = stamps(&files);
        Self {
            files,
            latest: taken.clone(),
            taken,
        }
    }

    /// Polls the files. Returns true when they differ from the state last taken and have not
    /// changed since the poll before: a certificate and its key are written one after the other.
    /// The result stays true until [`Self::take`].
    pub fn is_due(&mut self) -> bool {
        let now = stamps(&self.files);
        let at_rest = now == self.latest;
        self.latest = now;
        at_rest && self.latest != self.taken
    }

    /// Records that the files were read in the state last polled.
    pub fn take(&mut self) {
        self.taken.clone_from(&self.latest);
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("relay-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("directory");
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_change_is_due_once_it_has_come_to_rest_and_until_it_is_taken() {
        let dir = Dir::new("rest");
        let (cert, key) = (dir.0.join("cert"), dir.0.join("key"));
        fs::write(&cert, "1").expect("write");
        let mut watch = Watch::new(vec![cert.clone(), key.clone()]);
        assert!(!watch.is_due());
        fs::write(&cert, "22").expect("write");
        assert!(!watch.is_due(), "seen for the first time");
        fs::write(&key, "2").expect("write");
        assert!(!watch.is_due(), "the key came later");
        assert!(watch.is_due());
        assert!(watch.is_due(), "not taken yet: it failed, and is tried again");
        watch.take();
        assert!(!watch.is_due());
    }

    #[test]
    fn a_link_that_points_elsewhere_is_a_change() {
        let dir = Dir::new("link");
        let (one, two, link) = (dir.0.join("one"), dir.0.join("two"), dir.0.join("link"));
        fs::write(&one, "same").expect("write");
        fs::write(&two, "same").expect("write");
        std::os::unix::fs::symlink(&one, &link).expect("link");
        let mut watch = Watch::new(vec![link.clone()]);
        fs::remove_file(&link).expect("remove");
        std::os::unix::fs::symlink(&two, &link).expect("link");
        assert!(!watch.is_due());
        assert!(watch.is_due());
    }

    #[test]
    fn a_file_of_another_length_is_another_one_whatever_its_time_says() {
        let dir = Dir::new("length");
        let file = dir.0.join("file");
        fs::write(&file, "1").expect("write");
        let modified = fs::metadata(&file).and_then(|data| data.modified()).expect("a time");
        let mut watch = Watch::new(vec![file.clone()]);
        fs::write(&file, "22").expect("write");
        let handle = fs::File::options().write(true).open(&file).expect("open");
        handle.set_modified(modified).expect("its time");
        assert!(!watch.is_due());
        assert!(watch.is_due());
    }
}
