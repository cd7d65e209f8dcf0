//! A TOML text as a tree in which every key and every value knows its place.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::syntax;

/// After so many syntax errors the text is no TOML at all.
const MAX_SYNTAX_ERRORS: usize = 20;

/// A value and where it stands.
#[derive(Clone)]
pub(in crate::config) struct Node {
    pub(in crate::config) place: SourceSpan,
    pub(in crate::config) value: Value,
    /// As written in an environment variable: there a text needs no quotes, even if it looks like a number.
    pub(in crate::config) raw: Option<String>,
}

#[derive(Clone)]
pub(in crate::config) enum Value {
    Text(String),
    /// `None`: has more digits than any number here needs.
    Integer(Option<i128>),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A float or a date: no key takes one.
    Other(&'static str),
}

/// Keys in the order of the text.
#[derive(Clone)]
pub(in crate::config) struct Table {
    pub(in crate::config) entries: Vec<Entry>,
}

#[derive(Clone)]
pub(in crate::config) struct Entry {
    pub(in crate::config) key: String,
    pub(in crate::config) key_place: SourceSpan,
    pub(in crate::config) node: Node,
}

impl Table {
    pub(in crate::config) fn find_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    pub(in crate::config) fn take(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index))
    }

    /// Puts `entry` in the place of one of the same name.
    pub(in crate::config) fn set(&mut self, entry: Entry) {
        match self.find_mut(&entry.key) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }
}

impl Value {
    /// For messages: "expected …, found a table".
    pub(in crate::config) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(Some(_)) => "a number",
            Self::Integer(None) => "a number with too many digits",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads the text of source `source`. Syntax errors go to `diagnostics`; the stretches they spoil come back.
pub(in crate::config) fn parse(text: &str, source: usize, diagnostics: &mut Diagnostics) -> (Table, Vec<SourceSpan>) {
    let (table, mut errors) = DeTable::parse_recoverable(text);
    let table = convert_table(table.into_inner(), source);
    if errors.is_empty() {
        return (table, Vec::new());
    }
    if let Some((language, span)) = syntax::other_language(text) {
        let place = SourceSpan::new(source, &span);
        let diagnostic = Diagnostic::error(format!("this is {language}, and the configuration is TOML")).at(place);
        diagnostics
            .push(diagnostic.help("write `key = value`, and sections as `[section]`; config/relay.toml is an example"));
        return (table, vec![SourceSpan::new(source, &(0..text.len()))]);
    }
    if let Some(span) = syntax::coturn(text) {
        let diagnostic = Diagnostic::error("this is the turnserver.conf of coturn, and the configuration is TOML");
        let help = "docs/configuration.md, \"From coturn\", says what its options are called here";
        diagnostics.push(diagnostic.at(SourceSpan::new(source, &span)).help(help));
        return (table, vec![SourceSpan::new(source, &(0..text.len()))]);
    }
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let count = errors.len();
    let statements = syntax::Statements::default();
    let mut lists = Vec::new();
    collect_lists(&table, &mut lists);
    let mut spoiled: Vec<SourceSpan> = Vec::new();
    for (index, error) in errors.into_iter().enumerate() {
        if spoiled.len() == MAX_SYNTAX_ERRORS {
            let more = count - index;
            let message = format!("and up to {more} more mistakes: this does not look like TOML");
            diagnostics.push(Diagnostic::error(message));
            spoiled.push(SourceSpan::new(
                source,
                &(error.span().map_or(0, |span| span.start)..text.len()),
            ));
            break;
        }
        let mut span = error.span().unwrap_or(0..0);
        if span.is_empty() {
            let next = text.get(span.start..).and_then(|rest| rest.chars().next());
            span.end += next.map_or(0, char::len_utf8);
        }
        let place = SourceSpan::new(source, &span);
        let list = lists.iter().find(|(_, whole)| whole.overlaps(place));
        // The parser goes on after a mistake and meets its consequences: one is told per list, and per line.
        let whole = list.map_or_else(|| diagnostics.lines_of(place), |(_, whole)| *whole);
        if spoiled.iter().any(|earlier| earlier.overlaps(whole)) {
            continue;
        }
        spoiled.push(whole);
        let runs_on = list.filter(|_| is_line_start(text, span.start) || error.message().starts_with("unclosed array"));
        diagnostics.push(match runs_on {
            Some((key, _)) => Diagnostic::error("this list is not closed")
                .at(*key)
                .help("close it with `]`"),
            None => syntax::explain(&error, text, source, &span, &statements),
        });
    }
    (table, spoiled)
}

/// The place of the key and of the whole entry, of every list.
fn collect_lists(table: &Table, lists: &mut Vec<(SourceSpan, SourceSpan)>) {
    for entry in &table.entries {
        match &entry.node.value {
            Value::Table(inner) => collect_lists(inner, lists),
            Value::List(nodes) => {
                let is_tables = !nodes.is_empty() && nodes.iter().all(|node| matches!(node.value, Value::Table(_)));
                if is_tables {
                    for node in nodes {
                        if let Value::Table(inner) = &node.value {
                            collect_lists(inner, lists);
                        }
                    }
                } else {
                    lists.push((entry.key_place, entry.key_place.to(entry.node.place)));
                }
            }
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
    }
}

fn is_line_start(text: &str, at: usize) -> bool {
    text.get(..at)
        .is_some_and(|before| before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty()))
}

/// One value, as in an environment variable; `offset` is added to every place.
pub(in crate::config) fn parse_value(text: &str, source: usize, offset: usize) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let mut node = convert(value, source);
    shift(&mut node, source, offset);
    Some(node)
}

fn shift(node: &mut Node, source: usize, offset: usize) {
    node.place = node.place.shifted(source, offset);
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|node| shift(node, source, offset)),
        Value::Table(table) => {
            for entry in &mut table.entries {
                entry.key_place = entry.key_place.shifted(source, offset);
                shift(&mut entry.node, source, offset);
            }
        }
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
    }
}

fn convert(value: Spanned<DeValue<'_>>, source: usize) -> Node {
    let place = SourceSpan::new(source, &value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Array(list) => Value::List(list.into_iter().map(|node| convert(node, source)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(table, source)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Node {
        place,
        value,
        raw: None,
    }
}

fn convert_table(table: DeTable<'_>, source: usize) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, node)| Entry {
            key_place: SourceSpan::new(source, &key.span()),
            key: key.into_inner().into_owned(),
            node: convert(node, source),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_place.start());
    Table { entries }
}
