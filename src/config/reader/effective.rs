//! The configuration that is in force, as TOML, with secrets hidden.

use core::fmt::Write as _;

/// Filled while reading, in the order of the sections.
#[derive(Default)]
pub(in crate::config) struct Effective {
    lines: Vec<Line>,
}

enum Line {
    Header {
        path: String,
        list: bool,
    },
    Pair {
        section: String,
        key: &'static str,
        value: String,
        note: Option<String>,
    },
    Remark(String),
}

impl Effective {
    /// `[path]` or `[[path]]`.
    pub(in crate::config) fn header(&mut self, path: &str, list: bool) {
        self.lines.push(Line::Header {
            path: path.to_owned(),
            list,
        });
    }

    /// `key = value` in the section named last; `section` is its name, with an index where there are several.
    pub(in crate::config) fn pair(&mut self, section: &str, key: &'static str, value: String) {
        self.lines.push(Line::Pair {
            section: section.to_owned(),
            key,
            value,
            note: None,
        });
    }

    /// What a value such as "auto" came to; shown behind it.
    pub(in crate::config) fn note(&mut self, path: &str, text: impl Into<String>) {
        let text = text.into();
        for line in &mut self.lines {
            if let Line::Pair { section, key, note, .. } = line {
                let here = path
                    .strip_prefix(section.as_str())
                    .map(|rest| rest.strip_prefix('.').unwrap_or(rest));
                if here == Some(*key) {
                    *note = Some(text.replace(|c: char| c.is_control(), " "));
                    return;
                }
            }
        }
    }

    /// The value of the key `path`, or of every key of each table of that list, with its name.
    pub(in crate::config) fn below(&self, path: &str) -> Vec<(String, String)> {
        let pairs = self.lines.iter().filter_map(|line| match line {
            Line::Pair {
                section, key, value, ..
            } => Some((
                if section.is_empty() {
                    (*key).to_owned()
                } else {
                    format!("{section}.{key}")
                },
                value.clone(),
            )),
            Line::Header { .. } | Line::Remark(_) => None,
        });
        let prefix = format!("{path}.");
        pairs
            .filter(|(name, _)| name == path || name.starts_with(&prefix))
            .collect()
    }

    /// A line of its own below `[section]`.
    pub(in crate::config) fn remark(&mut self, section: &str, text: impl Into<String>) {
        let header = |line: &Line| matches!(line, Line::Header { path, .. } if path == section);
        if let Some(index) = self.lines.iter().position(header) {
            self.lines.insert(
                index + 1,
                Line::Remark(text.into().replace(|c: char| c.is_control(), " ")),
            );
        }
    }

    /// All of it.
    pub(in crate::config) fn to_toml(&self) -> String {
        let mut out = String::new();
        for (index, line) in self.lines.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = match line {
                Line::Header { list: false, .. } if self.is_empty_section(index) => continue,
                Line::Header { path, list: false } => writeln!(out, "\n[{path}]"),
                Line::Header { path, list: true } => writeln!(out, "\n[[{path}]]"),
                Line::Remark(text) => writeln!(out, "# {text}"),
                Line::Pair {
                    key, value, note: None, ..
                } => writeln!(out, "{key} = {value}"),
                Line::Pair {
                    key,
                    value,
                    note: Some(note),
                    ..
                } => writeln!(out, "{key} = {value}  # {note}"),
            };
        }
        out
    }

    fn is_empty_section(&self, header: usize) -> bool {
        matches!(self.lines.get(header + 1), None | Some(Line::Header { .. }))
    }
}
