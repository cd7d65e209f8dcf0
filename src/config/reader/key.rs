//! A key as its section declares it: its name, when a change of it takes effect, and what it means.

use super::value::Secrecy;

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At a reload.
    Live,
    /// At a restart: a reload keeps the value that is in force.
    Restart,
    /// At a reload, unless listeners or relay ports wait for a restart: then it waits with them.
    WithListeners,
}

/// What a section says of a key beside its type, default and bounds.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct ConfigKey {
    pub(in crate::config) name: &'static str,
    applies: Applies,
    text: &'static str,
    kind: Option<&'static str>,
    default: Option<&'static str>,
    example: Option<&'static str>,
}

/// A key of which a reload takes a new value. The first paragraph of `text` says what it is, the rest when to change it;
/// as Markdown, with links as from `docs`.
pub(in crate::config) const fn live(name: &'static str, text: &'static str) -> ConfigKey {
    ConfigKey {
        name,
        applies: Applies::Live,
        text,
        kind: None,
        default: None,
        example: None,
    }
}

/// A key of which sockets, threads or buffers are made once.
pub(in crate::config) const fn restart(name: &'static str, text: &'static str) -> ConfigKey {
    ConfigKey {
        applies: Applies::Restart,
        ..live(name, text)
    }
}

/// A key that fits the listeners it was written with.
pub(in crate::config) const fn with_listeners(name: &'static str, text: &'static str) -> ConfigKey {
    ConfigKey {
        applies: Applies::WithListeners,
        ..live(name, text)
    }
}

impl ConfigKey {
    /// What may be written, where the type of the value does not say all of it.
    pub(in crate::config) const fn kind(self, kind: &'static str) -> Self {
        Self {
            kind: Some(kind),
            ..self
        }
    }

    /// What the default is called, where it is not shown as a value.
    pub(in crate::config) const fn default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    /// What could be written for a key that has no default.
    pub(in crate::config) const fn example(self, example: &'static str) -> Self {
        Self {
            example: Some(example),
            ..self
        }
    }
}

/// A key with all that is known of it.
#[derive(Debug)]
pub struct DescribedKey {
    /// With its section: `limits.permissions`, `listener.bind`.
    pub path: String,
    /// What may be written, as Markdown: `duration, 1s–1m`.
    pub kind: String,
    /// The value where none is written, as TOML. `None`: there is none, or none that is one line.
    pub value: Option<String>,
    /// What stands for a value that cannot be shown: `none`, `required`.
    default: &'static str,
    /// When a change takes effect.
    pub applies: Applies,
    /// What it is, and in further paragraphs, when to change it; as Markdown, with links as from `docs`.
    pub text: &'static str,
    /// What could be written where there is no default, as TOML.
    pub example: Option<&'static str>,
    pub(in crate::config) secrecy: Secrecy,
}

impl DescribedKey {
    /// The key `key` at `path`: `kind` is what its type takes, `value` its default, `absent` what stands for a default
    /// that is none.
    pub(super) fn new(path: String, key: &ConfigKey, secrecy: Secrecy, kind: String, value: Option<String>) -> Self {
        Self {
            path,
            kind: key.kind.map_or(kind, str::to_owned),
            value,
            default: key.default.unwrap_or("none"),
            applies: key.applies,
            text: key.text,
            example: key.example,
            secrecy,
        }
    }

    /// The default, as Markdown.
    pub fn default(&self) -> String {
        match &self.value {
            Some(value) if self.default == "none" => format!("`{value}`"),
            _ => self.default.to_owned(),
        }
    }

    /// What it is, in a few words.
    pub fn summary(&self) -> &'static str {
        self.text.split("\n\n").next().unwrap_or(self.text)
    }
}
