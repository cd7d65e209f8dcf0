//! `docs/conformance.md` is true: every rule is there once, and is held by the tests that cite it or says why by none.
//!
//! A test cites the rules it holds in lines like `//= TURN-ALLOC-07` directly above it. From those the last column of the tables
//! is written: `CONFORMANCE_WRITE=1 cargo test --test conformance`.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/conformance.md";

/// Every rule there is: how many each family has, counted from 01. Decisions are counted from D1.
const FAMILIES: [(&str, usize); 19] = [
    ("STUN-MSG", 24),
    ("STUN-BIND", 11),
    ("STUN-AUTH", 24),
    ("XPORT", 21),
    ("TURN-GEN", 10),
    ("TURN-ALLOC", 37),
    ("TURN-REFR", 8),
    ("TURN-PERM", 13),
    ("TURN-DATA", 10),
    ("TURN-CHAN", 19),
    ("TURN-NET", 8),
    ("TCP-ALLOC", 12),
    ("OAUTH", 4),
    ("MOB", 6),
    ("NATD", 5),
    ("REST", 14),
    ("FORCED", 5),
    ("VEC", 7),
    ("COMPAT", 8),
];
const DECISIONS: usize = 12;

/// What a rule without a test may say for itself.
const REASONS: [&str; 3] = ["off: ", "not yet: ", "by construction: "];

/// A row of a table.
struct Row {
    id: String,
    level: String,
    /// What stands before the tests.
    note: String,
    tests: BTreeSet<String>,
}

/// One function below `//=` lines, or one below `#[test]`.
struct Function {
    /// `path::name`
    name: String,
    /// And one that runs: an ignored test holds nothing.
    is_test: bool,
    cites: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> BTreeSet<String> {
    let numbered = |(family, count): (&'static str, usize)| (1..=count).map(move |n| format!("{family}-{n:02}"));
    let decisions = (1..=DECISIONS).map(|n| format!("D{n}"));
    FAMILIES.into_iter().flat_map(numbered).chain(decisions).collect()
}

#[test]
fn the_table_and_the_tests_say_the_same() {
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let (functions, mut errors) = functions();
    let text = if std::env::var_os("CONFORMANCE_WRITE").is_some() {
        let written = with_citations(&text, &functions);
        fs::write(root().join(DOCUMENT), &written).unwrap();
        written
    } else {
        text
    };
    errors.extend(disagreements(&rows(&text), &functions));
    assert!(
        errors.is_empty(),
        "{}\n\nIf only the last column is out of date: CONFORMANCE_WRITE=1 cargo test --test conformance",
        errors.join("\n")
    );
}

/// Everything that is wrong with the table.
fn disagreements(rows: &[Row], functions: &[Function]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut missing = rules();
    let mut held: BTreeSet<(&str, &str)> = BTreeSet::new();
    let tests: BTreeSet<&str> = functions.iter().filter(|f| f.is_test).map(|f| &*f.name).collect();
    let known = rules();
    for Row {
        id,
        level,
        note,
        tests: named,
    } in rows
    {
        if !known.contains(id) {
            errors.push(format!("{id}: there is no such rule"));
        } else if !missing.remove(id) {
            errors.push(format!("{id}: stands in the table twice"));
        }
        if named.is_empty() && !REASONS.iter().any(|reason| note.starts_with(reason)) {
            errors.push(format!(
                "{id} ({level}): no test holds it, and no reason is given ({REASONS:?})"
            ));
        }
        for test in named {
            if !tests.contains(&**test) {
                errors.push(format!("{id}: there is no test {test}"));
            }
            held.insert((id, test));
        }
    }
    errors.extend(missing.iter().map(|id| format!("{id}: not in the table")));
    let mut cited = BTreeSet::new();
    for function in functions {
        for id in &function.cites {
            if !known.contains(id) {
                errors.push(format!("{}: cites {id}, and there is no such rule", function.name));
            } else if !function.is_test {
                errors.push(format!("{}: cites {id}, and is no test that runs", function.name));
            } else if !held.contains(&(id, &function.name)) {
                errors.push(format!("{id}: the table does not name {}", function.name));
            }
            cited.insert((&**id, &*function.name));
        }
    }
    for (id, test) in held.iter().filter(|&held| !cited.contains(held)) {
        errors.push(format!("{id}: {test} does not cite it"));
    }
    errors
}

/// The rows of all tables.
fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let cells = cells(line)?;
        let (note, tests) = note_and_tests(cells[4]);
        Some(Row {
            id: cells[0].to_owned(),
            level: cells[1].to_owned(),
            note,
            tests,
        })
    };
    text.lines().filter_map(row).collect()
}

/// Id, level, source, rule, held by; `None` for what is no row of a rule.
fn cells(line: &str) -> Option<[&str; 5]> {
    let cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|');
    let cells: [&str; 5] = cells.map(str::trim).collect::<Vec<_>>().try_into().ok()?;
    (cells[0] != "Id" && !cells[0].starts_with('-')).then_some(cells)
}

fn note_and_tests(cell: &str) -> (String, BTreeSet<String>) {
    let is_test = |part: &&str| part.starts_with('`') && part.contains(".rs::");
    let (tests, notes): (Vec<&str>, Vec<&str>) = cell.split("<br>").map(str::trim).partition(is_test);
    let tests = tests.iter().map(|test| test.trim_matches('`').to_owned()).collect();
    (notes.join("<br>"), tests)
}

/// The document with its last column as the tests have it.
fn with_citations(text: &str, functions: &[Function]) -> String {
    let mut by_rule: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for function in functions.iter().filter(|function| function.is_test) {
        for id in &function.cites {
            by_rule.entry(id).or_default().insert(format!("`{}`", function.name));
        }
    }
    let line = |line: &str| {
        let Some([id, level, source, rule, held_by]) = cells(line) else {
            return line.to_owned();
        };
        let (note, _) = note_and_tests(held_by);
        let tests = by_rule.get(id).into_iter().flatten().cloned();
        let parts: Vec<String> = Some(note)
            .filter(|note| !note.is_empty())
            .into_iter()
            .chain(tests)
            .collect();
        format!("| {id} | {level} | {source} | {rule} | {} |", parts.join("<br>"))
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// All tests and all functions with citations, and what is wrong with the citations themselves.
fn functions() -> (Vec<Function>, Vec<String>) {
    let (mut functions, mut errors) = (Vec::new(), Vec::new());
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    files.sort();
    // This file cites in its examples only.
    files.retain(|file| !file.ends_with(file!()));
    for file in files {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let found = functions_in(&path, &fs::read_to_string(&file).unwrap(), &mut errors);
        if !found.is_empty() && !is_compiled(&file) {
            errors.push(format!("{path}: no module declares this file, so its tests never run"));
        }
        functions.extend(found);
    }
    (functions, errors)
}

fn functions_in(path: &str, source: &str, errors: &mut Vec<String>) -> Vec<Function> {
    let mut functions = Vec::new();
    let (mut cites, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for (line, n) in source.lines().map(str::trim).zip(1..) {
        if let Some(id) = line.strip_prefix("//=") {
            // The house's own invariants are cited as well; their table is in docs/architecture.md.
            cites.extend(Some(id.trim().to_owned()).filter(|id| !id.starts_with("design ")));
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_ignored = true;
        } else if let Some(name) = function_name(line) {
            if is_test || !cites.is_empty() {
                functions.push(Function {
                    name: format!("{path}::{name}"),
                    is_test: is_test && !is_ignored,
                    cites: std::mem::take(&mut cites),
                });
            }
            (is_test, is_ignored) = (false, false);
        } else if !line.starts_with("//") && !line.starts_with('#') {
            if !cites.is_empty() {
                errors.push(format!("{path}:{n}: {cites:?} stand above no function"));
            }
            (cites, is_test, is_ignored) = (Vec::new(), false, false);
        }
    }
    functions
}

/// The name in the first line of a function.
fn function_name(line: &str) -> Option<&str> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| matches!(*word, "async" | "const" | "unsafe") || word.starts_with("pub"));
    words.next().filter(|&word| word == "fn")?;
    words.next()?.split(['(', '<']).next()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether a crate root, or a file a module above names.
fn is_compiled(file: &Path) -> bool {
    let (folder, stem) = (file.parent().unwrap(), file.file_stem().unwrap().to_str().unwrap());
    if folder == root().join("tests") || ["main", "lib"].contains(&stem) {
        return true;
    }
    let (folder, module) = match stem {
        "mod" => (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap()),
        _ => (folder, stem),
    };
    let parents = [
        folder.with_extension("rs"),
        folder.join("mod.rs"),
        folder.join("main.rs"),
        folder.join("lib.rs"),
    ];
    let declared = format!("mod {module};");
    let declares = |parent: &PathBuf| fs::read_to_string(parent).is_ok_and(|text| text.contains(&declared));
    parents.iter().any(declares) || names_path(folder, &format!("path = \"{stem}.rs\""))
}

/// Whether a file of this folder has a `#[path]` that says so.
fn names_path(folder: &Path, attribute: &str) -> bool {
    let mut siblings = Vec::new();
    rust_files(folder, &mut siblings);
    siblings
        .iter()
        .any(|file| fs::read_to_string(file).unwrap().contains(attribute))
}

mod checks {
    //! That the checks find what they are for.

    use super::*;

    fn table(rows: &[&str]) -> String {
        format!(
            "| Id | Level | Source | Rule | Held by |\n| --- | --- | --- | --- | --- |\n{}\n",
            rows.join("\n")
        )
    }

    /// A table with a row for each rule; `row` instead of the one of the same id.
    fn complete(row: &str) -> String {
        let id = cells(row).unwrap()[0];
        let mut rows: Vec<String> = rules()
            .iter()
            .filter(|&rule| rule != id)
            .map(|id| format!("| {id} | M | - | x | off: x |"))
            .collect();
        rows.push(row.to_owned());
        table(&rows.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn test(cites: &[&str]) -> Function {
        Function {
            name: "tests/a.rs::it_holds".into(),
            is_test: true,
            cites: cites.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    const HELD: &str = "| VEC-01 | V | - | x | `tests/a.rs::it_holds` |";

    #[test]
    fn a_table_that_is_right_has_no_error() {
        assert_eq!(disagreements(&rows(&complete(HELD)), &[test(&["VEC-01"])]), [""; 0]);
    }

    #[test]
    fn whatever_is_wrong_is_one_error() {
        let cases = [
            (
                "no such test",
                complete("| VEC-01 | V | - | x | off: x<br>`tests/a.rs::it_is_gone` |"),
                test(&[]),
            ),
            ("unknown rule cited", complete(HELD), test(&["VEC-01", "VEC-99"])),
            (
                "neither test nor reason",
                complete("| VEC-01 | V | - | x | |"),
                test(&[]),
            ),
            (
                "a reason that is none",
                complete("| VEC-01 | V | - | x | later |"),
                test(&[]),
            ),
            (
                "unknown rule in the table",
                complete(HELD) + "| VEC-99 | V | - | x | off: x |\n",
                test(&["VEC-01"]),
            ),
            ("twice", complete(HELD) + HELD, test(&["VEC-01"])),
            ("not named", complete(HELD), test(&["VEC-01", "VEC-02"])),
            (
                "not cited",
                complete("| VEC-01 | V | - | x | off: x<br>`tests/a.rs::it_holds` |"),
                test(&[]),
            ),
            (
                "missing",
                complete(HELD).replace("| XPORT-01 | M | - | x | off: x |", ""),
                test(&["VEC-01"]),
            ),
            (
                "no test",
                complete("| VEC-01 | V | - | x | off: x |"),
                Function {
                    is_test: false,
                    ..test(&["VEC-01"])
                },
            ),
        ];
        for (story, text, test) in cases {
            let errors = disagreements(&rows(&text), &[test]);
            // A test that is gone does not cite, either.
            let expected = if story == "no such test" { 2 } else { 1 };
            assert_eq!(errors.len(), expected, "{story}: {errors:?}");
        }
    }

    #[test]
    fn the_column_is_written_from_the_citations_and_notes_stay() {
        let text = table(&[
            "| VEC-01 | V | - | x | partly: x<br>`tests/gone.rs::x` |",
            "| VEC-02 | V | - | y | |",
        ]);
        let written = with_citations(&text, &[test(&["VEC-01", "VEC-02"])]);
        let expected = [
            "| VEC-01 | V | - | x | partly: x<br>`tests/a.rs::it_holds` |",
            "| VEC-02 | V | - | y | `tests/a.rs::it_holds` |",
        ];
        assert_eq!(written, table(&expected));
    }

    #[test]
    fn citations_belong_to_the_test_below_them() {
        let mut errors = Vec::new();
        let source = "
            //= VEC-01
            //= VEC-02
            // A remark.
            #[test]
            #[cfg(unix)]
            fn first() {
            }

            #[tokio::test(flavor = \"current_thread\")]
            async fn uncited() {}

            //= VEC-01
            #[test]
            #[ignore = \"not yet\"]
            fn ignored() {}

            //= VEC-03
            fn helper<T>(x: T) {}

            //= VEC-04
            const NOTHING: u8 = 0;
        ";
        let found = functions_in("a.rs", source, &mut errors);
        let found: Vec<_> = found.iter().map(|f| (&*f.name, f.is_test, f.cites.join(" "))).collect();
        let expected = [
            ("a.rs::first", true, "VEC-01 VEC-02".to_owned()),
            ("a.rs::uncited", true, String::new()),
            ("a.rs::ignored", false, "VEC-01".to_owned()),
            ("a.rs::helper", false, "VEC-03".to_owned()),
        ];
        assert_eq!(found, expected);
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}
