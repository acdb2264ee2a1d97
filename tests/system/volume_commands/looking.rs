//! Looking at a node that is stopped, that runs, or whose disk cannot be written to.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::small_disk::SmallDisk;

use super::rig::*;

/// What the node of [`Node::loaded`] holds.
fn check(dir: &Path) {
    let list = ok("list", dir, &["--json"]).lines().remove(0);
    let volumes = list["volumes"].as_array().unwrap();
    assert!(volumes.len() > 2, "{list}");
    assert!(volumes.iter().all(|volume| volume["created_ms"].as_u64() > Some(1_600_000_000_000)));
    let sealed = volumes.iter().map(|volume| volume["sealed"] == true);
    assert!(sealed.eq((1..=volumes.len()).map(|n| n < volumes.len())), "all but the last");
    // 19 small ones, a tombstone, five others.
    assert_eq!(list["totals"]["records"], 25, "{list}");
    assert_eq!(list["totals"]["tombstones"], 1);
    assert!(list["totals"]["dead_bytes"].as_u64() > Some(2 * (19 * 5_000 + 150_000)), "{list}");
    let text = ok("list", dir, &[]).stdout;
    assert!(text.contains("sealed") && text.contains("last"), "{text}");
    assert!(text.contains("25 records (1 of them tombstones)") && text.contains("1 files of their own"));

    let dump = ok("dump", dir, &["--json"]).lines();
    let live: Vec<&Value> = dump.iter().filter(|record| record["live"] == true).collect();
    assert_eq!(live.len(), 25);
    assert!(dump.len() > 60, "the replaced ones are there too: {}", dump.len());
    let of = |key: &str| {
        let record = live.iter().find(|record| record["key"] == key).unwrap();
        (record["kind"].as_str().unwrap(), record["length"].as_u64().unwrap())
    };
    assert_eq!((of("long"), of("whole")), (("blob", 90_000), ("file", 300_000)));
    assert_eq!((of("small/7"), of("one-block/%20?and=more")), (("tombstone", 0), ("blob", 60_000)));
    let meta = ok("dump", dir, &["--key", "with-meta", "--meta"]).stdout;
    assert!(meta.ends_with(" with-meta\t{\"content-type\":\"image/jpeg\"}\n"), "{meta}");
    let small = ok("dump", dir, &["--prefix", "small/1"]).stdout;
    assert_eq!(small.lines().count(), 3 * 11, "1 and 10 to 19, written three times");
    assert!(small.lines().all(|line| line.contains(" blob ") && line.contains(" small/1")));
    let first = ok("dump", dir, &["--volume", "1"]).stdout;
    assert!(!first.is_empty() && first.lines().all(|line| line.starts_with("1:")));

    let said = ok("verify", dir, &["--json"]);
    let sums = verified(&said);
    assert_eq!((&sums["damaged"], &sums["unfinished_bytes"]), (&json!(0), &json!(0)), "{sums}");
    assert_eq!((sums["files"].as_u64(), sums["unnamed_files"].as_u64()), (Some(1), Some(0)));
    assert_eq!(sums["records"], dump.len());
    assert!(ok("verify", dir, &[]).stdout.ends_with("\nNothing is damaged\n"));
}

#[test]
fn a_stopped_node_is_looked_at_and_nothing_changes() {
    let (_home, dir) = Node::loaded().stop();
    let before = contents(&dir);
    check(&dir);
    assert_eq!(ok("list", &dir, &["--json"]).lines()[0]["saved_index"], "used");
    assert!(contents(&dir) == before, "not a byte, not a time, not a file more");
}

#[test]
fn a_running_node_is_looked_at_and_nothing_changes() {
    let node = Node::loaded();
    let before = contents(&node.dir());
    check(&node.dir());
    assert!(contents(&node.dir()) == before);
    node.put("/small/1", body(1, 9, 10));
    assert_eq!(records_of(&node.dir(), "small/1").len(), 4);
}

#[test]
fn a_killed_node_is_looked_at_without_a_saved_index() {
    let node = Node::loaded();
    node.process.kill();
    check(&node.dir());
    assert_eq!(ok("list", &node.dir(), &["--json"]).lines()[0]["saved_index"], "none");
}

#[test]
fn a_disk_that_cannot_be_written_to_is_looked_at() {
    let Some(disk) = SmallDisk::mount(16 << 20) else {
        eprintln!("not run: mounting is not allowed here");
        return;
    };
    let (_home, dir) = Node::loaded().stop();
    let copied = disk.path().join("data");
    copy(&dir, &copied);
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(disk.path()).status();
        assert!(done.is_ok_and(|status| status.success()));
    };
    remount("remount,ro");
    check(&copied);
}

/// Written by the program that introduced format 1, without a folder for what is received.
#[test]
fn a_storage_of_format_1_is_verified_where_it_lies() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/storage-v1"));
    let before = contents(dir);
    let sums = verified(&ok("verify", dir, &["--json"]));
    let expected = json!({
        "volumes": 2, "records": 17, "bytes": 251_991, "files": 1, "file_bytes": 150_012, "damaged": 0,
        "unfinished_bytes": 0, "unnamed_files": 0, "unnamed_bytes": 0, "saved_index": "none",
    });
    assert_eq!(sums, expected);
    assert_eq!(ok("list", dir, &["--json"]).lines()[0]["totals"]["records"], 14);
    let dump = ok("dump", dir, &[]).stdout;
    assert!(dump.contains(" blob live 00000000090000000000000007 90000 dwVuOaH1TAo= фото\n"), "{dump}");
    assert!(contents(dir) == before);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (_home, dir) = Node::loaded().stop();
    let command = format!("'{ADMIN}' volume dump '{}' | head -n 1", dir.display());
    let said = Command::new("bash").args(["-o", "pipefail", "-c", &command]).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
}
