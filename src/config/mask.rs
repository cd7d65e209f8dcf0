//! What of a configuration may be shown to people. A secret can stand anywhere: behind a misspelt key, without quotes, as
//! the path of a file, in a list that was never closed, in a line nobody can read. So nothing is shown but what is known
//! to be harmless: names of keys and sections, punctuation, and behind a key that is known, and holds no secret, a value
//! that looks like what such keys hold (`harmless`). Comments are not shown.

use core::ops::Range;

use toml::de::DeValue;

use super::reader::diagnostic::Masked;
use super::reader::syntax;
use super::reader::value::Secrecy;
use super::sections::{Known, known};
use super::{characters, harmless};

/// Lists within lists within lists: nobody means that.
const MAX_DEPTH: usize = 8;
/// Longest word that is looked for in messages as a whole, in letters.
const MAX_WORD: usize = 64;

/// A whole configuration, or the value of the one key that is named.
pub(super) fn masked(text: &str, key: Option<&str>) -> Masked {
    match key {
        None => document(text),
        Some(key) => value(text, key),
    }
}

/// A whole configuration.
fn document(text: &str) -> Masked {
    let mut lexer = Lexer::new(text, known());
    while lexer.skip_blank() {
        lexer.statement();
    }
    lexer.masked()
}

/// The value of one key, as in an environment variable: there a text needs no quotes.
fn value(text: &str, path: &str) -> Masked {
    let mut lexer = Lexer::new(text, known());
    if text.starts_with(['"', '\'', '[', '{']) {
        lexer.value(path, End::Line, 0);
    } else {
        lexer.judge(path, 0..text.len());
    }
    lexer.masked()
}

/// What ends a value without quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Line,
    /// Of a list or an inline table.
    Element,
}

/// Walks through a text that may not be TOML. What it takes for something else than it is stays masked.
struct Lexer<'t> {
    text: &'t str,
    known: &'t Known,
    at: usize,
    /// The section it is in.
    section: String,
    shown: Vec<Range<usize>>,
    comments: Vec<Range<usize>>,
}

impl<'t> Lexer<'t> {
    const fn new(text: &'t str, known: &'t Known) -> Self {
        Self {
            text,
            known,
            at: 0,
            section: String::new(),
            shown: Vec::new(),
            comments: Vec::new(),
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// The rest of the line.
    fn line(&self) -> &'t str {
        self.rest().split('\n').next().unwrap_or("")
    }

    fn show(&mut self, len: usize) {
        self.shown.push(self.at..self.at + len);
        self.at += len;
    }

    /// Past space, line breaks and comments. `false`: the text is over.
    fn skip_blank(&mut self) -> bool {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if !self.rest().starts_with('#') {
                return !self.rest().is_empty();
            }
            let len = self.line().len();
            self.comments.push(self.at..self.at + len);
            self.at += len;
        }
    }

    /// A header, or a key with its value.
    fn statement(&mut self) {
        if self.rest().starts_with('[') {
            self.header();
        } else {
            let section = self.section.clone();
            self.pair(&section, End::Line, 0);
        }
        // What stands behind belongs nowhere, and stays masked.
        let rest = self.line();
        let comment = rest.find('#').unwrap_or(rest.len());
        self.at += comment;
    }

    fn header(&mut self) {
        let line = self.line();
        let open = line.len() - line.trim_start_matches('[').len();
        let len = line.find(']').unwrap_or(line.len());
        let keys = keys_of(line.get(open..len).unwrap_or(""));
        self.show(open);
        if keys.iter().all(|key| harmless::key(key)) {
            self.show(len.saturating_sub(open));
        } else {
            self.at += len.saturating_sub(open);
        }
        let close = self.line().len() - self.line().trim_start_matches(']').len();
        self.show(close);
        self.section = keys.join(".");
    }

    /// `key = value` below `prefix`.
    fn pair(&mut self, prefix: &str, end: End, depth: usize) {
        let line = self.line();
        let stop = match end {
            End::Line => line.len(),
            End::Element => line.find([',', '}']).unwrap_or(line.len()),
        };
        let Some(equals) = line[..stop].find('=') else {
            self.at += stop;
            return;
        };
        let keys = keys_of(&line[..equals]);
        if keys.iter().all(|key| harmless::key(key)) {
            self.show(equals + 1);
        } else {
            self.at += equals;
            self.show(1);
        }
        let key = keys.join(".");
        let path = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        self.at += self.line().len() - self.line().trim_start().len();
        self.value(&path, end, depth);
    }

    fn value(&mut self, path: &str, end: End, depth: usize) {
        let rest = self.rest();
        for quotes in ["\"\"\"", "'''"] {
            if let Some(inside) = rest.strip_prefix(quotes) {
                self.show(3);
                self.quoted(path, inside.find(quotes), inside.len(), 3);
                return;
            }
        }
        match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                self.show(1);
                let line = self.line();
                self.quoted(path, closing(line, quote), line.len(), 1);
            }
            Some('[') if depth < MAX_DEPTH => self.elements(path, depth, ']'),
            Some('{') if depth < MAX_DEPTH => self.elements(path, depth, '}'),
            _ => {
                let line = self.line();
                let ends: &[char] = match end {
                    End::Line => &[],
                    End::Element => &[',', ']', '}'],
                };
                // A `#` in the middle of a word begins no comment people mean.
                let mut last = ' ';
                let len = line.char_indices().find_map(|(at, c)| {
                    let is_end = ends.contains(&c) || (c == '#' && last.is_whitespace());
                    last = c;
                    is_end.then_some(at)
                });
                let len = len.unwrap_or(line.len());
                let token = line[..len].trim_end();
                self.judge(path, self.at..self.at + token.len());
                self.at += len;
            }
        }
    }

    /// A text in quotes, the first of which has been shown; `close` is where the others begin.
    fn quoted(&mut self, path: &str, close: Option<usize>, without: usize, quotes: usize) {
        let len = close.unwrap_or(without);
        self.judge(path, self.at..self.at + len);
        self.at += len;
        if close.is_some() {
            self.show(quotes);
        }
    }

    /// A list, or an inline table.
    fn elements(&mut self, path: &str, depth: usize, close: char) {
        self.show(1);
        loop {
            let before = self.at;
            if !self.skip_blank() {
                return;
            }
            // It was never closed, and the next statement begins.
            if self.text[before..self.at].contains('\n') && begins_statement(self.line(), close) {
                self.at = before;
                return;
            }
            match self.rest().chars().next() {
                Some(c) if c == close => {
                    self.show(1);
                    return;
                }
                Some(',') => self.show(1),
                Some(c) => {
                    let from = self.at;
                    if close == '}' {
                        self.pair(path, End::Element, depth + 1);
                    } else {
                        self.value(path, End::Element, depth + 1);
                    }
                    if self.at == from {
                        self.at += c.len_utf8();
                    }
                }
                None => return,
            }
        }
    }

    /// Shows a value if it may be shown.
    fn judge(&mut self, path: &str, range: Range<usize>) {
        let text = self.text.get(range.clone()).unwrap_or("");
        let may = match self.known.kind(path) {
            Some(Secrecy::Plain) => harmless::value(text),
            Some(Secrecy::Path) => harmless::path(text),
            Some(Secrecy::Secret) | None => false,
        };
        if may || syntax::is_word(text) {
            self.shown.push(range);
        }
    }

    fn masked(mut self) -> Masked {
        self.shown.sort_by_key(|range| range.start);
        let mut out = String::with_capacity(self.text.len());
        let mut words = Vec::new();
        let (mut shown, mut comments) = (self.shown.iter().peekable(), self.comments.iter().peekable());
        let mut hidden = String::new();
        for (at, c) in self.text.char_indices() {
            while shown.next_if(|range| range.end <= at).is_some() {}
            while comments.next_if(|range| range.end <= at).is_some() {}
            let is_comment = comments.peek().is_some_and(|range| range.contains(&at));
            let is_shown = shown.peek().is_some_and(|range| range.contains(&at));
            if !is_shown && !is_comment {
                hidden.push(c);
                let mask = if c.is_whitespace() { c } else { '*' };
                out.extend(core::iter::repeat_n(mask, if mask == c { 1 } else { c.len_utf8() }));
                continue;
            }
            self.collect(core::mem::take(&mut hidden), &mut words);
            if is_comment {
                out.extend(core::iter::repeat_n(' ', c.len_utf8()));
            } else {
                out.push(c);
            }
        }
        self.collect(hidden, &mut words);
        // Prose for the most part, but a secret may hold a `#`.
        let comments = self.comments.iter().filter_map(|range| self.text.get(range.clone()));
        let random = |word: &&str| !harmless::word(word);
        words.extend(comments.flat_map(|text| text.split(separates).filter(random).map(str::to_owned)));
        words.sort_unstable();
        words.dedup();
        Masked { text: out, words }
    }

    /// The forms in which something masked could turn up elsewhere: whole, in words, and without its escapes.
    fn collect(&self, hidden: String, words: &mut Vec<String>) {
        let text = hidden.trim();
        if text.is_empty() {
            return;
        }
        let plain = unescaped(text);
        for text in [Some(text), plain.as_deref()].into_iter().flatten() {
            let parts = text.split(separates).chain([text.trim()]);
            for part in parts.filter(|part| self.is_telling(part)) {
                words.extend(chunks(part));
            }
            let pieces = text.split(|c: char| !c.is_alphanumeric());
            let random = |piece: &&str| piece.len() >= 8 && piece.chars().any(|c| !c.is_lowercase());
            words.extend(pieces.filter(random).map(str::to_owned));
        }
    }

    /// Whether a word says anything. The words of the configuration itself are in every message.
    fn is_telling(&self, word: &str) -> bool {
        word.chars().count() >= 4 && !self.known.is_word(word)
    }
}

/// A word as it is looked for: a long one in parts, which stand one behind the other.
fn chunks(word: &str) -> impl Iterator<Item = String> {
    let letters: Vec<char> = word.chars().collect();
    let parts: Vec<String> = letters.chunks(MAX_WORD).map(|part| part.iter().collect()).collect();
    parts.into_iter()
}

/// What stands between words that messages may hold one by one.
fn separates(c: char) -> bool {
    c.is_whitespace()
        || ",;=\"'[]{}#".contains(c)
        || characters::is_typographic_quote(c)
        || characters::invisible(c).is_some()
}

/// The parts of a dotted key, without quotes.
fn keys_of(text: &str) -> Vec<String> {
    let bare = |key: &str| key.trim().trim_matches(['"', '\'']).to_owned();
    text.split('.').map(bare).collect()
}

/// Where the text in quotes ends on this line.
fn closing(line: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    line.char_indices().find_map(|(at, c)| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && quote == '"' && !escaped;
        closes.then_some(at)
    })
}

/// Whether a line in a list or table reads like the statement behind it. In a table every line has a key.
fn begins_statement(line: &str, close: char) -> bool {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
    let is_pair = line.split_once('=').is_some_and(|(key, _)| key.chars().all(bare));
    let header = line.strip_prefix('[').map(|rest| rest.trim_start_matches('['));
    let is_header = header.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()));
    is_header || (is_pair && close == ']')
}

/// What a text in double quotes stands for, where that differs.
fn unescaped(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return None;
    }
    let quoted = format!("\"{}\"", text.replace('\n', "\\n"));
    match DeValue::parse(&quoted).ok()?.into_inner() {
        DeValue::String(text) => Some(text.into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_harmless_is_shown() {
        for (text, shown) in [
            ("realm = \"turn.example.org\"", "realm = \"turn.example.org\""),
            (
                "realm = \"turn.example.org\"  # mine",
                "realm = \"turn.example.org\"        ",
            ),
            ("workers = 4", "workers = 4"),
            ("# hunter2\nworkers = 4", "         \nworkers = 4"),
            // A quote behind a backslash closes nothing.
            ("log.level = \"a\\\"bcd\"", "log.level = \"******\""),
            ("log.level = 'a\\' # mine", "log.level = '**'       "),
            (
                "credentials.secrets = [\"nörth\", \"b\"]",
                "credentials.secrets = [\"******\", \"*\"]",
            ),
            ("[credentials]\nsecrets = abc def", "[credentials]\nsecrets = *** ***"),
            (
                "[credentials]\nsecret_file = \"hunter2\"",
                "[credentials]\nsecret_file = \"*******\"",
            ),
            (
                "[credentials]\nsecret_file = \"/etc/relay/secret\"",
                "[credentials]\nsecret_file = \"/etc/relay/secret\"",
            ),
            ("static-auth-secret=abc#def", "static-auth-secret=*******"),
            ("secret = null", "secret = null"),
            ("5f2c9e1b7a8d4036925814703fb6cade", "********************************"),
            (
                "5f2c9e1b7a8d4036925814703fb6cade = 1",
                "******************************** = 1",
            ),
            (
                "api.keys = [{ name = \"app\", key = \"abc\" }]",
                "api.keys = [{ name = \"app\", key = \"***\" }]",
            ),
            (
                "api.keys = [{ name = \"app\", key = \"abc",
                "api.keys = [{ name = \"app\", key = \"***",
            ),
            (
                "peers.allow = [\"10.0.0.0/8\"\nrealm = \"x\"",
                "peers.allow = [\"10.0.0.0/8\"\nrealm = \"x\"",
            ),
            (
                "realm = \"\"\"\nsome words\n\"\"\"",
                "realm = \"\"\"\n**** *****\n\"\"\"",
            ),
            (
                "realm = \"turn.example.org\" hunter2",
                "realm = \"turn.example.org\" *******",
            ),
            (
                "log.level = \"5f2c9e1b7a8d4036925814703fb6cade\"",
                "log.level = \"********************************\"",
            ),
        ] {
            let masked = document(text).text;
            assert_eq!(masked.len(), text.len());
            assert_eq!(masked, shown, "{text}");
        }
    }

    #[test]
    fn a_value_of_the_environment_is_judged_by_its_key() {
        for (path, text, shown) in [
            ("workers", "4", "4"),
            ("realm", "turn.example.org", "turn.example.org"),
            ("credentials.secrets", "abc def", "*** ***"),
            ("credentials.secrets", "[\"abc\"]", "[\"***\"]"),
            ("credentials.secretz", "abc", "***"),
            ("api.keys.key", "abc", "***"),
        ] {
            assert_eq!(value(text, path).text, shown, "{path}");
        }
    }
}
