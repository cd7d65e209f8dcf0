//! What is written about keys is written from what their sections say of them: the tables of `docs/configuration.md`,
//! the table of reloads in `docs/operations.md`, and all of `config/relay.toml` below its first lines.
//!
//! `CONFIG_WRITE=1 cargo test --test config` writes them.

use std::fs;
use std::path::Path;

use relay::config::keys;
use relay::config::reader::key::{Applies, DescribedKey};

use crate::machine::Machine;

/// Longest line of a comment.
const WIDTH: usize = 100;

/// Has `file` be what `written` makes of it.
fn holds(file: &str, written: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).expect("it is there");
    let written = written(&text);
    if std::env::var_os("CONFIG_WRITE").is_some() {
        fs::write(&path, &written).expect("it can be written");
        return;
    }
    for (number, (found, expected)) in text.lines().zip(written.lines()).enumerate() {
        assert_eq!(found, expected, "{file}:{}: {HELP}", number + 1);
    }
    assert_eq!(text.len(), written.len(), "{file}: {HELP}");
}

const HELP: &str = "not what src/config/sections say: CONFIG_WRITE=1 cargo test --test config";

/// `document` with its first table behind `heading` whose head is `head`, replaced by one with `rows`.
fn with_table(document: &str, heading: &str, head: &str, rows: &[String]) -> String {
    let section = document.find(heading).unwrap_or_else(|| panic!("no heading {heading}"));
    let found = document[section..].find(head);
    let start = section + found.unwrap_or_else(|| panic!("no table {head} behind {heading}"));
    let end = document[start..].find("\n\n").map_or(document.len(), |end| start + end);
    let columns = head.matches('|').count() - 1;
    let rule = format!("|{}", " --- |".repeat(columns));
    let table = [head.to_owned(), rule].into_iter().chain(rows.iter().cloned());
    let table = table.collect::<Vec<_>>().join("\n");
    format!("{}{table}{}", &document[..start], &document[end..])
}

/// The heading below which a key stands in the reference, and its name there.
fn place(path: &str) -> (String, &str) {
    match path.split_once('.') {
        _ if path.starts_with("listener") => ("\n## `[[listener]]`\n".into(), path),
        None => ("\n## At the top\n".into(), path),
        Some((section, rest)) => (format!("\n## `[{section}]`\n"), rest),
    }
}

#[test]
#[cfg_attr(not(feature = "dtls"), ignore = "the default listeners are others")]
fn the_reference_has_every_key_with_its_type_default_and_meaning() {
    holds("docs/configuration.md", |document| {
        let mut tables: Vec<(String, Vec<String>)> = Vec::new();
        for key in keys() {
            let (heading, name) = place(&key.path);
            let text = key.text.replace("\n\n", " ").replace('|', "\\|");
            let row = format!("| `{name}` | {} | {} | {text} |", key.kind, key.default());
            match tables.iter_mut().find(|(other, _)| *other == heading) {
                Some((_, rows)) => rows.push(row),
                None => tables.push((heading, vec![row])),
            }
        }
        let head = "| key | type | default | meaning; when to change it |";
        assert_eq!(document.matches(head).count(), tables.len(), "tables of sections");
        tables
            .into_iter()
            .fold(document.to_owned(), |document, (heading, rows)| {
                with_table(&document, &heading, head, &rows)
            })
    });
}

#[test]
fn the_handbook_says_of_every_key_when_a_change_takes_effect() {
    let when = [
        (Applies::Live, "at a reload"),
        (
            Applies::WithListeners,
            "at a reload; at a restart where listeners or relay ports wait for one",
        ),
        (
            Applies::Restart,
            "at a restart; until then a reload keeps the value, and the log names the key",
        ),
    ];
    holds("docs/operations.md", |document| {
        let rows = when.map(|(applies, when)| format!("| {} | {when} |", named(applies)));
        with_table(document, "\n### Reload\n", "| keys | a change takes effect |", &rows)
    });
}

/// The keys of this kind: whole sections by their names, a few keys of a section by theirs.
fn named(applies: Applies) -> String {
    let mut sections: Vec<(&str, Vec<&DescribedKey>)> = Vec::new();
    for key in keys() {
        let section = key.path.split_once('.').map_or("", |(section, _)| section);
        let section = if key.path.starts_with("listener") {
            "listener"
        } else {
            section
        };
        match sections.iter_mut().find(|(other, _)| *other == section) {
            Some((_, keys)) => keys.push(key),
            None => sections.push((section, vec![key])),
        }
    }
    let mut names = Vec::new();
    for (section, keys) in sections {
        let these = keys.iter().filter(|key| key.applies == applies);
        let these: Vec<_> = these.map(|key| format!("`{}`", key.path)).collect();
        match these.len() {
            0 => {}
            all if all == keys.len() && section == "listener" => names.push("`[[listener]]`".to_owned()),
            all if all == keys.len() && !section.is_empty() => names.push(format!("`[{section}]`")),
            most if 2 * most > keys.len() && !section.is_empty() => {
                names.push(format!("the other keys of `[{section}]`"));
            }
            _ => names.extend(these),
        }
    }
    names.join(", ")
}

#[test]
#[cfg_attr(not(feature = "dtls"), ignore = "the default listeners are others")]
fn the_example_has_every_key_with_what_it_is_and_its_default() {
    holds("config/relay.toml", |text| {
        let (preamble, _) = text.split_once("\n\n").expect("lines about the file");
        let mut example = Example {
            text: format!("{preamble}\n"),
            section: String::new(),
            off: false,
        };
        let all = keys();
        for (index, key) in all.iter().enumerate() {
            let is_list = all
                .get(index + 1)
                .is_some_and(|next| next.path.starts_with(&format!("{}.", key.path)));
            if is_list {
                example.list(key);
            } else {
                example.key(key);
            }
        }
        let more = defaults_of_listeners();
        example.text + "\n" + &more[1..].join("\n")
    });
}

/// The blocks of the default listeners.
fn defaults_of_listeners() -> Vec<String> {
    let effective = Machine::new().good("").effective().to_owned();
    let blocks = effective.split("\n[[listener]]\n").skip(1);
    blocks
        .map(|block| format!("[[listener]]\n{}\n", block.trim_end()))
        .collect()
}

/// The example while it is written.
struct Example {
    text: String,
    section: String,
    /// The block is an example of one that is not there by default.
    off: bool,
}

impl Example {
    /// The first block of a list.
    fn list(&mut self, list: &DescribedKey) {
        self.section.clone_from(&list.path);
        self.off = list.value.is_some();
        self.text.push('\n');
        self.comment(list.summary());
        self.text.push_str(&format!("{}[[{}]]\n", self.mark(), list.path));
    }

    fn key(&mut self, key: &DescribedKey) {
        let (section, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        if section != self.section {
            section.clone_into(&mut self.section);
            self.off = false;
            self.text.push_str(&format!("\n[{section}]\n"));
        } else if section.is_empty() && !self.text.ends_with("\n\n") && name == "realm" {
            self.text.push('\n');
        }
        let restart = if key.applies == Applies::Restart {
            "; restart"
        } else {
            ""
        };
        let kind = key.kind.replace('`', "");
        self.comment(&format!("{} ({kind}{restart})", key.summary()));
        let (mark, value) = match (&key.value, key.example) {
            _ if section == "listener" => ("", first_listener(name)),
            (Some(value), _) => (self.mark(), value.clone()),
            (None, Some(example)) => ("#", example.to_owned()),
            (None, None) => panic!("{} has neither a default nor an example", key.path),
        };
        self.text.push_str(&format!("{mark}{name} = {value}\n"));
    }

    const fn mark(&self) -> &'static str {
        if self.off { "#" } else { "" }
    }

    /// A comment, without the links of its Markdown.
    fn comment(&mut self, text: &str) {
        let mut words = text.to_owned();
        while let Some((head, behind)) = words.split_once("](") {
            let (before, inside) = head.rsplit_once('[').expect("a link");
            let (_, behind) = behind.split_once(')').expect("a link");
            words = format!("{before}{inside}{behind}");
        }
        let mut line = "#".to_owned();
        for word in words_of(&words) {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.text.push_str(&line);
                self.text.push('\n');
                line = "#".to_owned();
            }
            line.push(' ');
            line.push_str(&word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

/// The words of a text; what stands in backticks is one.
fn words_of(text: &str) -> Vec<String> {
    let parts = text.split('`').enumerate();
    let joined = parts.map(|(index, part)| {
        if index % 2 == 1 {
            part.replace(' ', "\0")
        } else {
            part.to_owned()
        }
    });
    let joined = joined.collect::<Vec<_>>().join("`");
    joined.split(' ').map(|word| word.replace('\0', " ")).collect()
}

/// What a key of the first default listener is.
fn first_listener(name: &str) -> String {
    let block = &defaults_of_listeners()[0];
    let line = block.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
    line.expect("every key has a default there").to_owned()
}
