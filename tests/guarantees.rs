//! `docs/guarantees.md` names a test for every promise: each of them exists.

use std::{fs, path::Path};

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let promises: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")).collect();
    assert!(promises.len() > 20, "{} promises", promises.len());
    for line in promises {
        let held_by = line.split(" | ").nth(1).unwrap_or_else(|| panic!("no test: {line}"));
        let names: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        let (tests, rest) = names.as_chunks::<2>();
        assert!(!tests.is_empty() && rest.is_empty(), "a function and its file, in turn: {line}");
        for [function, file] in tests {
            let source =
                fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let is_there = source.contains(&format!("fn {function}("));
            assert!(is_there, "{function} is not in {file}: {line}");
        }
    }
}
