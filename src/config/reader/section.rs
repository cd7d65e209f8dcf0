//! Reads a tree key by key: types, ranges, unknown keys. What is read is remembered, so the list of all keys and the
//! effective configuration cannot differ from what the server understands.

use core::fmt::Display;
use core::ops::RangeInclusive;
use std::collections::HashSet;

use super::super::characters;
use super::diagnostic::{Diagnostic, Diagnostics, MAX_TOLD, SourceSpan};
use super::document::{Entry, Node, Table, Value};
use super::effective::Effective;
use super::key::{ConfigKey, DescribedKey};
use super::suggest::Suggestions;
use super::value::{Auto, Secrecy, Setting};

/// A value with its place; no place where it is the default.
#[derive(Clone, Debug)]
pub(in crate::config) struct Located<T> {
    pub(in crate::config) value: T,
    pub(in crate::config) place: Option<SourceSpan>,
}

impl<T> Located<T> {
    /// Whether the operator wrote it.
    pub(in crate::config) const fn is_given(&self) -> bool {
        self.place.is_some()
    }
}

/// What goes on through a whole reading.
pub(in crate::config) struct Reader<'d> {
    diagnostics: &'d mut Diagnostics,
    effective: Effective,
    /// Every key there is: `limits.permissions`, `listener.bind`.
    keys: Vec<DescribedKey>,
    /// The same, to be found quickly.
    asked: HashSet<String>,
    /// Every list of tables: `listener`, `api.keys`.
    lists: Vec<String>,
    unknown: Vec<Unknown>,
}

/// What a reading comes to beside its value.
pub(in crate::config) struct Read {
    pub(in crate::config) effective: Effective,
    pub(in crate::config) keys: Vec<DescribedKey>,
    pub(in crate::config) lists: Vec<String>,
}

/// What may be written for a key, in words, and its default.
type Description = (String, Option<String>);

struct Unknown {
    /// The section it stands in; empty at the top.
    section: String,
    entry: Entry,
}

/// One table while it is read. Every key must be asked for; [`Section::finish`] reports the others.
pub(in crate::config) struct Section<'r, 'd> {
    reader: &'r mut Reader<'d>,
    /// For messages and suggestions: `credentials.users`.
    path: String,
    /// For the effective configuration: as `path`, or with an index: `listener.0`.
    instance: String,
    table: Table,
}

impl<'d> Reader<'d> {
    /// Reads `table` with `read`, the function that knows the keys at the top.
    pub(in crate::config) fn run<T>(
        table: Table,
        diagnostics: &'d mut Diagnostics,
        read: impl FnOnce(&mut Section<'_, 'd>) -> T,
    ) -> (T, Read) {
        let mut reader = Self {
            diagnostics,
            effective: Effective::default(),
            keys: Vec::new(),
            asked: HashSet::new(),
            lists: Vec::new(),
            unknown: Vec::new(),
        };
        let mut top = Section {
            reader: &mut reader,
            path: String::new(),
            instance: String::new(),
            table,
        };
        let value = read(&mut top);
        top.finish();
        reader.report_unknown();
        let read = Read {
            effective: reader.effective,
            keys: reader.keys,
            lists: reader.lists,
        };
        (value, read)
    }

    fn report_unknown(&mut self) {
        for (index, Unknown { section, entry }) in core::mem::take(&mut self.unknown).into_iter().enumerate() {
            // Those behind are not shown, and each search compares with every key there is.
            let suggestions = Suggestions {
                keys: &self.keys,
                lists: &self.lists,
            };
            let suggestion = (index < MAX_TOLD)
                .then(|| suggestions.for_entry(&section, &entry))
                .flatten();
            let what = match (&entry.node.value, section.is_empty()) {
                (Value::Table(_), true) => format!("there is no section `[{}]`", entry.key),
                (_, true) => format!("there is no key `{}`", entry.key),
                (_, false) => format!("there is no key `{}` in `[{section}]`", entry.key),
            };
            let diagnostic = Diagnostic::error(what).at(entry.key_place);
            self.diagnostics.push(diagnostic.maybe_help(suggestion));
        }
    }
}

impl<'d> Section<'_, 'd> {
    /// Its name, for messages.
    pub(in crate::config) fn path(&self) -> &str {
        &self.path
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Takes the entry of `key` out of the table. What the key is, is remembered when it is first asked for: what may be
    /// written, and the default.
    fn ask(&mut self, key: &ConfigKey, secrecy: Secrecy, describe: impl FnOnce() -> Description) -> Option<Entry> {
        let path = self.key_path(key.name);
        if !self.reader.asked.contains(&path) {
            self.reader.asked.insert(path.clone());
            let (kind, value) = describe();
            self.reader
                .keys
                .push(DescribedKey::new(path, key, secrecy, kind, value));
        }
        self.table.take(key.name)
    }

    /// Adds a mistake.
    pub(in crate::config) fn report(&mut self, diagnostic: Diagnostic) {
        self.reader.diagnostics.push(diagnostic);
    }

    fn read_entry<T: Setting>(
        &mut self,
        key: &ConfigKey,
        describe: impl FnOnce() -> Description,
    ) -> (Option<T>, Option<SourceSpan>) {
        let secret = T::KIND.is_secret();
        let Some(entry) = self.ask(key, T::KIND, describe) else {
            return (None, None);
        };
        let key = key.name;
        match T::read(&entry.node) {
            Ok(value) => {
                // Nothing else is said about a value with characters in it that nobody meant.
                let odd = self.odd_characters(key, secret, &entry.node);
                (Some(value).filter(|_| secret || !odd), Some(entry.node.place))
            }
            Err(mistakes) => {
                let name = self.key_path(key);
                if self.odd_characters(key, secret, &entry.node) {
                    return (None, None);
                }
                for mistake in mistakes {
                    let message = format!("`{name}`: {}", mistake.message);
                    self.report(Diagnostic::error(message).at(mistake.place).maybe_help(mistake.help));
                }
                (None, None)
            }
        }
    }

    /// Reports characters nobody meant to write. In a secret they may be meant.
    fn odd_characters(&mut self, key: &str, secret: bool, node: &Node) -> bool {
        let name = self.key_path(key);
        let mut found = false;
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            match &node.value {
                Value::List(list) => nodes.extend(list),
                Value::Text(text) => {
                    let Some((what, help)) = characters::odd(text) else {
                        continue;
                    };
                    let message = format!("`{name}`: {what}");
                    let diagnostic = if secret {
                        Diagnostic::warning(message)
                    } else {
                        Diagnostic::error(message)
                    };
                    self.report(diagnostic.at(node.place).help(help));
                    found = true;
                }
                Value::Integer(_) | Value::Boolean(_) | Value::Table(_) | Value::Other(_) => {}
            }
        }
        found
    }

    /// A key without a default.
    pub(in crate::config) fn optional<T: Setting>(&mut self, key: ConfigKey) -> Option<Located<T>> {
        let (value, place) = self.read_entry::<T>(&key, || (T::words(), None));
        let value = value?;
        self.reader.effective.pair(&self.instance, key.name, value.show());
        Some(Located { value, place })
    }

    /// A key with a default.
    pub(in crate::config) fn value<T: Setting>(&mut self, key: ConfigKey, default: T) -> Located<T> {
        let (value, place) = self.read_entry::<T>(&key, || (T::words(), Some(default.show())));
        let value = value.unwrap_or(default);
        self.reader.effective.pair(&self.instance, key.name, value.show());
        Located { value, place }
    }

    /// A key with a default and bounds, both included.
    pub(in crate::config) fn within<T>(&mut self, key: ConfigKey, default: T, bounds: RangeInclusive<T>) -> Located<T>
    where
        T: Setting + PartialOrd + Clone,
    {
        let (first, last) = (bounds.start().show(), bounds.end().show());
        let describe = || {
            let range = format!("{first}–{last}").replace('"', "");
            (format!("{}, {range}", T::words()), Some(default.show()))
        };
        let (value, place) = self.read_entry::<T>(&key, describe);
        let (value, place) = match value {
            Some(value) if bounds.contains(&value) => (value, place),
            Some(value) => {
                self.out_of_bounds(key.name, place, &value.show(), &first, &last);
                (default, None)
            }
            None => (default, None),
        };
        self.reader.effective.pair(&self.instance, key.name, value.show());
        Located { value, place }
    }

    /// A whole number with bounds, as the type it is needed in.
    pub(in crate::config) fn number<T>(&mut self, key: ConfigKey, default: T, bounds: RangeInclusive<T>) -> Located<T>
    where
        T: TryFrom<i128> + Display + PartialOrd + Copy,
    {
        let describe = || {
            (
                format!("{}–{}", bounds.start(), bounds.end()),
                Some(default.to_string()),
            )
        };
        let (read, place) = self.read_entry::<i128>(&key, describe);
        let (value, place) = match read.map(|number| (number, T::try_from(number))) {
            Some((_, Ok(value))) if bounds.contains(&value) => (value, place),
            Some((number, _)) => {
                self.out_of_bounds(key.name, place, &number, bounds.start(), bounds.end());
                (default, None)
            }
            None => (default, None),
        };
        self.reader.effective.pair(&self.instance, key.name, value.to_string());
        Located { value, place }
    }

    /// The same, or "auto", which is the default.
    pub(in crate::config) fn auto_number<T>(&mut self, key: ConfigKey, bounds: RangeInclusive<T>) -> Located<Auto<T>>
    where
        T: TryFrom<i128> + Display + PartialOrd + Copy,
    {
        let auto = Auto::<i128>::Auto.show();
        let describe = || {
            let range = format!("{}–{} or `{auto}`", bounds.start(), bounds.end());
            (range, Some(auto.clone()))
        };
        let (read, place) = self.read_entry::<Auto<i128>>(&key, describe);
        let (value, place) = match read {
            None | Some(Auto::Auto) => (Auto::Auto, place),
            Some(Auto::Given(number)) => match T::try_from(number) {
                Ok(value) if bounds.contains(&value) => (Auto::Given(value), place),
                _ => {
                    self.out_of_bounds(key.name, place, &number, bounds.start(), bounds.end());
                    (Auto::Auto, None)
                }
            },
        };
        let shown = match &value {
            Auto::Given(number) => number.to_string(),
            Auto::Auto => auto,
        };
        self.reader.effective.pair(&self.instance, key.name, shown);
        Located { value, place }
    }

    fn out_of_bounds(
        &mut self,
        key: &str,
        place: Option<SourceSpan>,
        found: &dyn Display,
        first: &dyn Display,
        last: &dyn Display,
    ) {
        let name = self.key_path(key);
        let diagnostic = Diagnostic::error(format!("`{name}`: {found} is out of range")).at(place);
        self.report(diagnostic.help(format!("from {first} to {last}")));
    }

    /// A section: `[path.key]`.
    pub(in crate::config) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'd>) -> T,
    ) -> T {
        let path = self.key_path(key);
        let table = match self.table.take(key) {
            Some(Entry {
                node: Node {
                    value: Value::Table(table),
                    ..
                },
                ..
            }) => table,
            Some(entry) => {
                let found = entry.node.value.kind();
                let diagnostic = Diagnostic::error(format!("`{path}` is a section, found {found}"));
                self.report(
                    diagnostic
                        .at(entry.node.place)
                        .help(format!("write its keys below `[{path}]`")),
                );
                Table { entries: Vec::new() }
            }
            None => Table { entries: Vec::new() },
        };
        self.reader.effective.header(&path, false);
        let mut section = Section {
            reader: &mut *self.reader,
            instance: path.clone(),
            path,
            table,
        };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// A list of tables: `[[path.key]]` or `key = [{ … }]`; `default` where it is not given. `read` is also run once
    /// on nothing, without consequences, so that its keys are known even if the list is empty.
    pub(in crate::config) fn tables<T>(
        &mut self,
        key: ConfigKey,
        default: Vec<Node>,
        mut read: impl FnMut(&mut Section<'_, 'd>, Option<SourceSpan>) -> Option<T>,
    ) -> Located<Vec<T>> {
        let path = self.key_path(key.name);
        let value = default.is_empty().then(|| "[]".to_owned());
        let entry = self.ask(&key, Secrecy::Plain, || ("list of tables".to_owned(), value));
        self.reader.lists.push(path.clone());
        self.learn_keys(&path, &mut read);
        let (nodes, place) = match entry {
            Some(Entry {
                node:
                    Node {
                        value: Value::List(nodes),
                        place,
                        ..
                    },
                ..
            }) => (nodes, Some(place)),
            Some(entry) => {
                let single = matches!(entry.node.value, Value::Table(_));
                let help = if single {
                    format!("write `[[{path}]]`, in double brackets")
                } else {
                    format!("write `[[{path}]]` above its keys")
                };
                let diagnostic = Diagnostic::error(format!(
                    "`{path}` is a list of tables, found {}",
                    entry.node.value.kind()
                ));
                self.report(diagnostic.at(entry.key_place).help(help));
                // What stands in it is checked all the same.
                (if single { vec![entry.node] } else { default }, None)
            }
            None => (default, None),
        };
        let mut all = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let Value::Table(table) = node.value else {
                let diagnostic = Diagnostic::error(format!("`{path}`: expected a table, found {}", node.value.kind()));
                self.report(diagnostic.at(node.place).help("write it as `{ key = value, … }`"));
                continue;
            };
            self.reader.effective.header(&path, true);
            let instance = format!("{path}.{index}");
            let mut section = Section {
                reader: &mut *self.reader,
                path: path.clone(),
                instance,
                table,
            };
            let value = read(&mut section, Some(node.place));
            section.finish();
            all.extend(value);
        }
        Located { value: all, place }
    }

    fn learn_keys<T>(
        &mut self,
        path: &str,
        read: &mut impl FnMut(&mut Section<'_, 'd>, Option<SourceSpan>) -> Option<T>,
    ) {
        let kept = (
            self.reader.diagnostics.len(),
            core::mem::take(&mut self.reader.effective),
        );
        let table = Table { entries: Vec::new() };
        let mut section = Section {
            reader: &mut *self.reader,
            path: path.to_owned(),
            instance: path.to_owned(),
            table,
        };
        read(&mut section, None);
        self.reader.diagnostics.truncate(kept.0);
        self.reader.effective = kept.1;
    }

    fn finish(self) {
        for entry in self.table.entries {
            self.reader.unknown.push(Unknown {
                section: self.path.clone(),
                entry,
            });
        }
    }

    /// Whether `key` is written, rightly or wrongly.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.entries.iter().any(|entry| entry.key == key)
    }

    /// A key that must be there; its example is what is proposed where it is not.
    pub(in crate::config) fn required<T: Setting>(
        &mut self,
        key: ConfigKey,
        example: &'static str,
        place: Option<SourceSpan>,
    ) -> Option<Located<T>> {
        if !self.has(key.name) {
            let help = format!("add `{} = {example}`", key.name);
            self.report(
                Diagnostic::error(format!("`{}`: `{}` is missing", self.path, key.name))
                    .at(place)
                    .help(help),
            );
        }
        self.optional(key.example(example).default("required"))
    }
}
