//! How each type of value is written: texts, flags, lists, choices, `"auto"` and `"off"`; durations and sizes in
//! `quantity`, addresses and ports in `network`, and in `foreign` what other servers write for those.

mod bind;
mod foreign;
mod network;
mod quantity;

use std::path::PathBuf;

use super::super::harmless;
use super::diagnostic::SourceSpan;
use super::document::{Node, Value};
use super::syntax;

pub(in crate::config) use bind::{Bind, BindHost, is_host_name};
pub(in crate::config) use network::{External, Host, NetworkOrAddress, Port, PortOrPorts, Ports, ServerName};
pub(in crate::config) use quantity::{Bytes, parse_duration};

/// What is wrong with a value; the key is named by the caller.
#[derive(Debug)]
pub(in crate::config) struct Mistake {
    pub(in crate::config) message: String,
    pub(in crate::config) help: Option<String>,
    pub(in crate::config) place: SourceSpan,
}

impl Mistake {
    fn new(node: &Node, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            place: node.place,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What may be shown of the values of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Secrecy {
    /// What looks like such a value.
    Plain,
    /// What looks like the path of a file: where a path belongs, people put what should stand in the file.
    Path,
    /// Nothing.
    Secret,
}

impl Secrecy {
    pub(in crate::config) const fn is_secret(self) -> bool {
        matches!(self, Self::Secret)
    }
}

/// A type that stands behind a key.
pub(in crate::config) trait Setting: Sized {
    /// What may be shown of its values.
    const KIND: Secrecy = Secrecy::Plain;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>>;

    /// What may be written, as Markdown.
    fn words() -> String;

    /// The same of more than one, in a list.
    fn plural() -> String {
        format!("{}s", Self::words())
    }

    /// As TOML.
    fn show(&self) -> String;
}

/// What is expected, and what there is instead.
fn expected<T>(node: &Node, what: &str, example: &str) -> Result<T, Vec<Mistake>> {
    let found = match &node.value {
        Value::Text(text) if !text.is_empty() => format!("{text:?}"),
        Value::Text(_) => "an empty text".into(),
        Value::Integer(Some(number)) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        other => other.kind().into(),
    };
    Err(vec![
        Mistake::new(node, format!("expected {what}, found {found}")).help(format!("for example {example}")),
    ])
}

/// A number that no key takes.
fn too_large<T>(node: &Node) -> Result<T, Vec<Mistake>> {
    let message = match &node.value {
        Value::Integer(Some(number)) => format!("{number} is too large"),
        Value::Text(text) => format!("{text:?} is too large"),
        _ => "the number is too large".to_owned(),
    };
    Err(vec![
        Mistake::new(node, message).help("docs/configuration.md has the bounds of each key"),
    ])
}

/// Whether a number in `text` is larger than any that is counted with here.
fn has_too_many_digits(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit())
        .any(|digits| digits.trim_start_matches('0').len() >= 15)
}

/// The text a value stands for, if it is one. In the environment texts need no quotes.
pub(in crate::config) fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => node.raw.as_deref(),
    }
}

/// `text` as a TOML string.
pub(in crate::config) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Setting for bool {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Boolean(flag) => Ok(*flag),
            value => {
                let written = match value {
                    Value::Integer(Some(number)) => number.to_string(),
                    _ => text_of(node).unwrap_or("").trim().to_owned(),
                };
                let wrong = expected(node, "true or false", "`true`, without quotes");
                match syntax::flag(&written) {
                    Some((flag, _)) => wrong.map_err(|mistakes: Vec<Mistake>| {
                        let written = |mistake: Mistake| mistake.help(format!("write `{flag}`, without quotes"));
                        mistakes.into_iter().map(written).collect()
                    }),
                    None => wrong,
                }
            }
        }
    }

    fn words() -> String {
        "true, false".into()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        text_of(node).map_or_else(
            || expected(node, "a text", "`\"text\"`, in quotes"),
            |text| Ok(text.to_owned()),
        )
    }

    fn words() -> String {
        "string".into()
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const KIND: Secrecy = Secrecy::Path;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node) {
            Some(text) if !text.is_empty() && !text.contains('\0') => Ok(Self::from(text)),
            _ => expected(node, "the path of a file", "\"/etc/relay/secret\""),
        }
    }

    fn words() -> String {
        "path".into()
    }

    fn show(&self) -> String {
        quoted(&harmless::shown(self))
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::config) struct SecretText(pub(in crate::config) String);

impl Setting for SecretText {
    const KIND: Secrecy = Secrecy::Secret;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node) {
            Some(text) => Ok(Self(text.to_owned())),
            None => Err(vec![
                Mistake::new(node, format!("expected a text, found {}", node.value.kind())).help("put it in quotes"),
            ]),
        }
    }

    fn words() -> String {
        "string".into()
    }

    fn show(&self) -> String {
        "\"(hidden)\"".into()
    }
}

/// Lists. In the environment also `a,b,c`, unless the elements are secret.
impl<T: Setting> Setting for Vec<T> {
    const KIND: Secrecy = T::KIND;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let nodes = match (&node.value, &node.raw) {
            (Value::List(list), _) => list.clone(),
            (_, Some(raw)) if T::KIND.is_secret() => vec![text_node(node, raw)],
            (_, Some(raw)) if raw.starts_with('[') => {
                let mistake = Mistake::new(node, "this list is not TOML: texts in brackets need quotes");
                let parts = parts_of(raw.trim_matches(['[', ']']));
                return Err(vec![
                    mistake.help(format!("write [{}], or leave the brackets away", parts.join(", "))),
                ]);
            }
            (_, Some(raw)) => raw.split(',').map(|part| text_node(node, part.trim())).collect(),
            (Value::Text(text), None) => {
                let written = if T::KIND.is_secret() {
                    "\"…\"".to_owned()
                } else {
                    parts_of(text).join(", ")
                };
                let mistake = Mistake::new(node, "expected a list, found a text");
                return Err(vec![mistake.help(format!("put it in brackets: [{written}]"))]);
            }
            _ => return expected(node, "a list", "[\"a\", \"b\"]"),
        };
        let mut read = Self::new();
        let mut mistakes = Vec::new();
        for node in &nodes {
            match T::read(node) {
                Ok(value) => read.push(value),
                Err(more) => mistakes.extend(more),
            }
        }
        if mistakes.is_empty() { Ok(read) } else { Err(mistakes) }
    }

    fn words() -> String {
        format!("list of {}", T::plural())
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

/// The parts of a list as other servers write them, behind commas, semicolons or spaces; each in quotes.
fn parts_of(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| c.is_whitespace() || ",;".contains(c));
    let parts = parts.map(|part| part.trim_matches(['"', '\'']));
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).map(quoted).collect();
    if parts.is_empty() { vec![quoted(text)] } else { parts }
}

fn text_node(whole: &Node, text: &str) -> Node {
    Node {
        place: whole.place,
        value: Value::Text(text.to_owned()),
        raw: Some(text.to_owned()),
    }
}

/// An element of a list that remembers its place.
#[derive(Clone)]
pub(in crate::config) struct Placed<T> {
    pub(in crate::config) value: T,
    pub(in crate::config) place: SourceSpan,
}

impl<T: Setting> Setting for Placed<T> {
    const KIND: Secrecy = T::KIND;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        T::read(node).map(|value| Self {
            value,
            place: node.place,
        })
    }

    fn words() -> String {
        T::words()
    }

    fn plural() -> String {
        T::plural()
    }

    fn show(&self) -> String {
        self.value.show()
    }
}

/// One of a closed set of words.
pub(in crate::config) trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];
}

/// A [`Choice`] as a setting.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::config) struct OneOf<T>(pub(in crate::config) T);

impl<T: Choice> Setting for OneOf<T> {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let written = text_of(node).unwrap_or("");
        if let Some((_, choice)) = T::ALL.iter().find(|(name, _)| *name == written) {
            return Ok(Self(*choice));
        }
        let all = T::ALL
            .iter()
            .map(|(name, _)| quoted(name))
            .collect::<Vec<_>>()
            .join(", ");
        let near = nearest(&written.to_ascii_lowercase(), T::ALL.iter().map(|(name, _)| *name));
        let help = match near {
            Some(name) => format!("did you mean {}? It can be {all}", quoted(name)),
            None => format!("it can be {all}"),
        };
        let found = if written.is_empty() {
            node.value.kind().to_owned()
        } else {
            format!("{written:?}")
        };
        Err(vec![
            Mistake::new(node, format!("{found} is none of the choices")).help(help),
        ])
    }

    fn words() -> String {
        let all = T::ALL.iter().map(|(name, _)| format!("`{}`", quoted(name)));
        all.collect::<Vec<_>>().join(", ")
    }

    fn plural() -> String {
        Self::words()
    }

    fn show(&self) -> String {
        T::ALL
            .iter()
            .find(|(_, choice)| *choice == self.0)
            .map_or_else(String::new, |(name, _)| quoted(name))
    }
}

/// The candidate that `written` was probably meant to be.
pub(in crate::config) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(written, candidate);
            let part = written.len() >= 3 && (candidate.contains(written) || written.contains(candidate));
            (candidate, if part { distance.min(2) } else { distance })
        })
        .filter(|(candidate, distance)| *distance <= (candidate.len().max(written.len()) / 3).max(1))
        .min_by_key(|(_, distance)| *distance)
        .map(|(candidate, _)| candidate)
}

/// `"auto"`, where the server works it out, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Auto<T> {
    Auto,
    Given(T),
}

impl<T: Setting> Setting for Auto<T> {
    const KIND: Secrecy = T::KIND;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        if text_of(node).map(str::trim) == Some("auto") {
            return Ok(Self::Auto);
        }
        let or_auto = |mut mistake: Mistake| {
            mistake.help = mistake.help.map(|help| format!("{help}, or \"auto\""));
            mistake
        };
        T::read(node)
            .map(Self::Given)
            .map_err(|mistakes| mistakes.into_iter().map(or_auto).collect())
    }

    fn words() -> String {
        format!("{} or `\"auto\"`", T::words())
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Given(value) => value.show(),
        }
    }
}

/// `"off"`, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct OffOr<T>(pub(in crate::config) Option<T>);

impl<T: Setting> Setting for OffOr<T> {
    const KIND: Secrecy = T::KIND;

    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match text_of(node).map(str::trim) {
            Some("off") => Ok(Self(None)),
            _ => T::read(node).map(|value| Self(Some(value))),
        }
    }

    fn words() -> String {
        format!("{} or `\"off\"`", T::words())
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(|| quoted("off"), T::show)
    }
}

impl Setting for i128 {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Integer(Some(number)) => Ok(*number),
            Value::Integer(None) => too_large(node),
            Value::Text(text) if text.parse::<Self>().is_ok() => {
                let mistake = Mistake::new(node, format!("expected a whole number, found the text {text:?}"));
                Err(vec![mistake.help(format!("leave the quotes away: {text}"))])
            }
            _ => expected(node, "a whole number", "100"),
        }
    }

    fn words() -> String {
        "number".into()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A text as it stands in a file, read as `T`.
#[cfg(test)]
fn read_text<T: Setting>(text: &str) -> Option<T> {
    let node = Node {
        place: SourceSpan::new(0, &(0..0)),
        value: Value::Text(text.to_owned()),
        raw: None,
    };
    T::read(&node).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["permissions", "channels", "connections", "queue_age"];
        for (written, expected) in [
            ("permisions", Some("permissions")),
            ("permission", Some("permissions")),
            ("chanels", Some("channels")),
            ("queue-age", Some("queue_age")),
            ("bananas", None),
            ("x", None),
        ] {
            assert_eq!(nearest(written, words.into_iter()), expected, "{written}");
        }
    }
}
