//! `RELAY__SECTION__KEY` in the environment stands above the same key in the file.

use std::ffi::OsString;

use super::super::sections::{self, Known};
use super::diagnostic::{Diagnostic, Diagnostics, SourceSpan};
use super::document::{self, Entry, Node, Table, Value};

/// What every override begins with.
pub(in crate::config) const PREFIX: &str = "RELAY__";

/// Puts every `RELAY__…` variable into `table`. Values are TOML; what is none is a text. An empty value counts as not
/// set.
pub(in crate::config) fn apply(table: &mut Table, variables: &[(OsString, OsString)], diagnostics: &mut Diagnostics) {
    let known = sections::known();
    let mut overrides: Vec<(&str, &OsString)> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value)))
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .collect();
    // `…__USERS__2` before `…__USERS__10`, and a whole list before its elements.
    overrides.sort_by_key(|(name, _)| (name.split("__").map(segment_order).collect::<Vec<_>>(), *name));
    for (name, value) in overrides {
        let Some(value) = value.to_str() else {
            diagnostics.push(Diagnostic::error(format!(
                "the value of the environment variable {name} is not UTF-8"
            )));
            continue;
        };
        let value = value.trim();
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        let named: Vec<_> = path
            .iter()
            .filter(|part| !is_number(part))
            .map(String::as_str)
            .collect();
        let source = diagnostics.add_value(format!("environment variable {name}"), value, named.join("."));
        let place = SourceSpan::new(source, &(0..value.len()));
        let mut node = document::parse_value(value, source, 0).unwrap_or_else(|| Node {
            place,
            value: Value::Text(value.to_owned()),
            raw: None,
        });
        node.raw = Some(value.to_owned());
        let wrong = wrong_number(&path, known);
        if let Err(problem) = wrong.map_or_else(|| insert(table, &path, node, place), Err) {
            diagnostics.push(
                Diagnostic::error(format!("{name}: {}", problem.message))
                    .at(place)
                    .help(problem.help),
            );
        }
    }
}

/// Numbers by value, names by letters.
fn segment_order(segment: &str) -> (usize, String) {
    match segment.parse::<usize>() {
        Ok(number) => (number, String::new()),
        Err(_) => (0, segment.to_ascii_lowercase()),
    }
}

/// A part of the name that should be a number, and is none: `RELAY__LISTENER__O__BIND`.
fn wrong_number(path: &[String], known: &Known) -> Option<Problem> {
    for (at, part) in path.iter().enumerate().skip(1) {
        let before = path[..at]
            .iter()
            .filter(|part| !is_number(part))
            .cloned()
            .collect::<Vec<_>>()
            .join(".");
        if is_number(part) || is_number(&path[at - 1]) {
            continue;
        }
        let digit = match part.as_str() {
            "o" => Some("0"),
            "l" | "i" => Some("1"),
            _ => None,
        };
        // What else stands behind a key that is no list of tables is reported where it is put in.
        let is_list = known.lists.contains(&before) || (digit.is_some() && known.has(&before));
        if !is_list {
            continue;
        }
        let is_key = known.has(&format!("{before}.{part}"));
        let number = digit.unwrap_or("0").to_owned();
        let mut right = path.to_vec();
        if is_key {
            right.insert(at, number);
        } else {
            right[at] = number;
        }
        let right = format!("{PREFIX}{}", right.join("__").to_uppercase());
        let message = if is_key {
            format!("`{before}` is a list")
        } else {
            format!("`{}` is not a number, and `{before}` is a list", part.to_uppercase())
        };
        let letter = if digit.is_some() && !is_key {
            ", with the digit instead of the letter"
        } else {
            ""
        };
        return Some(problem(message, format!("number its elements from 0: {right}{letter}")));
    }
    None
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

struct Problem {
    message: String,
    help: String,
}

fn problem(message: impl Into<String>, help: impl Into<String>) -> Problem {
    Problem {
        message: message.into(),
        help: help.into(),
    }
}

fn insert(table: &mut Table, path: &[String], node: Node, place: SourceSpan) -> Result<(), Problem> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(());
    };
    if key.is_empty() {
        return Err(problem(
            "the name has an empty part",
            "write RELAY__SECTION__KEY, with two underscores in between",
        ));
    }
    if rest.is_empty() {
        table.set(Entry {
            key: key.clone(),
            key_place: place,
            node,
        });
        return Ok(());
    }
    let is_index = is_number(&rest[0]);
    if table.find_mut(key).is_none() {
        let value = if is_index {
            Value::List(Vec::new())
        } else {
            Value::Table(Table { entries: Vec::new() })
        };
        table.set(Entry {
            key: key.clone(),
            key_place: place,
            node: Node {
                place,
                value,
                raw: None,
            },
        });
    }
    let Some(entry) = table.find_mut(key) else {
        return Ok(());
    };
    match &mut entry.node.value {
        Value::Table(inner) => insert(inner, rest, node, place),
        Value::List(list) if is_index => insert_element(key, list, rest, node, place),
        Value::List(_) => {
            let element = format!("…{}__0__{}", key, rest.join("__")).to_uppercase();
            Err(problem(
                format!("`{key}` is a list"),
                format!("number its elements from 0: {element}"),
            ))
        }
        other => Err(problem(
            format!("`{key}` is {}, not a section", other.kind()),
            "set it whole",
        )),
    }
}

fn insert_element(
    key: &str,
    list: &mut Vec<Node>,
    path: &[String],
    node: Node,
    place: SourceSpan,
) -> Result<(), Problem> {
    let index = path[0].parse::<usize>().unwrap_or(usize::MAX);
    let count = list.len();
    if index > count {
        return Err(problem(
            format!("the elements of `{key}` must be numbered without a gap"),
            format!("the next one is number {count}; the first is 0"),
        ));
    }
    let rest = &path[1..];
    if rest.is_empty() {
        if index == count {
            list.push(node);
        } else {
            list[index] = node;
        }
        return Ok(());
    }
    if index == count {
        list.push(Node {
            place,
            value: Value::Table(Table { entries: Vec::new() }),
            raw: None,
        });
    }
    match &mut list[index].value {
        Value::Table(inner) => insert(inner, rest, node, place),
        other => Err(problem(
            format!("`{key}.{index}` is {}, not a table", other.kind()),
            "set it whole",
        )),
    }
}
