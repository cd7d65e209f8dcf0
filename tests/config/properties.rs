//! Whatever is written: an answer, never a panic, and every place told lies in the text.

use proptest::prelude::*;
use relay::config::reader::diagnostic::Diagnostics;
use relay::config::{Purpose, keys, load_for};

use rustix::time::{ClockId, clock_gettime};

use crate::machine::Machine;

const EXAMPLE: &str = include_str!("../../config/relay.toml");

/// Loads `bytes` and looks at everything that comes of it.
fn load(machine: &Machine, bytes: &[u8]) -> Result<(), TestCaseError> {
    let path = machine.file("relay.toml", bytes);
    match load_for(Purpose::Check, Some(&path), machine) {
        Ok(loaded) => {
            look(&loaded.warnings, bytes)?;
            prop_assert!(
                loaded.effective().parse::<toml::Table>().is_ok(),
                "{}",
                loaded.effective()
            );
        }
        Err(mistakes) => {
            prop_assert!(mistakes.has_errors());
            look(&mistakes, bytes)?;
        }
    }
    Ok(())
}

fn look(mistakes: &Diagnostics, bytes: &[u8]) -> Result<(), TestCaseError> {
    let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
    for found in mistakes.iter() {
        prop_assert!(!found.message.is_empty());
        if found.source.is_some_and(|source| source.ends_with("relay.toml")) {
            prop_assert!((1..=lines).contains(&found.line) && found.column >= 1, "{found}");
        }
    }
    prop_assert!(mistakes.is_empty() || !mistakes.render(false).is_empty());
    let colored = mistakes.render(true).contains('\x1b');
    prop_assert!(mistakes.is_empty() || colored);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        load(&Machine::new(), &bytes)?;
    }

    #[test]
    fn anything_that_looks_like_toml(text in "([a-z_.]{1,8}( = |=)?|[0-9]{1,20}|[\\[\\]{},\"'#=\n -]|é|\"[^\"]{0,6}\"){0,80}") {
        load(&Machine::new(), text.as_bytes())?;
    }

    #[test]
    fn the_example_with_pieces_cut_out_and_put_in(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, "[\\[\\]{}\"'=#a-z0-9,.\n\u{0}é ]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, cut, insert) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, insert.chars());
        }
        load(&Machine::new(), text.into_iter().collect::<String>().as_bytes())?;
    }

    #[test]
    fn any_value_in_any_variable(
        values in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3_usize, prop_oneof![
                "\\PC{0,20}", "[0-9-]{1,20}", "\\[.{0,12}\\]", "\\{.{0,12}\\}", Just("auto".to_owned()), Just("off".to_owned()),
                Just("[]".to_owned()), Just("{}".to_owned()), Just("0.0.0.0".to_owned()), Just("::".to_owned()),
            ]),
            1..8,
        ),
    ) {
        let mut machine = Machine::new();
        let keys = keys();
        for (key, index, value) in values {
            let key = keys[key.index(keys.len())].path.to_uppercase();
            let name = match key.split_once('.') {
                Some(("LISTENER", rest)) => format!("LISTENER__{index}__{rest}"),
                _ => key.replace("USERS.", &format!("USERS.{index}.")).replace("KEYS.", &format!("KEYS.{index}.")).replace('.', "__"),
            };
            machine.set(&format!("RELAY__{name}"), &value);
        }
        load(&machine, b"")?;
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let machine = Machine::new();
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(machine.bad(&deep).counts().0 < 30);
    let many = "= 1\n".repeat(10_000);
    assert!(machine.bad(&many).counts().0 < 30);
    let huge = format!("# {}\n", "x".repeat(1024 * 1024));
    assert!(machine.bad(&huge).to_string().contains("it has more than 1024 KiB"));
}

/// Half of what a configuration may have, of each. It was quadratic: minutes, as this test is built. Processor time, because
/// others may be busy on this machine.
#[test]
fn a_configuration_full_of_mistakes_or_of_entries_is_answered_in_seconds() {
    let machine = Machine::new();
    let lines = |line: &dyn Fn(usize) -> String| (0..20_000).map(line).collect::<String>();
    let shapes = [
        lines(&|n| format!("unknown_key_{n} = {n}\n")),
        format!("[limits]\n{}", lines(&|n| format!("permissions_{n} = {n}\n"))),
        lines(&|_| "workers = 1\n".to_owned()),
        lines(&|n| format!("= {n}\n")),
        lines(&|n| format!("[section_{n}]\n")),
        lines(&|n| format!("a{n}.b = \"{n}\n")),
        format!(
            "peers.allow = [{}]\n",
            lines(&|n| format!("\"10.{}.{}.0/24\",", n / 256, n % 256))
        ),
        format!("peers.deny = [{}]\n", lines(&|n| format!("\"x{n}\",\n"))),
        format!("credentials.secrets = [{}]\n", lines(&|n| format!("\"{n}-secret\",\n"))),
        format!(
            "credentials.users = [{}]\n",
            (0..8_000)
                .map(|n| format!("{{name=\"u{n}\",password=\"{n}\"}},\n"))
                .collect::<String>()
        ),
        format!(
            "api.keys = [{}]\n",
            (0..8_000)
                .map(|n| format!("{{name=\"u{n}\",key=\"key-{n}-key-key\"}},\n"))
                .collect::<String>()
        ),
        (0..1_000)
            .map(|n| format!("[[listener]]\nbind = \"*:{}\"\n", 1 + n % 65_535))
            .collect(),
    ];
    for shape in shapes {
        assert!(shape.len() < 1024 * 1024, "{}", shape.len());
        let begin = clock_gettime(ClockId::ThreadCPUTime);
        let mistakes = machine.bad_or_good(&shape);
        let taken = clock_gettime(ClockId::ThreadCPUTime).tv_sec - begin.tv_sec;
        assert!(mistakes.iter().count() <= 102, "{}", mistakes.iter().count());
        assert!(taken < 10, "{taken} s for {:?}", &shape[..60]);
    }
}
