//! Text that is not TOML: what the person who wrote it probably meant.

use core::cell::OnceCell;
use core::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::super::characters;
use super::diagnostic::{Diagnostic, SourceSpan};

/// What the parser says of a word that stands where a value should.
const BARE: [&str; 6] = [
    "string values must be quoted",
    "missing opening quote",
    "invalid boolean",
    "invalid float",
    "invalid integer",
    "invalid date",
];

/// How other formats say that there is no value.
const NOTHING: [&str; 6] = ["null", "none", "nil", "~", "undefined", "nan"];

/// One syntax error as an operator should read it.
pub(in crate::config) fn explain(
    error: &Error,
    text: &str,
    source: usize,
    span: &Range<usize>,
    statements: &Statements,
) -> Diagnostic {
    let place = SourceSpan::new(source, span);
    let message = error.message();
    if message.starts_with("duplicate key") {
        return duplicate(text, source, span, statements);
    }
    let line = line_at(text, span.start);
    // A comment may hold what it likes.
    let code = line.split_once(" #").map_or(line, |(code, _)| code);
    let is_bare = BARE.iter().any(|bare| message.starts_with(bare));
    let word = word_at(text, span.start);
    if let Some((what, help)) = characters::odd(code) {
        let plain = characters::plain(word);
        let help = if is_bare && !plain.trim_matches('"').trim().is_empty() && characters::odd(word).is_some() {
            format!(
                "write straight quotes and plain spaces: \"{}\"",
                plain.trim_matches('"').trim()
            )
        } else {
            help.to_owned()
        };
        return Diagnostic::error(what).at(place).help(help);
    }
    if is_bare && let Some((flag, also)) = flag(word) {
        let help = format!("write `{flag}`{also}");
        return Diagnostic::error(format!("`{word}` is not a value in TOML"))
            .at(place)
            .help(help);
    }
    if is_bare && NOTHING.contains(&word.to_ascii_lowercase().as_str()) {
        let diagnostic = Diagnostic::error(format!("`{word}` is not a value in TOML")).at(place);
        return diagnostic.help("to leave a key at its default, remove the line");
    }
    Diagnostic::error(message)
        .at(place)
        .maybe_help(hint(message, is_bare, word))
}

/// Whether `text` is a word for a flag, or for nothing: no secret.
pub(in crate::config) fn is_word(text: &str) -> bool {
    flag(text).is_some() || NOTHING.contains(&text.to_ascii_lowercase().as_str())
}

/// What other formats write for true and false; and what to write where a key takes the word itself.
pub(in crate::config) fn flag(word: &str) -> Option<(&'static str, &'static str)> {
    Some(match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "enable" | "enabled" | "1" => ("true", ""),
        "off" => ("false", ", or `\"off\"` where the key takes that word"),
        "false" | "no" | "n" | "disable" | "disabled" | "0" => ("false", ""),
        _ => return None,
    })
}

fn hint(message: &str, is_bare: bool, word: &str) -> Option<String> {
    Some(match message {
        _ if is_bare => match word {
            "" => "write a value behind the `=`".into(),
            word => format!("a text stands in quotes: \"{}\"", word.trim_matches('"').escape_debug()),
        },
        m if m.starts_with("key with no value") => "write `key = value`".into(),
        m if m.starts_with("unclosed table") => "close the section name with `]`".into(),
        m if m.starts_with("invalid basic string") => "close the text with `\"`; write a backslash as `\\\\`".into(),
        m if m.starts_with("missing comma") => "put a comma in between".into(),
        m if m.starts_with("unexpected leading zero") => "write the number without the leading zero".into(),
        _ => return None,
    })
}

/// A text in another language altogether: which, and where that shows.
pub(in crate::config) fn other_language(text: &str) -> Option<(&'static str, Range<usize>)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let code = line.trim();
        let start = at + (line.len() - line.trim_start().len());
        at += line.len();
        if code.is_empty() || code.starts_with('#') {
            continue;
        }
        let span = start..start + code.len();
        if code.starts_with('{') {
            return Some(("JSON", span));
        }
        let key = code.split_once(':').filter(|(key, rest)| {
            let is_word = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            !key.is_empty() && key.chars().all(is_word) && (rest.is_empty() || rest.starts_with(' '))
        });
        // What decides is the first line with anything on it.
        return (code == "---" || key.is_some()).then_some(("YAML", span));
    }
    None
}

/// Options that only coturn's turnserver.conf has, some of which stand in every one.
const COTURN: [&str; 37] = [
    "allowed-peer-ip",
    "alt-listening-port",
    "cipher-list",
    "cli-password",
    "denied-peer-ip",
    "dh-file",
    "dh2066",
    "external-ip",
    "fingerprint",
    "listening-device",
    "listening-ip",
    "listening-port",
    "lt-cred-mech",
    "max-port",
    "min-port",
    "mobility",
    "no-auth",
    "no-cli",
    "no-dtls",
    "no-multicast-peers",
    "no-rfc5780",
    "no-stdout-log",
    "no-stun",
    "no-stun-backward-compatibility",
    "no-tcp",
    "no-tcp-relay",
    "no-tls",
    "no-tlsv1",
    "no-tlsv1_1",
    "no-udp",
    "no-udp-relay",
    "proc-user",
    "relay-ip",
    "stale-nonce",
    "static-auth-secret",
    "tls-listening-port",
    "use-auth-secret",
];

/// Whether a text that is no TOML is coturn's turnserver.conf from its first line to its last: where its first option of
/// that program's own stands. Only the name: a value may be a secret.
pub(in crate::config) fn coturn(text: &str) -> Option<Range<usize>> {
    let mut first = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let option = line.trim();
        let start = at + (line.len() - line.trim_start().len());
        at += line.len();
        if option.is_empty() || option.starts_with('#') {
            continue;
        }
        let end = option.find(|c: char| c == '=' || c.is_whitespace());
        let (name, value) = option.split_at(end.unwrap_or(option.len()));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
        // In TOML texts stand in quotes and lists in brackets.
        if !name.chars().all(is_name) || value.starts_with(['"', '\'', '[', '{']) {
            return None;
        }
        let name = name.trim_start_matches('-');
        if first.is_none() && COTURN.contains(&name) {
            first = Some(start..start + end.unwrap_or(option.len()));
        }
    }
    first
}

fn line_at(text: &str, at: usize) -> &str {
    let (Some(before), Some(behind)) = (text.get(..at), text.get(at..)) else {
        return "";
    };
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let end = at + behind.find('\n').unwrap_or(behind.len());
    text.get(start..end).unwrap_or("")
}

/// The word around byte `at`, up to white space or what separates values.
fn word_at(text: &str, at: usize) -> &str {
    let ends = |c: char| (c.is_whitespace() && characters::invisible(c).is_none()) || ",=[]{}#".contains(c);
    let (Some(before), Some(behind)) = (text.get(..at), text.get(at..)) else {
        return "";
    };
    let start = before.rfind(ends).map_or(0, |i| i + 1);
    let end = at + behind.find(ends).unwrap_or(behind.len());
    text.get(start..end).unwrap_or("")
}

/// A key or a section that is there already, with both places.
fn duplicate(text: &str, source: usize, span: &Range<usize>, all: &Statements) -> Diagnostic {
    let statements = all.0.get_or_init(|| statements(text));
    let here = statements.iter().find_map(|statement| {
        let depth = statement.keys.iter().position(|(_, place)| place.start == span.start)?;
        Some((statement, depth))
    });
    let place = SourceSpan::new(source, span);
    let Some((statement, depth)) = here else {
        // Within an inline table, where the first is on the same line as often as not.
        let key = text.get(span.clone()).unwrap_or("");
        let diagnostic = Diagnostic::error(format!("`{key}` is set twice"))
            .at(place)
            .help("keep one of them");
        return diagnostic.also(
            first_inline(text, span).map(|first| SourceSpan::new(source, &first)),
            "the first",
        );
    };
    let path = statement.path(depth);
    let first = statements
        .iter()
        .filter(|earlier| earlier.start < statement.start)
        .find_map(|earlier| {
            let depth = (0..earlier.keys.len()).find(|depth| earlier.path(*depth) == path)?;
            Some(SourceSpan::new(source, &earlier.keys[depth].1))
        });
    let name = path
        .iter()
        .filter(|part| !part.starts_with('#'))
        .cloned()
        .collect::<Vec<_>>()
        .join(".");
    let (message, help) = if statement.is_header {
        let brackets = if statement.is_list {
            format!("[[{name}]]")
        } else {
            format!("[{name}]")
        };
        (
            format!("the section `{brackets}` is there twice"),
            format!("put all its keys below one `[{name}]`"),
        )
    } else {
        (format!("`{name}` is set twice"), "keep one of them".to_owned())
    };
    Diagnostic::error(message).at(place).also(first, "the first").help(help)
}

/// What each line of a text sets, once that is wanted.
#[derive(Default)]
pub(in crate::config) struct Statements(OnceCell<Vec<Statement>>);

/// A line that begins with a key, or the head of a section.
struct Statement {
    start: usize,
    is_header: bool,
    is_list: bool,
    /// The section it stands in; elements of lists have their number, as `#0`.
    section: Vec<String>,
    keys: Vec<(String, Range<usize>)>,
}

impl Statement {
    /// From the top to key number `depth`.
    fn path(&self, depth: usize) -> Vec<String> {
        let keys = self.keys[..=depth].iter().map(|(key, _)| key.clone());
        self.section.iter().cloned().chain(keys).collect()
    }
}

/// What each line of `text` sets. Lines within lists and long texts mostly do not read as one; those that do are met too
/// late to matter.
fn statements(text: &str) -> Vec<Statement> {
    let mut all: Vec<Statement> = Vec::new();
    let mut section: Vec<String> = Vec::new();
    let mut lists: Vec<(Vec<String>, usize)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let code = line.trim_start();
        let offset = start + (line.len() - code.len());
        let is_header = code.starts_with('[');
        let is_list = code.starts_with("[[");
        let read = if is_header {
            keys_of(code.trim_end(), offset)
        } else {
            code.split_once('=')
                .and_then(|(key, _)| keys_of(&format!("{key}= 0"), offset))
        };
        let Some(keys) = read.filter(|keys| !keys.is_empty()) else {
            continue;
        };
        if is_header {
            let path: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
            section.clone_from(&path);
            if is_list {
                let count = lists.iter_mut().find(|(list, _)| *list == path);
                let number = match count {
                    Some((_, count)) => {
                        *count += 1;
                        *count
                    }
                    None => {
                        lists.push((path, 0));
                        0
                    }
                };
                section.push(format!("#{number}"));
            } else if let Some((list, number)) = lists.iter().find(|(list, _)| path.starts_with(list)) {
                section.insert(list.len(), format!("#{number}"));
            }
        }
        all.push(Statement {
            start,
            is_header,
            is_list,
            section: if is_header { Vec::new() } else { section.clone() },
            keys,
        });
    }
    all
}

/// The keys along a dotted key, each with its place.
fn keys_of(code: &str, offset: usize) -> Option<Vec<(String, Range<usize>)>> {
    let table = DeTable::parse(code).ok()?;
    let mut keys = Vec::new();
    let mut value = DeValue::Table(table.into_inner());
    loop {
        value = match value {
            DeValue::Table(table) => {
                let Some((key, inner)) = table.into_iter().next() else {
                    break;
                };
                let span = key.span();
                keys.push((key.into_inner().into_owned(), span.start + offset..span.end + offset));
                inner.into_inner()
            }
            DeValue::Array(list) if !list.is_empty() => list.into_iter().next()?.into_inner(),
            _ => break,
        };
    }
    Some(keys)
}

/// The first key of the same name in the inline table around `span`.
fn first_inline(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let key = text.get(span.clone())?;
    let mut depth = 0_usize;
    let open = text.get(..span.start)?.char_indices().rev().find_map(|(at, c)| {
        match c {
            '}' => depth += 1,
            '{' if depth == 0 => return Some(at),
            '{' => depth -= 1,
            _ => {}
        }
        None
    })?;
    let inside = text.get(open + 1..span.start)?;
    let is_key = |at: usize| {
        let before = inside[..at].trim_end();
        let behind = inside[at + key.len()..].trim_start();
        (before.is_empty() || before.ends_with(',')) && (behind.starts_with('=') || behind.starts_with('.'))
    };
    let (at, _) = inside.match_indices(key).find(|(at, _)| is_key(*at))?;
    Some(open + 1 + at..open + 1 + at + key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turnserver_conf_is_recognised_as_a_whole_and_a_single_line_of_it_is_not() {
        for (text, option) in [
            (
                "listening-port=3478\nfingerprint\nlt-cred-mech\nrealm=turn.example.org\n",
                Some("listening-port"),
            ),
            (
                "# of Debian\n\nrealm turn.example.org\n  use-auth-secret\nstatic-auth-secret=x\n",
                Some("use-auth-secret"),
            ),
            (
                "user=alice:secret\r\nno-cli\r\nexternal-ip=203.0.113.5/10.0.0.5\r\n",
                Some("no-cli"),
            ),
            ("verbose\nsyslog\nmin-port=49152\n", Some("min-port")),
            // A text without quotes, or one option among keys of ours.
            ("realm = turn.example.org\n", None),
            ("realm = \"turn.example.org\"\nuse-auth-secret\n", None),
            ("fingerprint\n[turn]\nbinding = true\n", None),
            ("", None),
        ] {
            assert_eq!(coturn(text).map(|span| &text[span]), option, "{text:?}");
        }
    }

    #[test]
    fn text_in_another_language_is_recognised_by_its_first_line() {
        for (text, language) in [
            ("# mine\nrealm: turn.example.org\n", Some("YAML")),
            ("limits:\n  permissions: 5\n", Some("YAML")),
            ("---\nrealm: x\n", Some("YAML")),
            ("{\n  \"realm\": \"x\"\n}\n", Some("JSON")),
            ("realm = \"a: b\"\n", None),
            ("[limits]\n", None),
            ("\"a\": 1\n", None),
            ("", None),
        ] {
            assert_eq!(other_language(text).map(|(language, _)| language), language, "{text:?}");
        }
    }

    #[test]
    fn each_syntax_error_has_its_own_hint() {
        let told = |message: &str| hint(message, false, "word").unwrap_or_default();
        for (message, help) in [
            ("key with no value, expected `=`", "write `key = value`"),
            ("unclosed table, expected `]`", "close the section name with `]`"),
            ("invalid basic string, expected `\"`", "close the text with"),
            ("missing comma between elements", "put a comma in between"),
            ("unexpected leading zero", "write the number without the leading zero"),
        ] {
            assert!(told(message).starts_with(help), "{message}: {}", told(message));
        }
        assert_eq!(hint("something else", false, "word"), None);
        let bare = |word| hint("something else", true, word).unwrap_or_default();
        assert_eq!(bare(""), "write a value behind the `=`");
        assert_eq!(bare("\"word"), "a text stands in quotes: \"word\"");
    }

    #[test]
    fn the_first_of_two_keys_in_one_table_is_found_past_the_tables_within_it() {
        let text = "a = { x = { k = 1 }, k = 2, y = 'k', k = 3 }";
        let second = text.rfind("k = 3").expect("it is there");
        let first = text.find("k = 2").expect("it is there");
        assert_eq!(first_inline(text, &(second..second + 1)), Some(first..first + 1));
        assert_eq!(first_inline("k = 1", &(0..1)), None, "no table around it");
    }
}
