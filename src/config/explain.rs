//! What a key or a section is for, as `relay check --explain` prints it.

use super::reader::key::{Applies, DescribedKey};
use super::reader::suggest::Suggestions;
use super::sections::{Known, known};

/// Columns of a terminal that nobody has widened.
const WIDTH: usize = 80;

/// Explains the key or the section `name`, or lists the keys there are below it. The text ends with a line break.
///
/// # Errors
/// There is none of this name: a line that says so, with what may have been meant.
pub fn explain(name: &str) -> Result<String, String> {
    let name = name.trim().trim_matches(['[', ']', '`']);
    let known = known();
    let mut all = known.described().iter();
    if let Some(key) = all.find(|key| key.path == name) {
        let below = section(name, known);
        return Ok(whole(key, known) + &below.map_or_else(String::new, |below| format!("\n{below}")));
    }
    section(name, known).ok_or_else(|| unknown(name, known))
}

/// One key with everything that is known of it.
fn whole(key: &DescribedKey, known: &Known) -> String {
    let mut out = format!("{}\n", key.path);
    for paragraph in key.text.split("\n\n") {
        out.push('\n');
        out.push_str(&wrapped(&unlinked(paragraph), "  "));
    }
    let applies = match key.applies {
        Applies::Live => "takes effect at a reload",
        Applies::Restart => "needs a restart",
        Applies::WithListeners => "takes effect at a reload, unless listeners or relay ports wait for a restart",
    };
    let lines = [
        ("type", plain(&key.kind)),
        ("default", plain(&key.default())),
        ("change", applies.to_owned()),
        ("variable", variable(key, known)),
    ];
    out.push('\n');
    for (name, text) in lines {
        out.push_str(&format!("  {name:<9} {text}\n"));
    }
    out
}

/// The keys of a section, each with what it is.
fn section(name: &str, known: &Known) -> Option<String> {
    let prefix = format!("{name}.");
    let below = known.described().iter().filter(|key| key.path.starts_with(&prefix));
    let mut out = if known.lists.iter().any(|list| list == name) {
        format!("[[{name}]]\n")
    } else {
        format!("[{name}]\n")
    };
    let empty = out.len();
    for key in below {
        let kind = plain(&format!("{}; {}", key.kind, key.default()));
        out.push_str(&format!("\n{} ({kind})\n", &key.path[prefix.len()..]));
        out.push_str(&wrapped(&unlinked(key.summary()), "  "));
    }
    (out.len() > empty).then_some(out)
}

/// Markdown of values, without its marks.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "")
}

/// The environment variable that overrides it. Elements of lists are counted: here the first.
fn variable(key: &DescribedKey, known: &Known) -> String {
    let mut path = String::new();
    let mut name = String::new();
    for part in key.path.split('.') {
        if known.lists.contains(&path) {
            name.push_str("__0");
        }
        path = if path.is_empty() {
            part.to_owned()
        } else {
            format!("{path}.{part}")
        };
        name.push_str("__");
        name.push_str(&part.to_uppercase());
    }
    format!("RELAY{name}")
}

fn unknown(name: &str, known: &Known) -> String {
    let suggestions = Suggestions {
        keys: known.described(),
        lists: &known.lists,
    };
    let help = suggestions.for_path(name);
    let help = help.map_or_else(String::new, |help| format!("; {help}"));
    format!("there is no key and no section `{name}`{help}")
}

/// `text` without its Markdown links: each as its words, and the page in parentheses.
fn unlinked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, words, target, behind)) = link(rest) {
        let page = if target.starts_with('#') {
            "configuration.md"
        } else {
            ""
        };
        out.push_str(&format!("{before}{words} (docs/{page}{target})"));
        rest = behind;
    }
    out + rest
}

/// The first link of `text`: what is before it, its words, where it leads, what is behind it.
fn link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, behind) = text.split_once("](")?;
    let (before, words) = head.rsplit_once('[')?;
    let (target, behind) = behind.split_once(')')?;
    Some((before, words, target, behind))
}

/// `text` in lines that begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > WIDTH {
            out.push_str(if width == 0 { "" } else { "\n" });
            out.push_str(indent);
            width = indent.len();
        } else {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_explained_with_type_default_and_variable() {
        let told = explain("limits.queue_age").expect("a key");
        for part in [
            "limits.queue_age\n",
            "type      duration, 10ms–10s\n",
            "default   \"150ms\"\n",
            "change    needs a restart\n",
            "variable  RELAY__LIMITS__QUEUE_AGE\n",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
        assert!(
            explain("realm")
                .expect("a key")
                .contains("change    takes effect at a reload")
        );
        assert!(
            explain("api.keys.name")
                .expect("a key")
                .contains("RELAY__API__KEYS__0__NAME")
        );
    }

    #[test]
    fn links_are_told_as_pages() {
        assert_eq!(
            unlinked("see [the log](operations.md#log) and [here](#top)."),
            "see the log (docs/operations.md#log) and here (docs/configuration.md#top)."
        );
        assert_eq!(unlinked("a [list] (of)"), "a [list] (of)");
        for key in known().described() {
            assert!(!unlinked(key.text).contains("]("), "{}", key.path);
        }
    }

    #[test]
    fn a_section_lists_its_keys_and_a_list_explains_itself_too() {
        let told = explain("[turn.compat]").expect("a section");
        assert!(told.contains("\nrfc3489_binding (true, false; false)\n"), "{told}");
        let told = explain("listener").expect("a list");
        assert!(
            told.contains("Each block is one port") && told.contains("\nbind ("),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_known_is_guessed_at_as_in_a_file() {
        for (written, meant) in [
            ("limits.permisions", "did you mean `limits.permissions`?"),
            ("queue_age", "did you mean `limits.queue_age`?"),
            ("queue-age", "did you mean `limits.queue_age`?"),
            ("static-auth-secret", "here that is `credentials.secrets`"),
            ("lmits", "did you mean `limits`?"),
        ] {
            let told = explain(written).expect_err(written);
            assert!(told.ends_with(meant), "{told}");
        }
        assert_eq!(
            explain("bananas"),
            Err("there is no key and no section `bananas`".to_owned())
        );
    }
}
