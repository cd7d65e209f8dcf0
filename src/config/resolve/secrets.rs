//! Secrets, passwords and keys, from the configuration and from files.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::harmless::shown;
use super::super::reader::diagnostic::{Diagnostic, SourceSpan};
use super::super::sections::Raw;
use super::super::sections::secret::{self, SecretOrFile};
use super::super::settings::ApiKey;
use super::super::{Purpose, access};
use super::Context;
use crate::machine::files::{self, Contents, own};
use crate::machine::first_run;
use crate::turn::login::credential::{Credentials, CredentialsConfig, Secret, StaticUser};
use crate::turn::login::nonce::NonceKey;

/// Where the generated secret cannot be kept.
const FIRST_RUN_HELP: &str = "set `state_dir` to a directory of the server's user, or `credentials.secret_file`";

/// What the configuration and its files hold.
pub(super) struct Files {
    secrets: Vec<Secret>,
    users: Vec<StaticUser>,
    api_keys: Vec<ApiKey>,
    nonce_key: Option<NonceKey>,
}

/// Everything secret.
pub(super) struct Secrets {
    pub(super) credentials: Arc<Credentials>,
    pub(super) api_keys: Vec<ApiKey>,
    pub(super) nonce_key: Option<NonceKey>,
    /// The file of the generated secret, and whether it was made just now.
    pub(super) first_run: Option<(PathBuf, bool)>,
}

/// Reads all files; mistakes go to the diagnostics.
pub(super) fn read(raw: &Raw, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Files {
    let credentials = &raw.credentials;
    if state_dir.is_none() && needs_first_run(raw) {
        let message = "there is no secret, and no directory to keep a generated one in";
        cx.d.push(Diagnostic::error(message).help(FIRST_RUN_HELP));
    }
    let mut secrets = Vec::new();
    let first = credentials.secret_file.iter().map(|file| (&file.value, file.place));
    let more = credentials
        .secret_files
        .value
        .iter()
        .map(|file| (&file.value, Some(file.place)));
    for (file, place) in first.chain(more) {
        if let Some(bytes) = read_file(file, place, cx) {
            secret::secret(&bytes, &file.display().to_string(), place, cx.d);
            secrets.push(Secret::new(&bytes));
        }
    }
    secrets.extend(
        credentials
            .secrets
            .value
            .iter()
            .map(|secret| Secret::new(secret.value.0.as_bytes())),
    );
    Files {
        secrets,
        users: users(raw, cx),
        api_keys: api_keys(raw, cx),
        nonce_key: nonce_key(raw, cx),
    }
}

/// Whether nobody could log in without a generated secret.
fn needs_first_run(raw: &Raw) -> bool {
    has_no_secret(raw) && raw.credentials.users.is_empty()
}

fn has_no_secret(raw: &Raw) -> bool {
    let credentials = &raw.credentials;
    let written = credentials.secret_files.value.len() + credentials.secrets.value.len();
    credentials.secret_file.is_none() && written == 0
}

/// A configuration that holds secrets is a secret itself.
pub(super) fn warn_of_open_file(raw: &Raw, cx: &mut Context<'_>) {
    let written = |secret: &Option<SecretOrFile>| match secret {
        Some(SecretOrFile::Text(text)) => text.place,
        Some(SecretOrFile::File(_)) | None => None,
    };
    let secrets = raw.credentials.secrets.value.iter().map(|secret| secret.place);
    let passwords = raw.credentials.users.iter().filter_map(|user| written(&user.password));
    let keys = raw.api.keys.value.iter().filter_map(|key| written(&key.key));
    let nonces = written(&raw.turn.nonce_secret);
    let Some(path) = cx.file else { return };
    let in_file = |place: &SourceSpan| cx.d.is_in(*place, path);
    if let Some(place) = secrets.chain(passwords).chain(keys).chain(nonces).find(in_file)
        && files::within(path, {
            let path = path.to_owned();
            move || Ok(fs::metadata(path)?.permissions().mode())
        })
        .is_ok_and(|mode| is_open(path, mode))
    {
        let message = format!(
            "every user of this machine may read {}, and it holds a secret",
            path.display()
        );
        let help = access::closing(path, cx.env);
        cx.d.push(Diagnostic::warning(message).at(place).help(help));
    }
}

fn is_open(path: &Path, mode: u32) -> bool {
    // Container run-times mount secrets readable for all: nobody else is in there.
    mode & 0o004 != 0 && !path.starts_with("/run/secrets")
}

/// Makes the credentials, and a secret if there is neither secret nor user. `None` if that cannot be.
pub(super) fn finish(raw: &Raw, files: Files, state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<Secrets> {
    let Files {
        mut secrets,
        users,
        api_keys,
        nonce_key,
    } = files;
    let mut first_run = None;
    if needs_first_run(raw) {
        let secret = first_run_secret(state_dir, cx)?;
        if let Some(secret) = &secret {
            // Somebody may have put another there.
            secret::secret(&secret.bytes, &secret.file.display().to_string(), None, cx.d);
        }
        cx.effective.remark(
            "credentials",
            match &secret {
                Some(secret) => format!(
                    "the secret is the one generated at the first start: {}",
                    shown(&secret.file)
                ),
                None => "a secret is generated at the first start".into(),
            },
        );
        secrets.extend(secret.as_ref().map(|secret| Secret::new(&secret.bytes)));
        first_run = secret.map(|secret| (secret.file, secret.is_new));
    } else if has_no_secret(raw) && raw.api.enabled.value && (raw.api.open.value || !api_keys.is_empty()) {
        let message = "there are users but no secret: the credentials API has nothing to mint with";
        let place = raw.api.keys.place.or(raw.api.open.place);
        cx.d.push(
            Diagnostic::warning(message)
                .at(place)
                .help("set `credentials.secret_file`"),
        );
    }
    let config = CredentialsConfig {
        realm: raw.top.realm.value.clone(),
        secrets,
        users,
        max_ttl: raw.credentials.max_ttl.value,
        skew: raw.credentials.skew.value,
    };
    match Credentials::new(config) {
        Ok(credentials) => Some(Secrets {
            credentials: Arc::new(credentials),
            api_keys,
            nonce_key,
            first_run,
        }),
        Err(error) => {
            cx.d.push(Diagnostic::error(format!("`credentials.users`: {error}")));
            None
        }
    }
}

/// `Some(None)`: none is needed yet.
fn first_run_secret(state_dir: Option<&Path>, cx: &mut Context<'_>) -> Option<Option<first_run::FirstSecret>> {
    // Reported in `read` already.
    let dir = state_dir?;
    let result = match cx.purpose {
        Purpose::Serve | Purpose::Reload => first_run::obtain_secret(dir).map(Some),
        Purpose::Check => first_run::find_secret(dir, own::FileOwner::Ourselves),
        // Root mints for a server that runs as another user.
        Purpose::Mint => first_run::find_secret(dir, own::FileOwner::OfTheDirectory),
    };
    match result {
        Ok(secret) => Some(secret),
        Err(error) => {
            let message = format!("no secret is configured, and the generated one: {error}");
            // Who owns a directory does not change by itself.
            let diagnostic = match cx.purpose {
                Purpose::Serve | Purpose::Reload => Diagnostic::error(message),
                Purpose::Check | Purpose::Mint => cx.here(message),
            };
            cx.d.push(diagnostic.help(FIRST_RUN_HELP));
            None
        }
    }
}

fn users(raw: &Raw, cx: &mut Context<'_>) -> Vec<StaticUser> {
    let mut users = Vec::new();
    for user in &raw.credentials.users {
        let name = user.name.value.clone();
        let password = match &user.password {
            None => continue,
            Some(SecretOrFile::Text(text)) => Zeroizing::new(text.value.0.clone()),
            Some(SecretOrFile::File(file)) => {
                let Some(text) = read_text(&file.value, file.place, cx) else {
                    continue;
                };
                secret::password(&text, &name, file.place, cx.d);
                text
            }
        };
        users.push(StaticUser {
            name,
            password,
            forced: user.forced.value,
        });
    }
    users
}

fn api_keys(raw: &Raw, cx: &mut Context<'_>) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    let mut seen: HashMap<String, String> = HashMap::new();
    for key in &raw.api.keys.value {
        let name = key.name.value.clone();
        let (text, place) = match &key.key {
            None => continue,
            Some(SecretOrFile::Text(text)) => (text.value.0.clone(), text.place),
            Some(SecretOrFile::File(file)) => {
                let Some(text) = read_text(&file.value, file.place, cx) else {
                    continue;
                };
                secret::api_key(text.as_bytes(), &name, file.place, cx.d);
                (text.to_string(), file.place)
            }
        };
        if let Some(twin) = seen.insert(text.clone(), name.clone()) {
            let message = format!("`api.keys`: {twin:?} and {name:?} have the same key");
            cx.d.push(
                Diagnostic::error(message)
                    .at(place)
                    .help("give each application a key of its own"),
            );
        }
        keys.push(ApiKey {
            name,
            key: text,
            choose_username: key.choose_username.value,
            forced: key.forced.value,
        });
    }
    keys
}

fn nonce_key(raw: &Raw, cx: &mut Context<'_>) -> Option<NonceKey> {
    match raw.turn.nonce_secret.as_ref()? {
        SecretOrFile::Text(text) => Some(NonceKey::derive(text.value.0.as_bytes())),
        SecretOrFile::File(file) => {
            let bytes = read_file(&file.value, file.place, cx)?;
            secret::secret(&bytes, &file.value.display().to_string(), file.place, cx.d);
            Some(NonceKey::derive(&bytes))
        }
    }
}

fn read_text(file: &Path, place: Option<SourceSpan>, cx: &mut Context<'_>) -> Option<Zeroizing<String>> {
    let bytes = read_file(file, place, cx)?;
    match core::str::from_utf8(&bytes) {
        Ok(text) => Some(Zeroizing::new(text.to_owned())),
        Err(_) => {
            let message = format!("{} is not UTF-8 text", file.display());
            cx.d.push(
                Diagnostic::error(message)
                    .at(place)
                    .help("put the text into it, without anything else"),
            );
            None
        }
    }
}

/// The content of a secret file, without the line break at its end.
fn read_file(file: &Path, place: Option<SourceSpan>, cx: &mut Context<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let path = cx.file(file, place)?;
    let Contents { mut bytes, mode } = match files::read(&path, files::MAX_SECRET) {
        Ok(contents) => contents,
        Err(error) => {
            let user = cx.env.user();
            let make = format!(
                "make it: head -c 33 /dev/urandom | base64 | tr +/ -_ | install -m 600 -o {user} /dev/stdin {}",
                path.display()
            );
            let help = cx.read_help(&error, &path, make);
            let diagnostic = Diagnostic::error(format!("cannot read {}: {error}", path.display())).at(place);
            cx.d.push(diagnostic.maybe_help(help));
            return None;
        }
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let diagnostic = Diagnostic::error(format!("{} is saved as UTF-16", path.display())).at(place);
        cx.d.push(diagnostic.help("save it as UTF-8 or ASCII"));
        return None;
    }
    // Of an editor; nobody types it as part of a secret.
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
    let len = bytes.len() - bytes.iter().rev().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    bytes.truncate(len);
    if bytes.is_empty() {
        let diagnostic = Diagnostic::error(format!("{} is empty", path.display())).at(place);
        cx.d.push(diagnostic.help("put the secret into it: head -c 33 /dev/urandom | base64 | tr +/ -_"));
        return None;
    }
    if bytes.contains(&b'\n') {
        let diagnostic = Diagnostic::warning(format!(
            "{} has several lines: they are taken as one secret",
            path.display()
        ));
        cx.d.push(
            diagnostic
                .at(place)
                .help("put each secret into a file of its own: `secret_files = [\"new\", \"old\"]`"),
        );
    }
    if is_open(&path, mode) {
        let diagnostic = Diagnostic::warning(format!("every user of this machine may read {}", path.display()));
        cx.d.push(diagnostic.at(place).help(access::closing(&path, cx.env)));
    }
    Some(bytes)
}
