//! Characters that look like others, or like nothing: what word processors and web pages leave in a configuration.

use std::fmt::Write as _;

/// What word processors make of `"` and `'`, and what people take for them.
const QUOTES: &str = "“”„‟‘’‚‛«»‹›〝〞〟＂＇`´′″‵‶「」『』";

/// Whether `c` is a quotation mark that TOML does not know.
pub(super) fn is_typographic_quote(c: char) -> bool {
    QUOTES.contains(c)
}

/// What an invisible character is called, for those that text editors hide. Joiners are left out: words need them in
/// several scripts.
pub(super) const fn invisible(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{a0}' => "a no-break space",
        '\u{ad}' => "a soft hyphen",
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            "a mark of text direction"
        }
        '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => "a space of another width",
        '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' => "a space without width",
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => "a blank letter",
        '\u{2028}' | '\u{2029}' | '\u{85}' => "a line break that TOML does not know",
        '\u{fe00}'..='\u{fe0f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => "a mark without a shape",
        '\u{feff}' => "a byte order mark",
        _ => return None,
    })
}

/// What stands out in `text`: the message, and what to do. `None`: every character is what it looks like.
pub(super) fn odd(text: &str) -> Option<(String, &'static str)> {
    if let Some((c, what)) = text.chars().find_map(|c| Some((c, invisible(c)?))) {
        let message = format!("there is an invisible character, U+{:04X}: {what}", u32::from(c));
        return Some((message, "delete it, and type a plain space where one is meant"));
    }
    let mut quotes: Vec<char> = text.chars().filter(|c| is_typographic_quote(*c)).collect();
    quotes.dedup();
    quotes.truncate(2);
    let verb = if quotes.len() == 2 {
        "are not quotation marks"
    } else {
        "is not a quotation mark"
    };
    if quotes.is_empty() {
        return None;
    }
    let mut named = String::new();
    for quote in quotes {
        let lead = if named.is_empty() { "" } else { " and " };
        // Writing to a String cannot fail.
        let _ = write!(named, "{lead}{quote} (U+{:04X})", u32::from(quote));
    }
    Some((format!("{named} {verb} in TOML"), "write straight quotes: \"…\""))
}

/// `text` without what [`odd`] complains of.
pub(super) fn plain(text: &str) -> String {
    let odd = |c: char| is_typographic_quote(c) || invisible(c).is_some();
    text.chars().filter(|c| !odd(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_invisible_characters_are_named_and_others_are_not() {
        for (text, named) in [
            ("“turn”", "“ (U+201C) and ” (U+201D)"),
            ("‘turn’", "U+2018"),
            ("„turn“", "„ (U+201E)"),
            ("«turn»", "U+00AB"),
            ("`turn`", "U+0060"),
            ("turn\u{a0}", "U+00A0"),
            ("turn\u{200b}", "U+200B"),
            ("\u{feff}turn", "byte order mark"),
            ("tu\u{ad}rn", "soft hyphen"),
            ("tu\u{202e}rn", "text direction"),
            ("turn\u{3000}", "another width"),
            ("turn\u{2060}", "without width"),
            ("turn\u{3164}", "blank letter"),
            ("turn\u{2028}", "line break"),
            ("turn\u{fe0f}", "without a shape"),
        ] {
            let (message, _) = odd(text).unwrap_or_else(|| panic!("{text:?}"));
            assert!(message.contains(named), "{message}");
            assert_eq!(plain(text), "turn");
        }
        for text in ["turn", "\"turn\"", "'turn'", "jörg", "می\u{200c}خواهم", "日本", ""] {
            assert_eq!(odd(text), None, "{text:?}");
        }
    }
}
