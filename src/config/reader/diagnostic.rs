//! Mistakes in the configuration: where they stand, what is wrong, what to write instead. All are collected, then
//! shown together.

use core::fmt;
use core::ops::Range;
use core::time::Duration;
use std::io;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use anstream::{AutoStream, ColorChoice};

/// So many mistakes are told: nobody reads more, and each is shown with the text around it.
pub(in crate::config) const MAX_TOLD: usize = 100;

/// A stretch of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct SourceSpan {
    source: usize,
    start: usize,
    end: usize,
}

impl SourceSpan {
    /// The bytes `span` of source `source`.
    pub(in crate::config) const fn new(source: usize, span: &Range<usize>) -> Self {
        Self {
            source,
            start: span.start,
            end: span.end,
        }
    }

    /// From the start of `self` to the end of `other`, if both stand in one source.
    pub(in crate::config) const fn to(self, other: Self) -> Self {
        if self.source == other.source && self.start <= other.end {
            Self { end: other.end, ..self }
        } else {
            self
        }
    }

    /// Which source it is of.
    pub(in crate::config) const fn source(self) -> usize {
        self.source
    }

    /// First byte.
    pub(in crate::config) const fn start(self) -> usize {
        self.start
    }

    /// Whether the two have a byte in common, or touch.
    pub(in crate::config) const fn overlaps(self, other: Self) -> bool {
        self.source == other.source && self.start <= other.end && other.start <= self.end
    }

    /// The same stretch of another text, `offset` bytes on.
    pub(in crate::config) const fn shifted(self, source: usize, offset: usize) -> Self {
        Self {
            source,
            start: self.start + offset,
            end: self.end + offset,
        }
    }
}

/// A text that was read: the file, `RELAY_CONFIG`, or one environment variable with its value.
#[derive(Clone)]
struct Source {
    name: String,
    text: String,
    /// The key whose value the text is; `None`: it is a whole configuration.
    key: Option<String>,
    /// The text as it may be shown.
    shown: String,
}

/// A text as it may be shown: of the same length, so that every place in it is where it was.
pub(in crate::config) struct Masked {
    pub(in crate::config) text: String,
    /// What was masked, as it could turn up in a message.
    pub(in crate::config) words: Vec<String>,
}

/// Masks a whole configuration, or the value of the one key that is named.
type Mask = fn(&str, Option<&str>) -> Masked;

/// Whether the server may start all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It may not.
    Error,
    /// It may, but the operator should know.
    Warning,
}

/// One mistake.
pub(in crate::config) struct Diagnostic {
    severity: Severity,
    message: String,
    place: Option<SourceSpan>,
    also: Vec<(SourceSpan, String)>,
    help: Option<String>,
    /// It is this machine or its network that does not fit, and either may change by itself.
    here: bool,
}

impl Diagnostic {
    /// The server must not start with this.
    pub(in crate::config) fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            also: Vec::new(),
            help: None,
            here: false,
        }
    }

    /// Legal, but unwise.
    pub(in crate::config) fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// It is this machine or its network that does not fit.
    pub(in crate::config) fn here(self) -> Self {
        Self { here: true, ..self }
    }

    /// Where it stands; `None` leaves it as it is.
    pub(in crate::config) fn at(mut self, place: impl Into<Option<SourceSpan>>) -> Self {
        self.place = place.into().or(self.place);
        self
    }

    /// A second place that belongs to it.
    pub(in crate::config) fn also(mut self, place: impl Into<Option<SourceSpan>>, label: impl Into<String>) -> Self {
        self.also.extend(place.into().map(|place| (place, label.into())));
        self
    }

    /// What to do.
    pub(in crate::config) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What to do, where that is known.
    pub(in crate::config) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// Everything that was found, with the texts it was found in. [`fmt::Display`] shows all of it, with source lines.
#[derive(Default)]
pub struct Diagnostics {
    sources: Vec<Source>,
    list: Vec<Diagnostic>,
    /// `start_timeout`.
    pub(in crate::config) start_timeout: Duration,
}

/// One mistake as a reader meets it; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// Whether the server may start all the same.
    pub severity: Severity,
    /// What is wrong.
    pub message: &'a str,
    /// What to do.
    pub help: Option<&'a str>,
    /// The file, `RELAY_CONFIG` or the environment variable; `None` where it stands nowhere.
    pub source: Option<&'a str>,
    /// Line in `source`, 0 without one.
    pub line: usize,
    /// Column in that line, 0 without a source.
    pub column: usize,
}

impl fmt::Display for Finding<'_> {
    /// One line, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = self.source {
            write!(f, "{source}:{}:{}: ", self.line, self.column)?;
        }
        f.write_str(self.message)?;
        self.help.map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

impl Diagnostics {
    /// Registers a text; its number goes into every [`SourceSpan`] in it.
    pub(in crate::config) fn add_source(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.add(name.into(), text.into(), None)
    }

    /// The same for the value of one key.
    pub(in crate::config) fn add_value(
        &mut self,
        name: impl Into<String>,
        text: impl Into<String>,
        key: String,
    ) -> usize {
        self.add(name.into(), text.into(), Some(key))
    }

    fn add(&mut self, name: String, text: String, key: Option<String>) -> usize {
        let shown = String::new();
        self.sources.push(Source { name, text, key, shown });
        self.sources.len() - 1
    }

    pub(in crate::config) fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Keeps the first `kept`, and of the others those that stand outside `spoiled`: where the syntax is broken, a
    /// complaint about the meaning of what was made of it would only mislead.
    pub(in crate::config) fn retain_outside(&mut self, kept: usize, spoiled: &[SourceSpan]) {
        let mut index = 0;
        self.list.retain(|diagnostic| {
            index += 1;
            index <= kept
                || !diagnostic
                    .place
                    .is_some_and(|place| spoiled.iter().any(|s| s.overlaps(place)))
        });
    }

    /// Makes warnings of the errors behind the first `kept`, and says whether there was any.
    pub(in crate::config) fn soften(&mut self, kept: usize) -> bool {
        let mut errors = self
            .list
            .iter_mut()
            .skip(kept)
            .filter(|d| d.severity == Severity::Error)
            .peekable();
        let any = errors.peek().is_some();
        errors.for_each(|d| d.severity = Severity::Warning);
        any
    }

    /// How many there are so far.
    pub(in crate::config) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether `place` stands in the file `path`.
    pub(in crate::config) fn is_in(&self, place: SourceSpan, path: &Path) -> bool {
        self.sources
            .get(place.source)
            .is_some_and(|source| source.name == path.display().to_string())
    }

    /// Forgets all but the first `kept`.
    pub(in crate::config) fn truncate(&mut self, kept: usize) {
        self.list.truncate(kept);
    }

    /// The lines that `place` touches, whole.
    pub(in crate::config) fn lines_of(&self, place: SourceSpan) -> SourceSpan {
        let text = self
            .sources
            .get(place.source)
            .map_or("", |source| source.text.as_str())
            .as_bytes();
        let (start, end) = (place.start.min(text.len()), place.end.min(text.len()));
        let from = text[..start].iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let to = text[end..]
            .iter()
            .position(|&b| b == b'\n')
            .map_or(text.len(), |i| end + i);
        SourceSpan {
            start: from,
            end: to,
            ..place
        }
    }

    /// Makes it what people may read: errors first, each kind in the order of the sources, and what stands nowhere last;
    /// not more than anybody reads; and nothing in it that could be a secret.
    pub(in crate::config) fn finish(&mut self, mask: Mask) {
        self.list
            .sort_by_key(|d| (d.severity, d.place.map_or((usize::MAX, 0), |p| (p.source, p.start))));
        let more = self.list.len().saturating_sub(MAX_TOLD);
        if more > 0 {
            self.list.truncate(MAX_TOLD);
            let severity = self.list.last().map_or(Severity::Error, |last| last.severity);
            let last = Diagnostic::error(format!("and {more} more: mend these first"));
            self.push(Diagnostic { severity, ..last });
        }
        if !self.list.is_empty() {
            self.mask(mask);
        }
    }

    /// Whatever a message is made of, it may hold what a source does not show.
    fn mask(&mut self, mask: Mask) {
        let mut words = Vec::new();
        for source in &mut self.sources {
            let masked = mask(&source.text, source.key.as_deref());
            source.shown = masked.text;
            words.extend(masked.words);
        }
        let finder = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(&words);
        // It fails for more words than any configuration can have: then nothing is said but where.
        let mask = |text: &str| match &finder {
            Ok(finder) => finder.replace_all(text, &vec!["…"; words.len()]),
            Err(_) => "…".to_owned(),
        };
        for diagnostic in &mut self.list {
            diagnostic.message = mask(&diagnostic.message);
            diagnostic.help = diagnostic.help.as_deref().map(mask);
        }
    }

    /// The name of the source that `place` is of.
    pub(in crate::config) fn name_of(&self, place: SourceSpan) -> &str {
        self.sources.get(place.source).map_or("", |source| source.name.as_str())
    }

    /// None yet, about the same sources.
    pub(in crate::config) fn about_the_same(&self) -> Self {
        Self {
            sources: self.sources.clone(),
            ..Self::default()
        }
    }

    /// Forgets where each stands, with what is said besides.
    pub(in crate::config) fn forget_places(&mut self) {
        for diagnostic in &mut self.list {
            diagnostic.place = None;
            diagnostic.also.clear();
        }
    }

    /// Whether the server must not start.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether nothing is wrong with the configuration itself: what is missing may be there a minute later.
    pub fn may_pass(&self) -> bool {
        self.has_errors() && self.list.iter().all(|d| d.here || d.severity == Severity::Warning)
    }

    /// How many say that this machine or its network does not fit.
    pub fn here(&self) -> usize {
        self.list.iter().filter(|d| d.here).count()
    }

    /// How long to wait for it.
    pub const fn start_timeout(&self) -> Duration {
        self.start_timeout
    }

    /// Number of errors and of warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self.list.iter().filter(|d| d.severity == Severity::Error).count();
        (errors, self.list.len() - errors)
    }

    /// Each mistake.
    pub fn iter(&self) -> impl Iterator<Item = Finding<'_>> {
        self.list.iter().map(|d| {
            let at = d.place.and_then(|place| Some((self.sources.get(place.source)?, place)));
            let (line, column) = at.map_or((0, 0), |(source, place)| position(&source.text, place.start));
            Finding {
                severity: d.severity,
                message: &d.message,
                help: d.help.as_deref(),
                source: at.map(|(source, _)| source.name.as_str()),
                line,
                column,
            }
        })
    }

    /// All of it for standard error: in colour on a terminal, unless `NO_COLOR`, `TERM=dumb` or `CLICOLOR_FORCE` say
    /// otherwise.
    pub fn for_stderr(&self) -> String {
        self.render(AutoStream::choice(&io::stderr()) != ColorChoice::Never)
    }

    /// All of it for a terminal (`color`) or a file: place, source line, what is wrong, what to do. Secrets are masked.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.list {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
        }
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
        if let Some(place) = diagnostic.place {
            let mut places = vec![(place, None)];
            places.extend(
                diagnostic
                    .also
                    .iter()
                    .map(|(place, label)| (*place, Some(label.as_str()))),
            );
            for (index, source) in self.sources.iter().enumerate() {
                let mut here = places.iter().filter(|(place, _)| place.source == index).peekable();
                if here.peek().is_none() {
                    continue;
                }
                let (text, begin, line) = source.around(here.clone().map(|(place, _)| *place));
                let snippet = Snippet::source(text).path(source.name.as_str()).line_start(line);
                group = group.element(here.fold(snippet, |snippet, (place, label)| {
                    let span = on_boundaries(text, place.start.saturating_sub(begin), place.end.saturating_sub(begin));
                    snippet.annotation(match label {
                        None => AnnotationKind::Primary.span(span),
                        Some(label) => AnnotationKind::Context.span(span).label(*label),
                    })
                }));
            }
        }
        match diagnostic.help.as_deref() {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Diagnostics {
    /// The same: a failed `expect` should tell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Source {
    /// The lines that hold all of `places`, where they begin, and the number of the first: who renders them looks at every
    /// line there is.
    fn around(&self, places: impl Iterator<Item = SourceSpan> + Clone) -> (&str, usize, usize) {
        let text = self.shown.as_str();
        let first = floor(text, places.clone().map(|place| place.start).min().unwrap_or(0));
        let last = floor(text, places.map(|place| place.end).max().unwrap_or(0)).max(first);
        let begin = text[..first].rfind('\n').map_or(0, |at| at + 1);
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at);
        let line = text.as_bytes()[..begin].iter().filter(|&&byte| byte == b'\n').count() + 1;
        (&text[begin..end], begin, line)
    }
}

/// Line and column of byte `at`, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor(text, at)];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// The same span, within the text and on character boundaries.
fn on_boundaries(text: &str, start: usize, end: usize) -> Range<usize> {
    let start = floor(text, start);
    start..floor(text, end).max(start)
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
