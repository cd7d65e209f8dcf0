//! How hard a secret is to guess. Anybody may ask for a challenge, and one is enough to try guesses offline, as many as
//! the attacker likes, so a shared secret must be random: 32 bytes from the operating system's generator.

/// Bytes a shared secret has at least.
pub(super) const SECRET_BYTES: usize = 32;
/// Bytes an API key has at least: it can only be guessed online, at the rate the API allows.
pub(super) const API_KEY_BYTES: usize = 16;
/// By estimate, below this a secret cannot have been drawn at random.
const LEAST_BITS: u32 = 112;
/// What 32 random bytes come to, less a margin for the estimate.
const GOOD_BITS: u32 = 240;

/// Printed in manuals, examples and this project's own documents and tests. Compared without case and punctuation.
const SAMPLES: [&str; 24] = [
    "north",
    "logen",
    "secret",
    "changeme",
    "password",
    "passw0rd",
    "admin",
    "root",
    "test",
    "test123",
    "user",
    "guest",
    "turn",
    "coturn",
    "relay",
    "webrtc",
    "letmein",
    "qwerty",
    "mysecret",
    "supersecret",
    "longandcryptic",
    "crypt1c",
    "yoursharedsecret",
    "staticauthsecret",
];

/// Words that stand in place of a secret yet to be written.
const PLACEHOLDERS: [&str; 12] = [
    "changeme",
    "changethis",
    "replaceme",
    "replacethis",
    "example",
    "placeholder",
    "yoursecret",
    "secretkey",
    "password",
    "sharedsecret",
    "authsecret",
    "insertsecret",
];

/// A judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    Good,
    /// Allowed; a random one would be better.
    Fair,
    /// Not to be used, and why.
    Weak(String),
}

/// Judges a secret of at least `least` bytes.
pub(super) fn judge(secret: &[u8], least: usize) -> Strength {
    // A beginning of this length says it all.
    let secret = &secret[..secret.len().min(1024)];
    if is_sample(secret) || is_placeholder(secret) {
        return Strength::Weak("it is a sample out of a manual, known to everybody".into());
    }
    if secret.len() < least {
        return Strength::Weak(format!("it has {} bytes, at least {least} are needed", secret.len()));
    }
    let bits = estimated_bits(secret).min(bits_of_words(secret).unwrap_or(u32::MAX));
    match bits {
        bits if bits < LEAST_BITS.min(bits_of(least)) => Strength::Weak("it is not random".into()),
        bits if bits < GOOD_BITS && least >= SECRET_BYTES => Strength::Fair,
        _ => Strength::Good,
    }
}

fn bits_of(bytes: usize) -> u32 {
    u32::try_from(bytes * 3).unwrap_or(u32::MAX)
}

/// Whether everybody tries it first.
pub(super) fn is_sample(secret: &[u8]) -> bool {
    SAMPLES.contains(&plain(secret).as_str())
}

/// Whether it says that a secret is still to be put here.
fn is_placeholder(secret: &[u8]) -> bool {
    let plain = plain(secret);
    PLACEHOLDERS.iter().any(|word| plain.contains(word))
}

/// Without case and punctuation.
fn plain(secret: &[u8]) -> String {
    let text = String::from_utf8_lossy(secret);
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// An upper bound on the entropy: the size of the alphabet in use, times the length that does not repeat itself or run
/// in steps.
fn estimated_bits(secret: &[u8]) -> u32 {
    let has = |test: fn(&u8) -> bool| secret.iter().any(test);
    let alphabet: usize = if has(|&b| b != b' ' && !b.is_ascii_graphic()) {
        256
    } else if secret.iter().all(u8::is_ascii_hexdigit) {
        if has(u8::is_ascii_alphabetic) { 16 } else { 10 }
    } else {
        let lower = if has(u8::is_ascii_lowercase) { 26 } else { 0 };
        let upper = if has(u8::is_ascii_uppercase) { 26 } else { 0 };
        let digits = if has(u8::is_ascii_digit) { 10 } else { 0 };
        let others = if has(|&b| b == b' ' || b.is_ascii_punctuation()) {
            32
        } else {
            0
        };
        lower + upper + digits + others
    };
    let mut seen = [false; 256];
    secret.iter().for_each(|&b| seen[usize::from(b)] = true);
    let distinct = seen.iter().filter(|s| **s).count();
    // Random text shows about half of what it could, or more.
    let symbols = if distinct * 2 >= alphabet.min(secret.len()) {
        alphabet
    } else {
        distinct * 2
    };
    // Powers of two are exact enough here: thousandths of a bit per character.
    let millibits = (symbols.max(1) as f64).log2() * 1000.0;
    u32::try_from(effective_len(secret) * millibits as usize / 1000).unwrap_or(u32::MAX)
}

/// What a phrase is worth: words parted by spaces, punctuation or capitals, each out of a list of two thousand. `None` if
/// it is none. Random text is none: it mixes digits and capitals into its words, or has no words.
fn bits_of_words(secret: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(secret).ok()?;
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in text.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.push(c);
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    let is_word = |word: &String| {
        let all = |test: fn(char) -> bool| word.chars().all(test);
        let capitalised = word.chars().skip(1).all(char::is_lowercase);
        all(char::is_numeric) || all(char::is_uppercase) || (all(char::is_alphabetic) && capitalised)
    };
    let letters: usize = words.iter().map(String::len).sum();
    let is_phrase = words.len() >= 3 && words.iter().all(is_word) && letters * 2 >= words.len() * 7;
    is_phrase.then(|| u32::try_from(words.len() * 11).unwrap_or(u32::MAX))
}

/// The length without repetition (`abcabcabc` counts as `abc`) and without runs (`abcdef`, `aaaa`, `97531`).
fn effective_len(secret: &[u8]) -> usize {
    let period = (1..=secret.len() / 2).find(|&p| secret[p..] == secret[..secret.len() - p]);
    let unit = &secret[..period.unwrap_or(secret.len())];
    let steps: Vec<u8> = unit.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let predictable = steps
        .windows(3)
        .filter(|run| run[0] == run[1] && run[1] == run[2])
        .count();
    unit.len() - predictable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weak(secret: &str) -> bool {
        matches!(judge(secret.as_bytes(), SECRET_BYTES), Strength::Weak(_))
    }

    #[test]
    fn thirty_two_random_bytes_are_good_however_they_are_written() {
        use base64::Engine as _;
        for seed in 0..200_u32 {
            let bytes: [u8; 32] = sha2_of(seed);
            let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            for secret in [&bytes[..], base64.as_bytes(), hex.as_bytes()] {
                assert_eq!(
                    judge(secret, SECRET_BYTES),
                    Strength::Good,
                    "{}",
                    String::from_utf8_lossy(secret)
                );
            }
        }
    }

    #[test]
    fn sixteen_random_bytes_in_hex_are_fair() {
        for seed in 0..200_u32 {
            let hex: String = sha2_of(seed)[..16].iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(judge(hex.as_bytes(), SECRET_BYTES), Strength::Fair, "{hex}");
        }
    }

    #[test]
    fn samples_and_placeholders_are_weak() {
        for secret in [
            "north",
            "secret",
            "changeme",
            "CHANGE_ME",
            "change-me-to-something-long-and-random-please",
            "replace-this-with-a-long-random-string-of-32",
            "this-is-an-example-secret-of-many-characters",
        ] {
            assert!(weak(secret), "{secret}");
        }
    }

    #[test]
    fn long_but_predictable_is_weak() {
        for secret in [
            "a".repeat(64),
            "ab".repeat(40),
            "correcthorse".repeat(4),
            "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz".to_owned(),
            "0123456789abcdef0123456789abcdef".to_owned(),
            "12345678901234567890123456789012345678901234567890".to_owned(),
        ] {
            assert!(weak(&secret), "{secret}");
        }
    }

    #[test]
    fn a_phrase_is_worth_its_words_and_random_text_is_none() {
        for secret in [
            "my very long sentence for the turn server",
            "correct-horse-battery-staple-and-more",
            "CorrectHorseBatteryStapleAndMoreOfIt",
            "Unser TURN-Server steht im Keller, Raum 12",
            "le relais de la cinquième étage, 2026",
        ] {
            assert!(weak(secret), "{secret}");
        }
        // Nine words of a list are more than guessing gets through.
        assert!(!weak("abacus-lagoon-timber-velvet-quarry-ripple-walnut-fennel-gopher"));
        assert!(!weak("6f1d7c52-9be0-4a7e-8d3c-b5a4e2f01c96"), "a random UUID");
        let letters =
            |seed: u32, first: u8, count: u8| -> Vec<u8> { sha2_of(seed).map(|byte| first + byte % count).to_vec() };
        for seed in 0..200 {
            let lower = String::from_utf8(letters(seed, b'a', 26)).unwrap();
            assert!(!weak(&lower), "{lower}");
            let mixed: String = lower
                .chars()
                .zip(sha2_of(!seed))
                .map(|(c, coin)| if coin % 2 == 0 { c.to_ascii_uppercase() } else { c })
                .collect();
            assert!(!weak(&mixed), "{mixed}");
        }
    }

    #[test]
    fn one_byte_short_is_weak() {
        let text: String = sha2_of(1).iter().map(|b| format!("{b:02x}")).collect();
        assert!(weak(&text[..31]));
        assert!(!weak(&text[..32]));
    }

    #[test]
    fn no_input_panics() {
        for len in 0..70 {
            for fill in [0, b'a', 0xff] {
                let _ = judge(&vec![fill; len], SECRET_BYTES);
                let _ = judge(&vec![fill; len], API_KEY_BYTES);
            }
        }
    }

    fn sha2_of(seed: u32) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(seed.to_be_bytes()).into()
    }
}
