//! What of a configuration is in force until a restart, and what of another one waits for it.
//!
//! A reload reads the new file as it is written, and reports what is wrong with it. If keys differ of which a reload
//! takes no new value, it reads the file again with those as they are in force: so everything that follows from them
//! fits them, and no list of settings has to say which of them stay.

use std::collections::HashSet;
use std::path::PathBuf;

use super::reader::diagnostic::{Diagnostics, SourceSpan};
use super::reader::document::{Entry, Node, Table, Value};
use super::reader::effective::Effective;
use super::reader::key::Applies;
use super::reader::value::Secrecy;
use super::sections::{Known, known};

/// A reading as a later one is compared with it. It holds no secret: each key that waits for a restart can be shown.
pub struct InForce {
    /// The file it was read from, to be read again.
    pub(super) path: Option<PathBuf>,
    held: Vec<Held>,
    /// Where values were written.
    sources: Vec<String>,
}

/// A key or a list of tables of which a reload takes no new value.
struct Held {
    root: Root,
    /// As it was written, if it was; its places are sources of [`InForce`] and nothing more.
    entry: Option<Entry>,
    /// What it came to.
    shown: Vec<(String, String)>,
}

/// What waits as a whole.
#[derive(Clone, PartialEq, Eq)]
struct Root {
    path: String,
    is_list: bool,
    /// Values are shown in part only.
    has_paths: bool,
    applies: Applies,
}

impl Root {
    /// As it is called in the log.
    fn name(&self) -> String {
        if self.is_list {
            format!("[[{}]]", self.path)
        } else {
            self.path.clone()
        }
    }
}

impl core::fmt::Debug for InForce {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InForce")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl InForce {
    /// What `table` holds, which was read from `path` and came to `effective`; `d` knows the sources.
    pub(super) fn new(path: Option<PathBuf>, table: &Table, effective: &Effective, d: &Diagnostics) -> Self {
        let mut sources = Vec::new();
        let held = roots(known()).into_iter().map(|root| {
            let mut entry = find(table, &root.path).cloned();
            if let Some(entry) = &mut entry {
                replace(entry, &mut |place| nowhere(index_of(&mut sources, d.name_of(place))));
            }
            Held {
                shown: effective.below(&root.path),
                root,
                entry,
            }
        });
        let held = held.collect();
        Self { path, held, sources }
    }

    /// The names of what `new` has otherwise and takes at a restart only.
    pub(super) fn waiting(&self, new: &Self) -> Vec<String> {
        let differs = self.held.iter().zip(&new.held).filter(|(old, new)| old.differs(new));
        let differs: Vec<&Root> = differs.map(|(old, _)| &old.root).collect();
        let moved = differs.iter().any(|root| PLACES.contains(&root.path.as_str()));
        let waits = |root: &&&Root| root.applies == Applies::Restart || moved;
        differs.iter().filter(waits).map(|root| root.name()).collect()
    }

    /// `table` with what is named in `waiting` as it is here. Its places are sources that `d` gets to know.
    pub(super) fn over(&self, mut table: Table, waiting: &[String], d: &mut Diagnostics) -> Table {
        let sources: Vec<usize> = self.sources.iter().map(|name| d.add_source(name, "")).collect();
        for held in self.held.iter().filter(|held| waiting.contains(&held.root.name())) {
            let mut entry = held.entry.clone();
            if let Some(entry) = &mut entry {
                replace(entry, &mut |place| nowhere(sources[place.source()]));
            }
            put(&mut table, &held.root.path, entry);
        }
        table
    }
}

/// Where a change moves sockets that keys of [`Applies::WithListeners`] must fit.
const PLACES: [&str; 4] = ["listener", "admin.address", "relay.ports", "external.ports"];

impl Held {
    fn differs(&self, new: &Self) -> bool {
        let same = |old: &Option<Entry>, new: &Option<Entry>| match (old, new) {
            (Some(old), Some(new)) => same(&old.node, &new.node),
            (None, None) => true,
            _ => false,
        };
        self.shown != new.shown || (self.root.has_paths && !same(&self.entry, &new.entry))
    }
}

/// All keys that may wait; a list of tables waits as one.
fn roots(known: &Known) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    let mut seen = HashSet::new();
    let may_wait = known.described().iter().filter(|key| key.applies != Applies::Live);
    for key in may_wait {
        let within = |list: &&String| key.path == **list || key.path.starts_with(&format!("{list}."));
        let list = known.lists.iter().find(within);
        let path = list.unwrap_or(&key.path);
        let has_paths = key.secrecy == Secrecy::Path;
        if seen.insert(path.clone()) {
            roots.push(Root {
                path: path.clone(),
                is_list: list.is_some(),
                has_paths,
                applies: key.applies,
            });
        } else if let Some(root) = roots.iter_mut().find(|root| root.path == *path) {
            root.has_paths |= has_paths;
        }
    }
    roots
}

/// The entry at `path`.
fn find<'t>(table: &'t Table, path: &str) -> Option<&'t Entry> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    let entry = table.entries.iter().find(|entry| entry.key == first)?;
    match (rest, &entry.node.value) {
        (None, _) => Some(entry),
        (Some(rest), Value::Table(table)) => find(table, rest),
        _ => None,
    }
}

/// Has `entry` stand at `path`, or nothing.
fn put(table: &mut Table, path: &str, entry: Option<Entry>) {
    let Some((section, rest)) = path.split_once('.') else {
        drop(table.take(path));
        table.entries.extend(entry);
        return;
    };
    if table.find_mut(section).is_none() {
        let Some(entry) = &entry else { return };
        table.set(Entry {
            key: section.to_owned(),
            key_place: entry.key_place,
            node: Node {
                place: entry.node.place,
                value: Value::Table(Table { entries: Vec::new() }),
                raw: None,
            },
        });
    }
    if let Some(Entry {
        node: Node {
            value: Value::Table(inner),
            ..
        },
        ..
    }) = table.find_mut(section)
    {
        put(inner, rest, entry);
    }
}

/// Whether the same is written.
fn same(old: &Node, new: &Node) -> bool {
    match (&old.value, &new.value) {
        (Value::Text(old), Value::Text(new)) => old == new,
        (Value::Integer(old), Value::Integer(new)) => old == new,
        (Value::Boolean(old), Value::Boolean(new)) => old == new,
        (Value::List(old), Value::List(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(old, new))
        }
        (Value::Table(old), Value::Table(new)) => {
            let there = |entry: &Entry| find(new, &entry.key).is_some_and(|other| same(&entry.node, &other.node));
            old.entries.len() == new.entries.len() && old.entries.iter().all(there)
        }
        _ => false,
    }
}

/// Gives everything in `entry` another place.
fn replace(entry: &mut Entry, place: &mut impl FnMut(SourceSpan) -> SourceSpan) {
    entry.key_place = place(entry.key_place);
    replace_node(&mut entry.node, place);
}

fn replace_node(node: &mut Node, place: &mut impl FnMut(SourceSpan) -> SourceSpan) {
    node.place = place(node.place);
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|one| replace_node(one, place)),
        Value::Table(table) => table.entries.iter_mut().for_each(|one| replace(one, place)),
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
    }
}

/// A source without the text that stood there.
const fn nowhere(source: usize) -> SourceSpan {
    SourceSpan::new(source, &(0..0))
}

fn index_of(sources: &mut Vec<String>, name: &str) -> usize {
    let known = sources.iter().position(|source| source == name);
    known.unwrap_or_else(|| {
        sources.push(name.to_owned());
        sources.len() - 1
    })
}
