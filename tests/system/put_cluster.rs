//! Thousands of real files through `backpack-admin put` into a real cluster, killed in the middle and resumed, and read back
//! through nginx by `backpack-admin verify`.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    admin::PROGRAM,
    cluster::{Cluster, ClusterBuilder},
    daemon::Daemon,
    shard_server::Kind,
    wait::wait_until,
};

/// Where every Debian has thousands of small files of many kinds.
const SOURCES: [&str; 3] = ["/usr/share/doc", "/usr/share/perl", "/usr/share/zoneinfo"];

/// Enough that a kill meets the middle, few enough for a debug build on a busy machine.
const FILES: usize = 2100;

/// For a file to be uploaded, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(60);

/// Names that go wrong where somebody encodes, decodes or splits them.
const ODD_NAMES: [&[u8]; 8] = [
    b"with space",
    b"a#b?c=d&e",
    b"100%25",
    b"colon:name",
    b"line\nbreak",
    b"not-utf8-\xff",
    "фото.jpg".as_bytes(),
    b"+plus+",
];

#[test]
fn a_killed_upload_goes_on_and_everything_reads_back_through_nginx() {
    let cluster =
        ClusterBuilder::new().shard(&[Kind::Node; 2]).shard(&[Kind::Node; 2]).coordinators(2).start();
    let folder = tree();
    let files = count(folder.path());
    assert!(files > 1000, "{files} files in {SOURCES:?}");
    let journal = folder.path().join(".backpack-put.jsonl");

    // Killed twice, each time with uploads in flight.
    for part in [1, 2] {
        let upload = Daemon::start(PROGRAM, put(&cluster, 0, folder.path()));
        wait_until("a third of the files is uploaded", SOON, || {
            assert_eq!(upload.ended(), None, "{}", upload.log());
            lines(&journal) >= files * part / 3
        });
        upload.kill();
        assert!(lines(&journal) < files);
    }
    let journaled = lines(&journal) as u64;

    let resumed = json(&admin(&put(&cluster, 1, folder.path())));
    assert_eq!(resumed["failed"]["count"], 0, "{resumed}");
    let (uploaded, unchanged) = (number(&resumed["uploaded"]), number(&resumed["unchanged"]));
    assert_eq!(uploaded + unchanged, files as u64, "{resumed}");
    assert_eq!(unchanged, journaled, "every whole line counts: {resumed}");

    cluster.wait_drained();
    let front = cluster.front.as_ref().unwrap().addr();
    let compared = json(&admin(&verify(front, &journal, folder.path())));
    assert_eq!(number(&compared["same"]), files as u64, "{compared}");
    assert_eq!(number(&compared["different"]["count"]), 0, "{compared}");

    // With one server of each shard gone, too.
    cluster.servers[0].kill();
    cluster.servers[3].kill();
    let compared = json(&admin(&verify(front, &journal, folder.path())));
    assert_eq!(number(&compared["same"]), files as u64, "{compared}");
}

#[test]
fn what_differs_is_found_through_nginx() {
    let cluster = ClusterBuilder::new().shard(&[Kind::Node; 2]).start();
    let folder = tempfile::tempdir().unwrap();
    for name in ["same", "changed"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let args = [put(&cluster, 0, folder.path()), vec!["--write".into(), "all".into()]].concat();
    assert_eq!(number(&json(&admin(&args))["uploaded"]), 2);
    fs::write(folder.path().join("changed"), "otherwise").unwrap();
    let journal = folder.path().join(".backpack-put.jsonl");
    let said = admin(&verify(cluster.front.as_ref().unwrap().addr(), &journal, folder.path()));
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let compared: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(compared["different"]["first"][0]["path"], "changed", "{compared}");
    assert_eq!(number(&compared["same"]), 1);
}

#[test]
fn misuse_exits_with_2() {
    for args in
        [vec!["put"], vec!["put", "https://h:1", "x"], vec!["put", "http://127.0.0.1:1", "/usr/share/doc"]]
    {
        let said = admin(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(said.status.code(), Some(2), "{args:?}: {said:?}");
    }
}

/// Copies of real files, with a few odd names among them.
fn tree() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for source in SOURCES {
        copy(Path::new(source), &folder.path().join(source.trim_start_matches('/')), FILES / SOURCES.len());
    }
    for name in ODD_NAMES {
        fs::write(folder.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(folder.path().join("empty"), "").unwrap();
    // Several chunks, and more than the coordinator keeps for a replay.
    fs::write(folder.path().join("big.bin"), vec![7; 3_000_000]).unwrap();
    folder
}

/// Copies at most `left` regular files.
fn copy(from: &Path, to: &Path, mut left: usize) {
    let mut folders: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        let entries: Vec<_> = match fs::read_dir(&from) {
            Ok(entries) => entries.collect::<io::Result<_>>().unwrap(),
            Err(_) => continue,
        };
        fs::create_dir_all(&to).unwrap();
        for entry in entries {
            let kind = entry.file_type().unwrap();
            let target = to.join(entry.file_name());
            if kind.is_dir() {
                folders.push((entry.path(), target));
            } else if kind.is_file() && left > 0 {
                fs::copy(entry.path(), target).unwrap();
                left -= 1;
            }
        }
        if left == 0 {
            return;
        }
    }
}

/// Regular files below a folder, without the journal.
fn count(folder: &Path) -> usize {
    let mut files = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() != ".backpack-put.jsonl" {
                files += 1;
            }
        }
    }
    files
}

fn put(cluster: &Cluster, coordinator: usize, folder: &Path) -> Vec<String> {
    let url = format!("http://{}", cluster.coordinators[coordinator].addr());
    ["put", &url, folder.to_str().unwrap(), "--recursive", "--json"].map(str::to_owned).into()
}

fn verify(addr: &str, journal: &Path, folder: &Path) -> Vec<String> {
    let url = format!("http://{addr}");
    ["verify", &url, journal.to_str().unwrap(), folder.to_str().unwrap(), "--json"].map(str::to_owned).into()
}

fn admin(args: &[String]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// What a command that must succeed printed.
fn json(said: &Output) -> Value {
    assert!(said.status.success(), "{said:?}");
    serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn lines(journal: &Path) -> usize {
    fs::read(journal).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}
