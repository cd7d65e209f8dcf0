//! Writes one event as one line, text or JSON. A value never adds a field or a line and never
//! controls a terminal; a value that is too long is cut.

use core::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Longest value in bytes.
pub(super) const MAX_VALUE: usize = 2 * 1024;
/// Longest line in bytes. The server's own lines are far shorter; a longer one is replaced by a
/// notice.
pub(super) const MAX_LINE: usize = 8 * 1024;

/// The format of lines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lines {
    Text,
    Json,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let told = Told::of(event);
        let mut line = String::with_capacity(256);
        self.write(&mut line, &told)?;
        if line.len() > MAX_LINE {
            let withheld = Told::withheld(line.len());
            line.clear();
            self.write(&mut line, &withheld)?;
        }
        line.push('\n');
        out.write_str(&line)
    }
}

impl Lines {
    fn write(self, line: &mut String, told: &Told<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        match self {
            Self::Text => text(line, &time, told),
            Self::Json => json(line, &time, told),
        }
    }
}

/// The contents of an event.
pub(super) struct Told<'a> {
    level: Level,
    pub(super) target: String,
    pub(super) message: Option<String>,
    fields: Vec<(&'a str, Value)>,
}

enum Value {
    /// Text, as it is.
    Text(String),
    /// A value with a text form: an address, an error, a client's user name.
    Shown(String),
    /// A number or a boolean.
    Bare(String),
}

impl<'a> Told<'a> {
    pub(super) fn of(event: &Event<'a>) -> Self {
        let metadata = event.metadata();
        let mut told = Self {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            message: None,
            fields: Vec::new(),
        };
        event.record(&mut told);
        told
    }

    fn withheld(length: usize) -> Self {
        Self {
            level: Level::WARN,
            target: "relay::log".to_owned(),
            message: Some("a log line was withheld".to_owned()),
            fields: vec![("length", Value::Bare(length.to_string()))],
        }
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Shown(text)) => self.message = Some(text),
            // Lines of libraries that use the crate `log` carry their target as a field.
            ("log.target", Value::Text(target)) => self.target = target,
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Told<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut cut = Cut::default();
        // It fails only if the value's own code fails.
        let _ = write!(cut, "{value:?}");
        self.push(field, Value::Shown(cut.finish()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut cut = Cut::default();
        let _ = cut.write_str(value);
        self.push(field, Value::Text(cut.finish()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let value = if value.is_finite() {
            Value::Bare(format!("{value:?}"))
        } else {
            Value::Text(value.to_string())
        };
        self.push(field, value);
    }
}

/// Takes the permitted length of a value, and drops the rest.
#[derive(Default)]
struct Cut {
    text: String,
    is_cut: bool,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.is_cut {
            return Ok(());
        }
        let room = MAX_VALUE - self.text.len();
        let fits = part.floor_char_boundary(room);
        self.text.push_str(&part[..fits]);
        self.is_cut = fits < part.len();
        Ok(())
    }
}

impl Cut {
    fn finish(mut self) -> String {
        if self.is_cut {
            self.text.push('…');
        }
        self.text
    }
}

/// `TIME LEVEL target: message name=value …`. A message contains no `=`, or is quoted, so it ends
/// at the first name. A value ends at its closing quote, or at a space.
fn text(line: &mut String, time: &str, told: &Told<'_>) -> fmt::Result {
    write!(line, "{time} {:>5} {}:", told.level, told.target)?;
    if let Some(message) = &told.message {
        line.push(' ');
        let is_plain = !message.contains('=') && !message.starts_with('"') && !message.contains(is_unprintable);
        if is_plain {
            line.push_str(message);
        } else {
            quoted(line, message);
        }
    }
    for (name, value) in &told.fields {
        write!(line, " {name}=")?;
        match value {
            Value::Bare(value) => line.push_str(value),
            Value::Shown(value) if is_word(value) => line.push_str(value),
            Value::Shown(value) | Value::Text(value) => quoted(line, value),
        }
    }
    Ok(())
}

/// Whether a value needs no quotes.
fn is_word(value: &str) -> bool {
    let disturbs = |c: char| c.is_whitespace() || "=\"'\\".contains(c) || is_unprintable(c);
    !value.is_empty() && !value.contains(disturbs)
}

fn quoted(line: &mut String, value: &str) {
    line.push('"');
    for c in value.chars() {
        match c {
            '\'' => line.push(c),
            c => line.extend(c.escape_debug()),
        }
    }
    line.push('"');
}

/// An object with all fields on its top level.
fn json(line: &mut String, time: &str, told: &Told<'_>) -> fmt::Result {
    write!(line, r#"{{"timestamp":"{time}","level":"{}""#, told.level)?;
    if let Some(message) = &told.message {
        line.push_str(r#","message":"#);
        json_text(line, message)?;
    }
    for (name, value) in &told.fields {
        line.push(',');
        json_text(line, name)?;
        line.push(':');
        match value {
            Value::Bare(value) => line.push_str(value),
            Value::Shown(value) | Value::Text(value) => json_text(line, value)?,
        }
    }
    line.push_str(r#","target":"#);
    json_text(line, &told.target)?;
    line.push('}');
    Ok(())
}

fn json_text(line: &mut String, value: &str) -> fmt::Result {
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if is_unprintable(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(line, "\\u{unit:04x}")?;
                }
            }
            c => line.push(c),
        }
    }
    line.push('"');
    Ok(())
}

/// Characters that control a terminal, are invisible, or make one line look like another.
fn is_unprintable(c: char) -> bool {
    !matches!(c, '"' | '\'' | '\\') && c.escape_debug().len() > 1
}

/// The subset of these that a line must never contain unescaped.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}
