//! Whatever is not as it was written is found and named; what is only unfinished is not called damage.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::rig::*;

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

fn volume_file(dir: &Path, record: &Value) -> PathBuf {
    dir.join(format!("volumes/{:08}.vol", record["volume"].as_u64().unwrap()))
}

/// What `verify` says is damaged; it must exit with 3, in both forms.
#[track_caller]
fn damaged(dir: &Path, more: &[&str]) -> Vec<Value> {
    let before = contents(dir);
    let said = volume("verify", dir, &[more, &["--json"]].concat());
    assert_eq!(said.code, 3, "{said:?}");
    let mut lines = said.lines();
    let count = lines.pop().unwrap()["verified"]["damaged"].as_u64().unwrap();
    assert_eq!((count, said.stderr.as_str()), (lines.len() as u64, &*format!("error: damaged: {count}\n")));
    let text = volume("verify", dir, more);
    assert_eq!(text.code, 3);
    assert_eq!(text.stdout.lines().filter(|line| line.starts_with("damaged: volume ")).count() as u64, count);
    assert!(contents(dir) == before, "nothing is changed");
    lines.iter_mut().map(|line| line["damaged"].take()).collect()
}

#[test]
fn damaged_data_heads_and_superblocks_are_found_and_named() {
    let (_home, dir) = Node::loaded().stop();
    let live = records_of(&dir, "small/3").pop().unwrap();
    flip(&volume_file(&dir, &live), live["offset"].as_u64().unwrap() + 1000);
    let found = damaged(&dir, &[]);
    let one = json!({
        "volume": live["volume"], "start": live["offset"], "end": found[0]["end"], "wrong": "checksum",
        "key": "small/3", "version": live["version"], "length": 5000, "live": true,
    });
    assert_eq!(found, std::slice::from_ref(&one));
    let dead = records_of(&dir, "long").remove(0);
    flip(&volume_file(&dir, &dead), dead["offset"].as_u64().unwrap() + 80_000);
    let headless = records_of(&dir, "small/4").remove(1);
    flip(&volume_file(&dir, &headless), headless["offset"].as_u64().unwrap() + 30);
    flip(&dir.join("volumes/00000002.vol"), 20);
    let found = damaged(&dir, &[]);
    let with = |wrong: &str| found.iter().find(|one| one["wrong"] == wrong).cloned().unwrap();
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(with("checksum"), one);
    let block = with("block");
    assert_eq!(
        (&block["key"], &block["live"], &block["version"]),
        (&json!("long"), &json!(false), &dead["version"])
    );
    let stretch = with("no_record");
    assert_eq!((&stretch["volume"], &stretch["start"]), (&headless["volume"], &headless["offset"]));
    assert_eq!(stretch["end"].as_u64().unwrap() - stretch["start"].as_u64().unwrap(), 40 + 7 + 5_000);
    assert_eq!(stretch.get("key"), None, "nobody knows whose it was");
    assert_eq!(with("superblock"), json!({"volume": 2, "start": 0, "end": 64, "wrong": "superblock"}));
    let second = damaged(&dir, &["--volume", "2"]);
    assert!(second.iter().all(|one| one["volume"] == 2) && second.iter().any(|one| one["start"] == 0));
    assert!(ok("list", &dir, &[]).stdout.contains("damaged superblock"));
    let dump = ok("dump", &dir, &[]).stdout;
    assert!(dump.contains(&format!(":{} damaged - - 5047 - -\n", headless["offset"])), "{dump}");
}

#[test]
fn bytes_that_volumes_lost_are_missed() {
    let (_home, dir) = Node::loaded().stop();
    let all = volumes(&dir);
    for (path, lost) in [(&all[0], 10_000), (&all[all.len() - 1], 3)] {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - lost).unwrap();
    }
    let found = damaged(&dir, &[]);
    assert!(found.iter().all(|one| one["wrong"] == "no_record"), "{found:?}");
    let numbers: std::collections::BTreeSet<u64> =
        found.iter().map(|one| one["volume"].as_u64().unwrap()).collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [1, all.len() as u64]);
    let list = ok("list", &dir, &["--json"]).lines().remove(0);
    assert_eq!(list["volumes"][0]["lost_bytes"], 10_000);
    assert_eq!(list["volumes"][all.len() - 1]["lost_bytes"], 3);
}

#[test]
fn whole_files_that_are_gone_short_or_changed_are_found_and_named() {
    let node = Node::loaded();
    for name in ["/gone", "/short", "/flipped"] {
        node.put(name, body(1, 1, 200_000));
    }
    let (_home, dir) = node.stop();
    let files = whole_files(&dir);
    let [.., gone, short, flipped] = &files[..] else { panic!("{files:?}") };
    fs::remove_file(gone).unwrap();
    fs::File::options().write(true).open(short).unwrap().set_len(100).unwrap();
    flip(flipped, 150_000);
    fs::write(files[0].with_file_name("0000000000000fff.blob"), "of no record").unwrap();
    let folder = dir.join("blobs/07");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0000000000000f07.blob"), "of no record").unwrap();
    let mut found = damaged(&dir, &[]);
    found.sort_by_key(|one| one["key"].to_string());
    let named =
        |one: &Value| (one["key"].as_str().unwrap().to_owned(), one["wrong"].as_str().unwrap().to_owned());
    let pairs = [("flipped", "block"), ("gone", "file_gone"), ("short", "file_length")];
    assert!(
        found.iter().map(named).eq(pairs.map(|(key, wrong)| (key.to_owned(), wrong.to_owned()))),
        "{found:?}"
    );
    assert!(found.iter().all(|one| one["live"] == true && one["length"] == 200_000));
    let sums = verified(&volume("verify", &dir, &["--json"]));
    assert_eq!((&sums["unnamed_files"], &sums["unnamed_bytes"]), (&json!(1), &json!(12)));
}

#[test]
fn what_a_crash_left_unfinished_is_no_damage() {
    let node = Node::loaded();
    node.process.kill();
    let dir = node.dir();
    let last = volumes(&dir).pop().unwrap();
    let length = fs::metadata(&last).unwrap().len();
    // Half a record, as if the machine had stopped while it was written.
    let record = &records_of(&dir, "one-block/%20?and=more")[0];
    let from = fs::read(volume_file(&dir, record)).unwrap();
    let offset = record["offset"].as_u64().unwrap() as usize;
    fs::File::options()
        .write(true)
        .open(&last)
        .unwrap()
        .write_all_at(&from[offset..offset + 900], length)
        .unwrap();
    let before = contents(&dir);
    let sums = verified(&ok("verify", &dir, &["--json"]));
    assert_eq!((&sums["damaged"], &sums["unfinished_bytes"]), (&json!(0), &json!(900)));
    assert!(ok("list", &dir, &[]).stdout.contains("last, 900b not acknowledged"));
    let line = format!(":{length} unfinished - - 900 - -\n");
    assert!(ok("dump", &dir, &[]).stdout.ends_with(&line));
    assert!(contents(&dir) == before);
    // Bytes of an acknowledged record before it are damage all the same.
    let live = records_of(&dir, "small/3").pop().unwrap();
    flip(&volume_file(&dir, &live), live["offset"].as_u64().unwrap() + 1000);
    assert_eq!(damaged(&dir, &[])[0]["key"], "small/3");
}

/// Without syncs nothing says that records before the last one were durable, and a disk writes them in any order.
#[test]
fn a_hole_between_unsynced_records_is_no_damage() {
    let node = Node::start(&["--sync", "never"]);
    for n in 0..3 {
        node.put(&format!("/{n}"), body(n, 0, 5_000));
    }
    node.process.kill();
    let dir = node.dir();
    flip(&volumes(&dir)[0], 64 + 5_041 + 1_000);
    let sums = verified(&ok("verify", &dir, &["--json"]));
    assert_eq!((&sums["damaged"], &sums["unfinished_bytes"]), (&json!(0), &json!(5_041)));
    let dump = ok("dump", &dir, &["--json"]).lines();
    assert_eq!(dump.len(), 3);
    assert_eq!(dump[1], json!({"volume": 1, "offset": 64 + 5_041, "kind": "unfinished", "length": 5_041}));
    assert!(dump[0]["live"] == true && dump[2]["live"] == true);
}

#[test]
fn a_wrong_saved_index_is_said_and_is_no_damage() {
    let (_home, dir) = Node::loaded().stop();
    flip(&dir.join("INDEX"), 100);
    assert_eq!(verified(&ok("verify", &dir, &["--json"]))["saved_index"], "wrong");
    assert!(ok("list", &dir, &[]).stdout.contains("The saved index is not what the volumes say"));
    assert_eq!(ok("list", &dir, &["--json"]).lines()[0]["totals"]["records"], 25);
}
