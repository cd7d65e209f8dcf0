use super::*;

fn with(text: &str, span: Range<usize>) -> Diagnostics {
    let mut diagnostics = Diagnostics::default();
    let source = diagnostics.add_source("relay.toml", text);
    diagnostics.push(
        Diagnostic::error("wrong")
            .at(SourceSpan::new(source, &span))
            .help("do it right"),
    );
    diagnostics.finish(crate::config::mask::masked);
    diagnostics
}

#[test]
fn columns_count_characters_not_bytes() {
    let diagnostics = with("a = 1\nb = \"é\" # x\n", 14..15);
    let found = diagnostics.iter().next().map(|f| (f.line, f.column));
    assert_eq!(found, Some((2, 8)));
}

#[test]
fn a_masked_secret_keeps_the_underline_in_place() {
    let text = "credentials.secrets = [\"nörth\", \"b\"]\n";
    let shown = with(text, 23..31).to_string();
    assert!(!shown.contains("rth"), "{shown}");
    assert!(shown.contains("secrets = [\"******\", \"*\"]"), "{shown}");
    assert!(shown.contains("relay.toml:1:24"), "{shown}");
}

#[test]
fn a_message_does_not_say_what_the_text_does_not_show() {
    let text = "realm = \"x\"\ncredentials.secrets = [\"Päss w0rd\\tnext\"]\n";
    let mut diagnostics = Diagnostics::default();
    let source = diagnostics.add_source("relay.toml", text);
    let error = Diagnostic::error("found \"Päss w0rd\\tnext\", and päss").at(SourceSpan::new(source, &(0..5)));
    diagnostics.push(error.help("write w0RD or next"));
    diagnostics.finish(crate::config::mask::masked);
    let found = diagnostics.iter().next().expect("it");
    assert_eq!(
        (found.message, found.help),
        ("found \"…\", and …", Some("write … or …"))
    );
}

#[test]
fn no_more_is_told_than_anybody_reads() {
    let mut diagnostics = Diagnostics::default();
    (0..1000).for_each(|number| diagnostics.push(Diagnostic::error(number.to_string())));
    diagnostics.finish(crate::config::mask::masked);
    assert_eq!(diagnostics.counts(), (MAX_TOLD + 1, 0));
    assert_eq!(
        diagnostics.iter().last().map(|found| found.message),
        Some("and 900 more: mend these first")
    );
}

#[test]
fn spans_beyond_the_text_or_within_a_character_do_not_panic() {
    for span in [0..99, 50..60, 4..6, 8..8] {
        assert!(with("a=\"ééé\"", span).to_string().contains("wrong"));
    }
}

#[test]
fn a_place_is_found_again_in_another_text() {
    let place = SourceSpan::new(0, &(3..5)).shifted(1, 10);
    assert_eq!(place.start(), 13);
    assert!(place.overlaps(SourceSpan::new(1, &(15..16))) && !place.overlaps(SourceSpan::new(1, &(16..17))));
    assert!(!place.overlaps(SourceSpan::new(0, &(13..15))), "another text");
}

/// As many as anybody reads; the last line is of the kind of those before it.
#[test]
fn of_too_many_the_rest_is_counted() {
    let finished = |severity| {
        let mut all = Diagnostics::default();
        for n in 0..MAX_TOLD + 7 {
            let one = Diagnostic::error(format!("number {n}"));
            all.push(Diagnostic { severity, ..one });
        }
        all.finish(crate::config::mask::masked);
        all
    };
    for severity in [Severity::Error, Severity::Warning] {
        let all = finished(severity);
        assert_eq!(all.len(), MAX_TOLD + 1);
        assert_eq!(all.has_errors(), severity == Severity::Error);
        let last = all.iter().last().expect("many");
        assert_eq!(last.message, "and 7 more: mend these first");
    }
}

#[test]
fn errors_behind_a_place_in_the_list_become_warnings_and_it_is_said() {
    let mut all = Diagnostics::default();
    all.push(Diagnostic::error("first"));
    all.push(Diagnostic::warning("second"));
    assert!(!all.soften(1), "there was none");
    all.push(Diagnostic::error("third"));
    assert!(all.soften(1));
    let severities: Vec<_> = all.list.iter().map(|one| one.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Warning]);
}
