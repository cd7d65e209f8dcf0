//! A secret written down, or the file that holds it: a pair of keys that several sections have.

use std::path::PathBuf;

use crate::config::reader::diagnostic::{Diagnostic, SourceSpan};
use crate::config::reader::section::{Located, Section};
use crate::config::reader::value::SecretText;

/// A secret written down, or the file that holds it.
pub(in crate::config) enum SecretOrFile {
    Text(Located<SecretText>),
    File(Located<PathBuf>),
}

pub(super) fn secret_or_file(
    s: &mut Section<'_, '_>,
    key: &'static str,
    file_key: &'static str,
    place: Option<SourceSpan>,
) -> Option<SecretOrFile> {
    if !s.has(key) && !s.has(file_key) {
        let diagnostic = Diagnostic::error(format!("`{}`: `{key}` is missing", s.path())).at(place);
        s.report(diagnostic.help(format!("add a `{key}` or a `{file_key}`")));
    }
    optional_secret_or_file(s, key, file_key)
}

pub(super) fn optional_secret_or_file(
    s: &mut Section<'_, '_>,
    key: &'static str,
    file_key: &'static str,
) -> Option<SecretOrFile> {
    let text = s.optional::<SecretText>(key);
    let file = s.optional::<PathBuf>(file_key);
    if let (Some(text), Some(file)) = (&text, &file) {
        let diagnostic = Diagnostic::error(format!("there is both a `{key}` and a `{file_key}`")).at(file.place);
        s.report(
            diagnostic
                .also(text.place, "here is the other")
                .help("keep one of them"),
        );
    }
    text.map(SecretOrFile::Text).or_else(|| file.map(SecretOrFile::File))
}
