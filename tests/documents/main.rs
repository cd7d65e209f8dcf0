//! Runs the commands of README.md and `docs/` as written, as the user who would run them, each page
//! on a separate machine (`machine.sh`): this machine's files under a temporary layer, and a
//! network without an exit. As root.
//!
//! `pages.rs` says for every block of commands who runs it and what it must achieve, or why it
//! cannot run here. A block in neither list fails the test: an author who adds a command to a
//! document says there how it is tested.

#![allow(clippy::disallowed_methods, reason = "what tests wait for happens by the real clock")]

mod blocks;
mod pages;

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use blocks::{Block, blocks, pages as every_page, root};
use pages::{Expected, INSTALLATION, PAGES, Page, Then};

/// Languages of blocks that are run, and their interpreters (see [`PRELUDE`]). Other blocks are
/// configuration, which `tests/config/docs.rs` and `tests/blackbox/recipes*.rs` read, and output.
const INTERPRETERS: [(&str, &str); 7] = [
    ("sh", "bash -eu -o pipefail"),
    ("bash", "bash -eu -o pipefail"),
    ("console", "bash -eu -o pipefail"),
    ("nft", "nft -f"),
    ("ini", "drop_in"),
    ("yaml", "rules"),
    ("promql", "query"),
];

/// The interpreter of `block` of the page at `path`. In recipes, the configuration of other systems
/// uses some of these languages.
fn interpreter(path: &str, block: &Block) -> Option<&'static str> {
    let (language, interpreter) = INTERPRETERS.iter().find(|(language, _)| *language == block.language)?;
    (*language == "sh" || !path.starts_with("docs/recipes/")).then_some(interpreter)
}

/// Time limit of every page.
const PATIENCE: Duration = Duration::from_secs(120);

/// Precedes the commands of every page.
const PRELUDE: &str = r#"
cd /usr/src/relay
# HTTP errors are errors, and a certificate authority of this machine's own.
printf 'fail-with-body\nsilent\nshow-error\nmax-time = 20\n' >/etc/curlrc
export CURL_HOME=/etc/curl CURL_CA_BUNDLE=/etc/ssl/test-authority.pem
mkdir -p /etc/curl && mv /etc/curlrc /etc/curl/.curlrc
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=A test authority' \
  -keyout /root/authority.key -out /etc/ssl/test-authority.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=turn.example.org -keyout /root/privkey.pem \
  -out /root/turn.csr 2>/dev/null
openssl x509 -req -in /root/turn.csr -CA /etc/ssl/test-authority.pem -CAkey /root/authority.key -days 2 \
  -extfile <(printf 'subjectAltName = DNS:turn.example.org\n') -out /root/leaf.pem 2>/dev/null
cat /root/leaf.pem /etc/ssl/test-authority.pem >/root/fullchain.pem

# Has the service read its configuration again, and waits until it has.
reload() {
  local before
  before=$(reloads)
  systemctl reload relay
  for _ in $(seq 100); do
    [[ $(reloads) == "$before" ]] || return 0
    sleep 0.1
  done
  echo 'the reload does not succeed'
  cat /run/relay.journal
  exit 1
}
reloads() {
  curl http://127.0.0.1:13478/metrics | awk '/^relay_config_reloads_total.*success/ { print $2 }'
}

# A drop-in of the unit, as `systemctl edit` keeps it.
drop_in() {
  install -D -m 644 "$1" /etc/systemd/system/relay.service.d/override.conf
}
# Alerts, in a group of rules.
rules() {
  { printf 'groups:\n- name: relay\n  rules:\n' && sed 's/^/  /' "$1"; } >/tmp/rules.yml
  promtool check rules /tmp/rules.yml
}
query() {
  { printf -- '- record: answer\n  expr: |\n' && sed 's/^/    /' "$1"; } >/tmp/query.yml
  rules /tmp/query.yml
}

# as USER FILE INTERPRETER: runs a block.
as() {
  echo "--- $2, as $1"
  local command=("${@:3}" "$2")
  [[ $1 == root ]] || command=(setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups -- "${command[@]}")
  if ! "${command[@]}" >/tmp/out 2>/tmp/err; then
    cat /tmp/out /tmp/err
    [[ ! -s /run/relay.journal ]] || { echo '--- log of the service'; cat /run/relay.journal; }
    echo "--- $2 failed"
    exit 1
  fi
  cat /tmp/out /tmp/err
}
"#;

/// A folder for the machine of one page, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(page: &str) -> Self {
        let name = page.replace(['/', '.'], "-");
        let path = std::env::temp_dir().join(format!("relay-documents-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("source/target/release")).expect("a folder");
        let folder = Self(path);
        for part in ["config", "systemd", "docs", "README.md"] {
            folder.copy(&root().join(part), &folder.0.join("source"));
        }
        folder.copy(
            Path::new(env!("CARGO_BIN_EXE_relay")),
            &folder.0.join("source/target/release/relay"),
        );
        folder.copy(&root().join("tests/documents/systemctl"), &folder.0);
        folder
    }

    fn copy(&self, from: &Path, to: &Path) {
        let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
        assert!(copied.success(), "{} to {}", from.display(), self.0.display());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The blocks of `page` to run, each with its interpreter and its expectations.
fn commands(page: &Page) -> Vec<(Block, &'static str, &'static Expected)> {
    let mut used = vec![false; page.blocks.len()];
    let mut found = Vec::new();
    for block in blocks(page.path) {
        let Some(interpreter) = interpreter(page.path, &block) else {
            continue;
        };
        let place = format!("{}:{}", page.path, block.line);
        let row = page
            .blocks
            .iter()
            .position(|expected| block.begin().starts_with(expected.begin))
            .unwrap_or_else(|| {
                panic!(
                    "{place}: tests/documents/pages.rs does not say who runs `{}`",
                    block.begin()
                )
            });
        assert!(
            !used[row],
            "{place}: two blocks begin with `{}`",
            page.blocks[row].begin
        );
        used[row] = true;
        found.push((block, interpreter, &page.blocks[row]));
    }
    for (row, used) in page.blocks.iter().zip(used) {
        assert!(used, "{} has no block that begins with `{}`", page.path, row.begin);
    }
    found
}

/// Adds the blocks of `page` to `script`, each with its check; with `only_installation` only those
/// that install the service.
fn append(script: &mut String, page: &Page, only_installation: bool) {
    for (block, interpreter, expected) in commands(page) {
        let Then::Run {
            user,
            installs,
            before,
            check,
        } = &expected.then
        else {
            continue;
        };
        if only_installation && !installs {
            continue;
        }
        let file = format!("/tmp/{}:{}", page.path.replace('/', "-"), block.line);
        let text = page.placeholders.iter().fold(block.text, |text, (placeholder, value)| {
            text.replace(placeholder, value)
        });
        let end = format!("END-OF-LINE-{}", block.line);
        let _ = write!(
            script,
            "{before}\ncat >{file} <<'{end}'\n{text}{end}\nas {user} {file} {interpreter}\n{check}\n"
        );
    }
}

fn run(page: &Page) {
    assert!(
        rustix::process::geteuid().is_root(),
        "makes namespaces and users: run it as root"
    );
    let mut script = PRELUDE.to_owned();
    if page.installed {
        let installation = PAGES.iter().find(|page| page.path == INSTALLATION).expect("the page");
        append(&mut script, installation, true);
    }
    append(&mut script, page, false);
    script.push_str("echo '--- all done'\n");

    let folder = Folder::new(page.path);
    let path = folder.0.join("script");
    std::fs::write(&path, script).expect("the script");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    let output = folder.0.join("output");
    let file = std::fs::File::create(&output).expect("a file");
    let mut machine = Command::new(root().join("tests/documents/machine.sh"))
        .args([&folder.0, &path])
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("the same file"))
        .stderr(file)
        .spawn()
        .expect("unshare (util-linux) runs");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = machine.try_wait().expect("the child is ours") {
            break status;
        }
        if Instant::now() >= deadline {
            // The first process of its namespace: all others end with it.
            let _ = machine.kill();
            let _ = machine.wait();
            let printed = std::fs::read_to_string(&output).unwrap_or_default();
            panic!(
                "{}: waited {PATIENCE:?} for the end of its commands\n{printed}",
                page.path
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let printed = std::fs::read_to_string(&output).expect("its output");
    assert!(
        status.success() && printed.ends_with("--- all done\n"),
        "{}: {status}\n{printed}",
        page.path
    );
}

#[test]
fn every_block_of_commands_is_run_or_has_a_reason() {
    for path in every_page() {
        let Some(page) = PAGES.iter().find(|page| page.path == path) else {
            let commands = blocks(&path);
            if let Some(block) = commands.iter().find(|block| interpreter(&path, block).is_some()) {
                panic!(
                    "{path}:{}: tests/documents/pages.rs does not name this page",
                    block.line
                );
            }
            continue;
        };
        commands(page);
    }
    for page in PAGES {
        assert!(root().join(page.path).is_file(), "{}", page.path);
        for expected in page.blocks {
            if let Then::NotRun(reason) = expected.then {
                assert!(!reason.is_empty(), "{}: {}", page.path, expected.begin);
            }
        }
    }
}

#[test]
fn the_commands_of_every_page_work_as_written() {
    let mut failures = String::new();
    for page in PAGES {
        let runs = |expected: &Expected| matches!(expected.then, Then::Run { .. });
        if page.blocks.iter().any(runs)
            && let Err(failure) = std::panic::catch_unwind(|| run(page))
        {
            let text = failure.downcast_ref::<String>().map_or("panicked", String::as_str);
            let _ = writeln!(failures, "{text}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
