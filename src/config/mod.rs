//! What an operator may set: read, merged, checked, mapped to [`settings::Settings`]. The only place that knows TOML.
//!
//! ```text
//! reader     TOML text → tree with places → typed values, key by key; every mistake with its place
//! sections   each with its keys: types, defaults, bounds, and what is wrong within it
//! cross_checks  what is wrong between two sections, no I/O
//! resolve    files, names, addresses → Settings       settings   what the server runs with
//! offer      the URIs clients are told                routed_names  names that lead to other servers
//! mask       what of it all may be shown              harmless   what no secret looks like
//! explain    what a key is for                        in_force   what a reload leaves as it is
//! access     why a file cannot be read                log_level  what `log.level` may say
//! ```
//!
//! Every mistake is found before anything is bound, and all are told at once. Deliberately absent: including other
//! files, and any state: [`load`] may be called again at any time (reload) and gives a new whole.

mod access;
pub mod bounds;
mod characters;
mod cross_checks;
pub mod explain;
mod harmless;
mod in_force;
pub(crate) mod log_level;
mod mask;
pub mod offer;
pub mod reader;
mod resolve;
pub mod routed_names;
mod sections;
pub mod settings;
mod strength;

use core::time::Duration;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub use self::in_force::InForce;
use self::reader::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use self::reader::document::Table;
use self::reader::effective::Effective;
use self::reader::key::DescribedKey;
use self::reader::{document, overrides, value};
use self::resolve::Context;
use self::settings::Settings;
use crate::machine::{Machine, files};

/// Whether an environment variable of this name is part of the configuration.
pub fn is_variable(name: &[u8]) -> bool {
    name == BODY_VARIABLE.as_bytes() || name.starts_with(overrides::PREFIX.as_bytes())
}

/// Holds the whole configuration where a file is not handy.
const BODY_VARIABLE: &str = "RELAY_CONFIG";

/// What the configuration is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run: a first run makes its secret.
    Serve,
    /// To run on with: what cannot be read of a part that a running server has leaves that part as it is.
    Reload,
    /// To judge it, maybe on another machine: nothing is made, and what depends on the machine gives warnings.
    Check,
    /// To mint credentials: nothing is made, and certificates need not be readable.
    Mint,
}

/// A configuration without mistakes.
pub struct Loaded {
    /// What the server runs with.
    pub settings: Settings,
    /// Legal, but unwise.
    pub warnings: Diagnostics,
    /// Where it came from, for people: a path, `RELAY_CONFIG`, "the built-in defaults".
    pub source: String,
    /// Keys that differ from those in force, and take a restart: they are as they were.
    pub waiting: Vec<String>,
    /// What a reload is compared with.
    pub in_force: InForce,
    effective: String,
}

impl Loaded {
    /// The configuration in force, as TOML: every key, what `"auto"` came to, and no secret.
    pub fn effective(&self) -> &str {
        &self.effective
    }
}

impl core::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Loaded")
            .field("source", &self.source)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Loads the configuration to serve with: `RELAY_CONFIG` if it is set, else the file `path`, else
/// `/etc/relay/relay.toml` if it is there, else the defaults; above each, `RELAY__SECTION__KEY`.
///
/// # Errors
/// Every mistake that was found, with warnings behind them.
pub fn load(path: Option<&Path>, env: &dyn Machine) -> Result<Loaded, Diagnostics> {
    load_for(Purpose::Serve, path, env)
}

/// As [`load`], for another purpose.
///
/// # Errors
/// As for [`load`].
pub fn load_for(purpose: Purpose, path: Option<&Path>, env: &dyn Machine) -> Result<Loaded, Diagnostics> {
    load_beside(None, purpose, path, env)
}

/// Loads again what `in_force` was loaded from, for a server that runs with it: what takes a restart is as it is there,
/// and [`Loaded::waiting`] names it.
///
/// # Errors
/// As for [`load`].
pub fn reload(in_force: &InForce, env: &dyn Machine) -> Result<Loaded, Diagnostics> {
    load_beside(Some(in_force), Purpose::Reload, in_force.path.as_deref(), env)
}

fn load_beside(
    in_force: Option<&InForce>,
    purpose: Purpose,
    path: Option<&Path>,
    env: &dyn Machine,
) -> Result<Loaded, Diagnostics> {
    let mut d = Diagnostics::default();
    let variables = env.variables();
    let Some(text) = read_text(path, env, &variables, &mut d) else {
        return Err(d);
    };
    let source = d.add_source(text.name.clone(), text.body.clone());
    report_foreign_bytes(&text, source, &mut d);
    let (mut table, spoiled) = document::parse(&text.body, source, &mut d);
    let syntax_errors = d.len();
    overrides::apply(&mut table, &variables, &mut d);
    misspelt_variables(&variables, &mut d);
    let judged = Judging {
        purpose,
        file: text.file.as_deref(),
        env,
    };
    let (settings, effective) = judged.table(table.clone(), &mut d, |d| {
        d.retain_outside(syntax_errors, &spoiled);
        spoiled.is_empty()
    });
    let written = InForce::new(path.map(Path::to_owned), &table, &effective, &d);
    d.finish(mask::masked);
    let settings = match settings {
        Some(settings) if !d.has_errors() => settings,
        _ => return Err(d),
    };
    let loaded = Loaded {
        settings,
        warnings: d,
        source: text.name,
        waiting: in_force.map_or_else(Vec::new, |in_force| in_force.waiting(&written)),
        in_force: written,
        effective: effective.to_toml(),
    };
    match in_force.filter(|_| !loaded.waiting.is_empty()) {
        Some(in_force) => judged.around(in_force, table, loaded),
        None => Ok(loaded),
    }
}

/// What a table is judged with.
struct Judging<'a> {
    purpose: Purpose,
    /// The configuration file, if it is one.
    file: Option<&'a Path>,
    env: &'a dyn Machine,
}

impl Judging<'_> {
    /// What a table comes to; it is resolved if `may_resolve`, which sees what is wrong so far.
    fn table(
        &self,
        table: Table,
        d: &mut Diagnostics,
        may_resolve: impl FnOnce(&mut Diagnostics) -> bool,
    ) -> (Option<Settings>, Effective) {
        let mut reading = sections::read(table, d);
        d.start_timeout = reading.raw.top.start_timeout.value;
        sections::check(&reading.raw, d);
        cross_checks::check(&reading.raw, d);
        let settings = may_resolve(d).then(|| {
            let mut context = Context {
                env: self.env,
                purpose: self.purpose,
                file: self.file,
                d,
                effective: &mut reading.effective,
                machine: resolve::MachineAddresses::default(),
            };
            resolve::build(&reading.raw, &mut context)
        });
        (settings.flatten(), reading.effective)
    }

    /// `loaded`, which was read from `table`, with what waits for a restart as it is in force.
    fn around(&self, in_force: &InForce, table: Table, loaded: Loaded) -> Result<Loaded, Diagnostics> {
        let mut d = loaded.warnings.about_the_same();
        let table = in_force.over(table, &loaded.waiting, &mut d);
        let (settings, effective) = self.table(table.clone(), &mut d, |_| true);
        let held = InForce::new(in_force.path.clone(), &table, &effective, &d);
        match settings {
            Some(settings) if !d.has_errors() => Ok(Loaded {
                settings,
                in_force: held,
                effective: effective.to_toml(),
                ..loaded
            }),
            _ => {
                let waiting = loaded.waiting.join(", ");
                let message = format!("the new configuration does not fit what needs a restart: {waiting}");
                d.push(Diagnostic::error(message).help("restart the server, or change the rest after it"));
                d.finish(mask::masked);
                // Half of it is not in the file.
                d.forget_places();
                Err(d)
            }
        }
    }
}

/// Every key, in the order in which they are read.
pub fn keys() -> &'static [DescribedKey] {
    sections::known().described()
}

/// Reads a duration as it stands in the configuration: `90s`, `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    value::parse_duration(text)
}

/// The text of the configuration and what is known about it.
struct Text {
    name: String,
    body: String,
    /// Where it stands, if in a file.
    file: Option<PathBuf>,
    /// Where the first byte that is no UTF-8 stood.
    foreign: Option<usize>,
}

impl Text {
    fn new(name: impl Into<String>, bytes: Vec<u8>, file: Option<PathBuf>) -> Self {
        let name = name.into();
        match String::from_utf8(bytes) {
            Ok(body) => Self {
                name,
                body,
                file,
                foreign: None,
            },
            Err(error) => {
                let foreign = Some(error.utf8_error().valid_up_to());
                Self {
                    name,
                    body: String::from_utf8_lossy(error.as_bytes()).into_owned(),
                    file,
                    foreign,
                }
            }
        }
    }
}

fn read_text(
    path: Option<&Path>,
    env: &dyn Machine,
    variables: &[(OsString, OsString)],
    d: &mut Diagnostics,
) -> Option<Text> {
    let body = variables
        .iter()
        .find(|(name, value)| name == BODY_VARIABLE && !value.is_empty());
    if let Some((_, body)) = body {
        if let Some(path) = path {
            let message = format!("{BODY_VARIABLE} is set, so {} is not read", path.display());
            d.push(Diagnostic::warning(message).help(format!("unset {BODY_VARIABLE} to use the file")));
        }
        let text = Text::new(BODY_VARIABLE, body.as_encoded_bytes().to_vec(), None);
        return (!is_path(&text, d)).then_some(text);
    }
    let default = if path.is_none() { env.default_file() } else { None };
    let Some(path) = path.or(default.as_deref()) else {
        return Some(Text::new("the built-in defaults", Vec::new(), None));
    };
    match files::read(path, files::MAX_CONFIGURATION) {
        Ok(mut contents) => {
            let bytes = core::mem::take(&mut *contents.bytes);
            Some(Text::new(path.display().to_string(), bytes, Some(path.to_owned())))
        }
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => Some(match access::similar(path) {
                    Some(similar) => format!(
                        "did you mean {}? Without --config the server starts with the defaults",
                        similar.display()
                    ),
                    None => "correct the path, or start without --config for the defaults".to_owned(),
                }),
                io::ErrorKind::PermissionDenied => Some(access::help(path, &env.user())),
                // It is read again at every reload, and a pipe gives what it holds once.
                io::ErrorKind::InvalidInput => Some(format!(
                    "put the text into a file, or into the variable {BODY_VARIABLE}"
                )),
                _ => None,
            };
            let message = format!("cannot read the configuration {}: {error}", path.display());
            d.push(Diagnostic::error(message).maybe_help(help));
            None
        }
    }
}

/// Reports a path where the configuration itself should stand.
fn is_path(text: &Text, d: &mut Diagnostics) -> bool {
    let body = text.body.trim();
    let looks_like_one = !body.contains(['\n', '=', '#'])
        && !body.starts_with(['[', '{'])
        && (body.contains(['/', '\\']) || body.ends_with(".toml") || body.ends_with(".conf"));
    if looks_like_one {
        let body = body.trim_start_matches('@');
        let path = body.strip_prefix("file://").unwrap_or(body);
        let (is, path) = if harmless::path(path) {
            (format!("is {body:?}"), path)
        } else {
            ("holds a path".to_owned(), "FILE")
        };
        let message = format!("{BODY_VARIABLE} {is}, and should be the text of the configuration, not its path");
        d.push(Diagnostic::error(message).help(format!("unset it and start with `--config {path}`")));
    }
    looks_like_one
}

fn report_foreign_bytes(text: &Text, source: usize, d: &mut Diagnostics) {
    if let Some(at) = text.foreign {
        let diagnostic = Diagnostic::error("this is not UTF-8").at(SourceSpan::new(source, &(at..at + 3)));
        d.push(diagnostic.help("save the file as UTF-8"));
    }
}

/// `RELAY_REALM` where `RELAY__REALM` was meant. Other variables of that form are none of ours.
fn misspelt_variables(variables: &[(OsString, OsString)], d: &mut Diagnostics) {
    let plain = |text: &str| text.replace(['_', '.'], "").to_ascii_lowercase();
    for (name, _) in variables {
        let Some(name) = name
            .to_str()
            .filter(|name| !name.starts_with("RELAY__") && *name != BODY_VARIABLE)
        else {
            continue;
        };
        let Some(rest) = name.strip_prefix("RELAY_") else {
            continue;
        };
        if let Some(key) = sections::known().keys().find(|key| plain(key) == plain(rest)) {
            let meant = key.replace('.', "__").to_uppercase();
            let diagnostic = Diagnostic::warning(format!("the environment variable {name} has no effect"));
            d.push(diagnostic.help(format!("did you mean RELAY__{meant}, with two underscores?")));
        }
    }
}

/// Settings for the tests of those who work with them.
#[cfg(test)]
pub(crate) mod sample {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::machine::ThisMachine;

    /// One listener for UDP on loopback, 192.0.2.1 outside.
    pub(crate) const BASE: &str = r#"
realm = "relay"
external = { ipv4 = "192.0.2.1", ipv6 = "off" }
relay.ipv4 = "127.0.0.1"
credentials.secrets = ["5f2c9e1b7a8d4036925814703fb6cade"]
listener = [{ bind = "127.0.0.1:3478", protocols = ["udp"] }]
"#;

    /// What `text` comes to.
    pub(crate) fn settings(text: &str) -> Settings {
        loaded(text, None).0.settings
    }

    /// What `old` comes to, and `new` in a server that runs with it.
    pub(crate) fn reloaded(old: &str, new: &str) -> (Settings, Loaded) {
        let (old, new) = loaded(old, Some(new));
        (old.settings, new.expect("it is read"))
    }

    fn loaded(old: &str, new: Option<&str>) -> (Loaded, Option<Loaded>) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "relay-sample-{}-{}.toml",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let (path, env) = (std::env::temp_dir().join(name), ThisMachine::default());
        let good = |loaded: Result<Loaded, Diagnostics>| {
            loaded.unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
        };
        std::fs::write(&path, old).expect("write");
        let old = good(load_for(Purpose::Check, Some(&path), &env));
        let new = new.map(|new| {
            std::fs::write(&path, new).expect("write");
            good(reload(&old.in_force, &env))
        });
        std::fs::remove_file(&path).expect("remove");
        (old, new)
    }
}
