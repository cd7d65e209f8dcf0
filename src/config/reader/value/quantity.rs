//! Durations and sizes.

use core::time::Duration;

use super::super::document::{Node, Value};
use super::{Mistake, Setting, expected, foreign, has_too_many_digits, quoted, too_large};

impl Setting for Duration {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        match &node.value {
            Value::Integer(Some(number)) if *number >= 0 => match u64::try_from(*number) {
                Ok(seconds) => Ok(Self::from_secs(seconds)),
                Err(_) => too_large(node),
            },
            Value::Integer(None) => too_large(node),
            Value::Text(text) => match parse_duration(text) {
                Some(duration) => Ok(duration),
                None if has_too_many_digits(text) => too_large(node),
                None => instead(
                    expected(
                        node,
                        "a duration",
                        "\"150ms\", \"10s\", \"5m\", \"1h30m\", \"7d\", or seconds as a whole number",
                    ),
                    foreign::duration(text),
                ),
            },
            _ => expected(
                node,
                "a duration",
                "\"10s\", \"5m\", \"1h\", or seconds as a whole number",
            ),
        }
    }

    fn words() -> String {
        "duration".into()
    }

    fn show(&self) -> String {
        quoted(&show_duration(*self))
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `1h30m`, `150ms`: whole numbers, each with its unit, no unit twice, the larger first.
pub(in crate::config) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut allowed = &DURATION_UNITS[..];
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let unit = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let index = allowed.iter().position(|(name, _)| *name == &rest[..unit])?;
        total = total.checked_add(number.checked_mul(allowed[index].1)?)?;
        allowed = &allowed[index + 1..];
        rest = rest[unit..].trim_start();
    }
    Some(Duration::from_millis(total))
}

/// The shortest way to write it.
pub(in crate::config) fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (name, size) in DURATION_UNITS {
        // One day is 24h to most people; only longer stretches are counted in days.
        if rest >= size && !(name == "d" && rest < 2 * size) {
            out.push_str(&format!("{}{name}", rest / size));
            rest %= size;
        }
    }
    out
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) struct Bytes(pub(in crate::config) usize);

const BYTE_UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Setting for Bytes {
    fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        let bytes = match &node.value {
            Value::Integer(None) => return too_large(node),
            Value::Integer(Some(number)) if *number > 0 && usize::try_from(*number).is_err() => return too_large(node),
            Value::Text(text) if parse_bytes(text).is_none() && has_too_many_digits(text) => return too_large(node),
            Value::Integer(Some(number)) => usize::try_from(*number).ok(),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        let Some(bytes) = bytes else {
            let help = match &node.value {
                Value::Text(text) => foreign::size(text),
                _ => None,
            };
            return instead(
                expected(node, "a size", "\"256KiB\", \"4MiB\", or bytes as a whole number"),
                help,
            );
        };
        Ok(Self(bytes))
    }

    fn words() -> String {
        "size".into()
    }

    fn show(&self) -> String {
        let unit = BYTE_UNITS[..3]
            .iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        unit.map_or_else(
            || self.0.to_string(),
            |(name, size)| quoted(&format!("{}{name}", self.0 / size)),
        )
    }
}

/// `expected` with another help, if there is one.
fn instead<T>(expected: Result<T, Vec<Mistake>>, help: Option<String>) -> Result<T, Vec<Mistake>> {
    match help {
        Some(help) => expected.map_err(|all| all.into_iter().map(|mistake| mistake.help(&*help)).collect()),
        None => expected,
    }
}

/// Capitals count: one kB is 1000 bytes, one KiB 1024, and `kb` could be either.
fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text[digits..].trim();
    let (_, size) = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?;
    text[..digits].parse::<usize>().ok()?.checked_mul(*size)
}

#[cfg(test)]
mod tests {
    use super::super::read_text;
    use super::*;

    #[test]
    fn durations_have_units_the_larger_first_and_none_twice() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("150ms", Some(150)),
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("1d 2h 3m 4s 5ms", Some(93_784_005)),
            (" 5m ", Some(300_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 lightyears", None),
            ("1m1h", None),
            ("1s1s", None),
            ("-5s", None),
            ("1.5h", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(millis(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for millis in [
            0,
            1,
            999,
            1_000,
            61_000,
            3_600_000,
            5_400_000,
            86_400_000,
            129_600_000,
            172_800_000,
            31_536_000_000,
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(
                parse_duration(&show_duration(duration)),
                Some(duration),
                "{}",
                show_duration(duration)
            );
        }
        for bytes in [1, 1023, 1024, 1025, 65_536, 300_000, 1 << 20, (1 << 20) + 1, 1 << 30] {
            let shown = Bytes(bytes).show();
            let text = shown.trim_matches('"');
            assert!(
                read_text::<Bytes>(text) == Some(Bytes(bytes)) || text.parse() == Ok(bytes),
                "{shown}"
            );
        }
    }
}
