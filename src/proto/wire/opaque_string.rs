//! The OpaqueString profile (RFC 8265 §4.2) for realms and passwords that are not ASCII (RFC 8489
//! §9.2.2, §14.9).
//!
//! Spaces become U+0020, then the text is put into Unicode normalisation form C.
//!
//! Deliberately absent: refusing code points that the profile disallows. That needs the tables of
//! one Unicode version, and would lock out users whose password contains a newer character. Such a
//! string is prepared like any other.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Prepares `text`. ASCII, and text that is already prepared, is returned unchanged.
pub fn prepare(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || (!text.contains(is_wide_space) && is_nfc(text)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| if is_wide_space(c) { ' ' } else { c })
            .nfc()
            .collect(),
    )
}

/// The space separators (Unicode category Zs) outside ASCII.
const fn is_wide_space(c: char) -> bool {
    matches!(
        c,
        '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    //= STUN-AUTH-21
    #[test]
    fn ascii_and_prepared_text_stay_as_they_are() {
        for text in [
            "",
            "pass word",
            "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}",
            "caf\u{E9}",
        ] {
            assert!(matches!(prepare(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    //= STUN-AUTH-21
    #[test]
    fn spaces_are_mapped_and_accents_composed() {
        assert_eq!(prepare("a\u{3000}b\u{A0}c"), "a b c");
        assert_eq!(prepare("cafe\u{301}"), "caf\u{E9}");
        assert_eq!(prepare("\u{212B}"), "\u{C5}", "the Angstrom sign is the letter");
        assert_eq!(
            prepare("\u{2168}"),
            "\u{2168}",
            "compatibility characters stay: this is not SASLprep"
        );
    }
}
