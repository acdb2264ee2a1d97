//! `make bench` runs, all of its parts. How fast anything is, no test says.

use std::path::Path;

use crate::bench_suite::run;

#[test]
fn a_quick_bench_prints_every_line() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("of nobody"), [7; 9]).unwrap();
    let lines = run(["--quick".to_owned()].into_iter(), files.path()).unwrap();
    let targets = lines.iter().filter(|line| line.target.is_some()).count();
    assert_eq!((lines.len(), targets), (152, 23));
    for line in lines {
        assert!(line.ours.median().is_finite() && line.compared.median().is_finite(), "{}", line.what);
    }
}

#[test]
fn a_part_that_is_not_there_is_named() {
    let complaint = run(["gett".to_owned()].into_iter(), Path::new("/")).unwrap_err();
    assert!(complaint.starts_with("gett? "), "{complaint}");
}
