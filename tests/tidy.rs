//! Rules of the house that no compiler checks. Reads every tracked file once and prints all findings together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The floors in import order: a module uses only what stands left of it. The first three are the package `relay-proto`,
/// below `src/proto`, the fourth is `relay-net`, the fifth `relay-client`: the compiler sees to them, and this test to the rest.
const FLOORS: [&str; 12] = [
    "base", "wire", "turn", "net", "client", "shard", "machine", "config", "edge", "control", "daemon", "cli",
];

/// How many files a folder of `src` may hold side by side.
const MAX_FILES_OF_A_FOLDER: usize = 20;

/// Longest source file, in lines, tests included.
const MAX_FILE_LINES: usize = 600;
/// Longest function, in lines.
const MAX_FUNCTION_LINES: usize = 70;

/// Files that may be longer, with the reason. Shrink it.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand: around system calls, and around what OpenSSL has and its crate does not wrap.
const UNSAFE: [&str; 2] = ["src/net/sys/", "src/net/dtls/ffi.rs"];

/// What `base`, `wire` and `turn` never name: clocks, sockets, files, environment, randomness, threads, logs.
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::env",
    "std::fs",
    "std::io",
    "std::thread",
    "tokio",
    "tracing",
    "getrandom",
    "libc::",
    "prometheus",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tracked() -> Vec<PathBuf> {
    let out = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(
        out.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout)
        .expect("file names are UTF-8")
        .split_terminator('\0')
        .map(PathBuf::from)
        .filter(|p| root().join(p).is_file())
        .collect()
}

struct File {
    path: String,
    text: String,
}

impl File {
    /// The floor of a source file, as an index into [`FLOORS`].
    fn floor(&self) -> Option<usize> {
        let rest = self.path.strip_prefix("src/")?;
        let rest = rest.strip_prefix("proto/").unwrap_or(rest);
        let first = rest.split(['/', '.']).next()?;
        FLOORS.iter().position(|f| *f == first)
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their number, without comment lines.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(i, l)| (i + 1, l))
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
    }
}

fn files() -> Vec<File> {
    tracked()
        .into_iter()
        .filter_map(|p| {
            let text = std::fs::read_to_string(root().join(&p)).ok()?;
            Some(File {
                path: p.to_str()?.to_owned(),
                text,
            })
        })
        .collect()
}

/// A module by its floor and its path there, `["turn", "server"]`.
type Module = Vec<String>;

impl File {
    /// The module a source file holds; `None`: it holds unit tests, or is no source file.
    fn module(&self) -> Option<Module> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_prefix("proto/").unwrap_or(path);
        let mut module: Module = path.split('/').map(str::to_owned).collect();
        if module.iter().any(|name| name.ends_with("tests")) {
            return None;
        }
        module.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
        Some(module)
    }

    /// What its code names by a package, `crate::`, `super::` or `self::`, in an import or elsewhere, as paths from the crate's root.
    /// Unit tests are left out.
    fn names(&self, module: &Module) -> Vec<Module> {
        let code = self.code().map(|(_, line)| line);
        let code = code.take_while(|line| !line.starts_with("#[cfg(test)]"));
        let text = code.collect::<Vec<_>>().join("\n").replace("(in crate::", "(in ");
        let mut names = Vec::new();
        for root in [
            "crate::",
            "super::",
            "self::",
            "relay_proto::",
            "relay_net::",
            "relay_client::",
        ] {
            for (at, _) in text.match_indices(root) {
                if text[..at].ends_with(|c: char| c.is_alphanumeric() || ['_', ':', '$'].contains(&c)) {
                    continue;
                }
                let mut paths = Vec::new();
                expand(&text[at..], Vec::new(), &mut paths);
                names.extend(paths.iter().map(|path| absolute(path, module)));
            }
        }
        names
    }
}

/// Adds the paths at the beginning of `text` to `paths`, `a::{b, c::d}` as `a::b` and `a::c::d`. Returns what is behind them.
fn expand<'a>(text: &'a str, mut path: Module, paths: &mut Vec<Module>) -> &'a str {
    let mut rest = text.trim_start();
    if let Some(mut inside) = rest.strip_prefix('{') {
        while let Some(at) = inside.find(|c: char| c == '}' || c == '*' || c == '_' || c.is_alphanumeric()) {
            if inside[at..].starts_with('}') {
                return &inside[at + 1..];
            }
            inside = expand(&inside[at..], path.clone(), paths);
            // `as another_name`
            inside = inside.trim_start_matches(|c| c != ',' && c != '}');
        }
        return inside;
    }
    let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric());
    let end = end.unwrap_or(rest.len());
    path.extend((end > 0).then(|| rest[..end].to_owned()));
    rest = rest[end..].trim_start_matches('*');
    match rest.strip_prefix("::") {
        Some(deeper) => expand(deeper, path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

/// `path` as it is called from the crate's root, when `module` calls it so.
fn absolute(path: &Module, module: &Module) -> Module {
    let mut found = module.clone();
    for (at, name) in path.iter().enumerate() {
        match name.as_str() {
            // `net` and `client` are the roots of their packages.
            "crate" => found.truncate(usize::from(
                module
                    .first()
                    .is_some_and(|floor| ["net", "client"].contains(&floor.as_str())),
            )),
            "relay_proto" => found.clear(),
            "relay_net" => found = vec!["net".to_owned()],
            "relay_client" => found = vec!["client".to_owned()],
            "super" => drop(found.pop()),
            "self" => {}
            _ => return [&found[..], &path[at..]].concat(),
        }
    }
    found
}

/// The modules each module of `src` uses, itself and those within it apart.
fn uses(files: &[File]) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    let modules: BTreeSet<Module> = files.iter().filter_map(File::module).collect();
    for (file, module) in files.iter().filter_map(|file| Some((file, file.module()?))) {
        let named = file.names(&module).into_iter().filter_map(|name| {
            let module = (1..=name.len()).rev().find(|&len| modules.contains(&name[..len]))?;
            Some(name[..module].to_vec())
        });
        let used = named.filter(|used| !used.starts_with(&module)).collect();
        uses.insert(module, used);
    }
    uses
}

/// Whether `module` uses itself by way of others.
fn is_on_circle(uses: &BTreeMap<Module, BTreeSet<Module>>, module: &Module) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![module];
    while let Some(next) = open.pop() {
        for used in uses.get(next).into_iter().flatten().filter(|used| seen.insert(*used)) {
            open.push(used);
        }
    }
    seen.contains(module)
}

fn report(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} finding(s):\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn imports_run_one_way() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| f.is_rust()) {
        let Some(floor) = file.floor() else { continue };
        for (line, text) in file.code() {
            for (other, name) in FLOORS.iter().enumerate() {
                if other > floor
                    && (text.contains(&format!("crate::{name}::")) || text.contains(&format!("crate::{name};")))
                {
                    findings.push(format!("{}:{line}: {} must not use {name}", file.path, FLOORS[floor]));
                }
            }
        }
    }
    let floor = |module: &Module| {
        FLOORS
            .iter()
            .position(|name| Some(*name) == module.first().map(String::as_str))
    };
    for (module, used) in uses(&files()) {
        for used in used.into_iter().filter(|used| floor(used) > floor(&module)) {
            findings.push(format!("{} must not use {}", module.join("::"), used.join("::")));
        }
    }
    report(&findings);
}

#[test]
fn files_import_each_other_in_no_circle() {
    let uses = uses(&files());
    let mut findings = Vec::new();
    for floor in FLOORS {
        let on_floor = uses
            .keys()
            .filter(|module| module.first().is_some_and(|name| name == floor));
        let on_circles: Vec<String> = on_floor
            .filter(|module| is_on_circle(&uses, module))
            .map(|module| module.join("::"))
            .collect();
        if !on_circles.is_empty() {
            findings.push(format!("{floor}: {}", on_circles.join(", ")));
        }
    }
    report(&findings);
}

//= design invariant 1
#[test]
fn base_wire_and_turn_read_no_clock_socket_file_or_environment() {
    let mut findings = Vec::new();
    for file in files()
        .iter()
        .filter(|f| f.is_rust() && matches!(f.floor(), Some(0..=2)))
    {
        // A unit test may use threads; what it tests may not.
        let code = file.code().take_while(|(_, text)| !text.starts_with("#[cfg(test)]"));
        for (line, text) in code {
            for word in IMPURE.iter().filter(|w| text.contains(**w)) {
                findings.push(format!("{}:{line}: `{word}` in the sans-IO core", file.path));
            }
        }
    }
    report(&findings);
}

//= design invariant 8
#[test]
fn unsafe_stands_only_beside_the_system_calls_and_says_why() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| f.is_rust() && f.path.starts_with("src/")) {
        let allowed = UNSAFE.iter().any(|place| file.path.starts_with(place));
        let lines: Vec<&str> = file.text.lines().collect();
        for (line, text) in file.code() {
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|u| text.contains(u));
            if !is_unsafe {
                continue;
            }
            if !allowed {
                findings.push(format!("{}:{line}: unsafe outside {UNSAFE:?}", file.path));
            }
            let reasons = &lines[line.saturating_sub(8)..line];
            if !reasons.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
                findings.push(format!("{}:{line}: unsafe without a SAFETY line", file.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn files_and_functions_stay_readable() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| f.is_rust()) {
        let lines = file.text.lines().count();
        if lines > MAX_FILE_LINES && !LONG_FILES.iter().any(|(p, _)| *p == file.path) {
            findings.push(format!(
                "{}: {lines} lines (at most {MAX_FILE_LINES}): split it by meaning",
                file.path
            ));
        }
        if !file.path.starts_with("src/") || file.path.contains("tests") {
            // A test's table of cases may be as long as there are cases.
            continue;
        }
        let mut open: Option<(usize, String)> = None;
        for (number, text) in file.text.lines().enumerate() {
            let indent = &text[..text.len() - text.trim_start().len()];
            let head = text.trim_start();
            let is_fn = head.contains("fn ")
                && head.contains('(')
                && ["fn ", "pub ", "pub(", "const fn", "async fn", "unsafe fn"]
                    .iter()
                    .any(|p| head.starts_with(p));
            if open.is_none() && is_fn && !head.ends_with(';') && !head.ends_with('}') {
                open = Some((number, indent.to_owned()));
            } else if let Some((start, fn_indent)) = &open
                && indent == fn_indent
                && (head == "}" || head.ends_with(';'))
            {
                if head == "}" && number - start + 1 > MAX_FUNCTION_LINES {
                    let length = number - start + 1;
                    findings.push(format!("{}:{}: function of {length} lines", file.path, start + 1));
                }
                open = None;
            }
        }
    }
    report(&findings);
}

/// What programs share is in `tests/testkit`, where the compiler sees which parts nobody needs.
#[test]
fn test_programs_include_no_file_of_another_by_path() {
    let attribute = ["#[", "path"].concat();
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| f.is_rust()) {
        let is_test = ["tests/", "benches/"]
            .iter()
            .any(|folder| file.path.starts_with(folder));
        for (number, line) in file.code().filter(|_| is_test) {
            if line.trim_start().starts_with(&attribute) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    report(&findings);
}

/// The name of a type this line declares for other files to see.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = line.strip_prefix("pub")?;
    let rest = if rest.starts_with('(') {
        rest.split_once(')')?.1
    } else {
        rest
    };
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    let name = kinds.iter().find_map(|kind| rest.trim_start().strip_prefix(kind))?;
    name.split(|c: char| c != '_' && !c.is_alphanumeric()).next()
}

#[test]
fn no_two_files_show_a_type_of_the_same_name() {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files().iter().filter(|f| f.module().is_some()) {
        // It stands in the place of another file where a feature is left out.
        if file.path.ends_with("_absent.rs") {
            continue;
        }
        let code = file.code().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
        for name in code.filter_map(|(_, line)| declared(line)) {
            seen.entry(name.to_owned()).or_default().insert(file.path.clone());
        }
    }
    let twice = seen.into_iter().filter(|(_, files)| files.len() > 1);
    let findings: Vec<String> = twice
        .map(|(name, files)| format!("{name}: {}", files.into_iter().collect::<Vec<_>>().join(", ")))
        .collect();
    report(&findings);
}

#[test]
fn a_folder_holds_no_more_files_than_one_can_look_over() {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for file in files().iter().filter(|f| f.is_rust() && f.path.starts_with("src/")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        *folders.entry(folder.to_owned()).or_default() += 1;
    }
    let mut findings = Vec::new();
    for (folder, count) in folders {
        if count > MAX_FILES_OF_A_FOLDER {
            findings.push(format!("{folder}: {count} files"));
        }
    }
    report(&findings);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| f.path.ends_with(".md")) {
        let folder = root()
            .join(&file.path)
            .parent()
            .expect("a file has a folder")
            .to_path_buf();
        for (number, line) in file.text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                    continue;
                }
                if !folder.join(path).exists() {
                    findings.push(format!("{}:{}: broken link {target}", file.path, number + 1));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn nothing_unfinished_and_no_path_of_one_machine() {
    // Put together here, so that this file does not find itself.
    let banned = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["dbg", "!("].concat(),
        ["FIX", "ME"].concat(),
        ["/wo", "rk/"].concat(),
        ["/tmp/", "wt"].concat(),
    ];
    let mut findings = Vec::new();
    for file in files().iter().filter(|f| !f.path.ends_with(".lock")) {
        for (number, line) in file.text.lines().enumerate() {
            for word in banned.iter().filter(|w| line.contains(w.as_str())) {
                findings.push(format!("{}:{}: {word}", file.path, number + 1));
            }
            // The conformance check looks for the attribute itself, in text.
            if line.trim_start().starts_with("#[ignore") && file.path != "tests/conformance.rs" {
                findings.push(format!("{}:{}: a test nobody runs", file.path, number + 1));
            }
        }
    }
    report(&findings);
}

#[test]
fn every_decision_is_in_the_index() {
    let index = std::fs::read_to_string(root().join("docs/decisions/README.md")).expect("the index is there");
    let findings: Vec<String> = files()
        .iter()
        .filter_map(|f| f.path.strip_prefix("docs/decisions/"))
        .filter(|name| *name != "README.md" && !index.contains(*name))
        .map(|name| format!("docs/decisions/README.md does not name {name}"))
        .collect();
    report(&findings);
}

/// `machine::files` reads regular files alone, bounded, and where nobody is held up. Another way would be none of that.
#[test]
fn files_are_read_and_written_in_one_place() {
    const WAYS: &[&str] = &[
        "File::open",
        "File::create",
        "OpenOptions",
        "fs::read(",
        "fs::read_to_string",
        "fs::write(",
    ];
    let reads_elsewhere = |file: &&File| {
        file.path.starts_with("src/") && file.is_rust() && !file.path.contains("/files") && !file.path.contains("tests")
    };
    let mut findings = Vec::new();
    for file in files().iter().filter(reads_elsewhere) {
        let tests = file.text.lines().position(|line| line.trim() == "#[cfg(test)]");
        for (number, line) in file
            .code()
            .take_while(|(number, _)| tests.is_none_or(|tests| *number <= tests))
        {
            // What the kernel answers by itself is no file.
            let is_kernels = ["/proc", "/dev/null", "schedstat", "\"status\""]
                .iter()
                .any(|name| line.contains(name));
            if WAYS.iter().any(|way| line.contains(way)) && !is_kernels {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert!(findings.is_empty(), "use machine::files:\n{}", findings.join("\n"));
}

/// `log.client_ip` says how much of a client a line shows, and `LogClient::show` does what it says.
#[test]
fn log_lines_show_clients_as_the_configuration_says() {
    // It is loopback by what the line is about.
    const ITSELF: &str = "client = %five_tuple.client,";
    let mut findings = Vec::new();
    for file in files()
        .iter()
        .filter(|file| file.path.starts_with("src/") && file.is_rust())
    {
        let tests = file.text.lines().position(|line| line.trim() == "#[cfg(test)]");
        let code = file
            .code()
            .take_while(|(number, _)| tests.is_none_or(|tests| *number <= tests));
        for (number, line) in code.filter(|_| !file.path.contains("tests")) {
            let shown = ["%client", "?client", "client = %", "client = ?"];
            let shows_one = shown.iter().any(|field| line.contains(field));
            let is_itself = file.path == "src/shard/refusals/mod.rs" && line.trim() == ITSELF;
            if shows_one && !line.contains(".show(") && !is_itself {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert!(findings.is_empty(), "use LogClient::show:\n{}", findings.join("\n"));
}
