//! Every stored fuzz input, through the very functions the fuzzer runs.

// One of them is DTLS. Said here and not in the manifest, which then names no file that a build of the program lacks.
#![cfg(feature = "dtls")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod fuzz_bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

//= STUN-MSG-12
//= VEC-05
#[test]
fn every_stored_input_passes_its_target() {
    for (target, body) in fuzz_bodies::TARGETS {
        let folder = corpus().join(target);
        let inputs = names(&folder);
        assert!(!inputs.is_empty(), "{target} has no input");
        for input in inputs {
            let bytes = fs::read(folder.join(&input)).unwrap();
            // The harness shows this line if the body panics.
            eprintln!("{target}/{input}");
            body(&bytes);
        }
        // And what an input was before its end.
        body(&[]);
    }
}

#[test]
fn every_target_has_a_program_a_place_in_the_manifest_and_a_corpus() {
    let targets: BTreeSet<String> = fuzz_bodies::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names(&corpus()), targets);
    let programs = corpus().with_file_name("fuzz_targets");
    assert_eq!(
        names(&programs),
        targets.iter().map(|name| format!("{name}.rs")).collect()
    );
    let manifest = fs::read_to_string(corpus().with_file_name("Cargo.toml")).unwrap();
    for target in targets {
        let program = fs::read_to_string(programs.join(format!("{target}.rs"))).unwrap();
        assert!(
            program.contains(&format!("fuzz_bodies::{target}(")),
            "{target}.rs runs its own body"
        );
        assert!(
            manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")),
            "{target}"
        );
    }
}

/// A few inputs nobody stored, so that a body that fails at once is found without a fuzzer.
#[test]
fn random_inputs_pass_every_target() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    for (target, body) in fuzz_bodies::TARGETS {
        let config = Config {
            cases: 100,
            failure_persistence: None,
            ..Config::default()
        };
        let inputs = prop::collection::vec(any::<u8>(), 0..600);
        let passes = |input: Vec<u8>| {
            body(&input);
            Ok(())
        };
        if let Err(error) = TestRunner::new(config).run(&inputs, passes) {
            panic!("{target}: {error}");
        }
    }
}
