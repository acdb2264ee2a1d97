//! A node with blobs of every kind, and the commands.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

pub use crate::support::files::copy;
use crate::support::{
    daemon::Daemon,
    http::Request,
    port::free_port,
    wait::{START_WITHIN, wait_until},
};

const NODE: &str = env!("CARGO_BIN_EXE_backpack-node");
pub const ADMIN: &str = env!("CARGO_BIN_EXE_backpack-admin");

/// Blobs beyond this get a file of their own, and volumes hold little, so that there are several of them.
const SIZES: [&str; 4] = ["--small-blob-size", "100kb", "--volume-size", "164kb"];

/// A node and its directory.
pub struct Node {
    // Dropped first: it must not lose its directory while it runs.
    pub process: Daemon,
    pub addr: String,
    home: TempDir,
}

impl Node {
    /// A new one, with more arguments.
    pub fn start(more: &[&str]) -> Self {
        Self::start_again(tempfile::tempdir().unwrap(), more)
    }

    /// One on what [`Node::stop`] left.
    pub fn start_again(home: TempDir, more: &[&str]) -> Self {
        let dir = home.path().join("data").to_str().unwrap().to_owned();
        let port = free_port().to_string();
        let args = [&[dir.as_str(), "127.0.0.1", &port], &SIZES[..], more].concat();
        let process = Daemon::start(NODE, args);
        let addr = format!("127.0.0.1:{port}");
        process.wait_ready(&addr);
        Self { home, addr, process }
    }

    /// One that does not compact, with blobs of every kind, each more than once overwritten or deleted.
    pub fn loaded() -> Self {
        let node = Self::start(&["--compact-bytes-per-second", "0"]);
        for round in 0..3 {
            for n in 0..20 {
                node.put(&format!("/small/{n}"), body(n, round, 5_000));
            }
            node.put("/one-block/%20?and=more", body(1, round, 60_000));
            node.put("/long", body(2, round, 90_000));
            node.put("/whole", body(3, round, 300_000));
            node.delete("/small/7");
        }
        node.put("/empty", Vec::new());
        let meta = Request::put(&node.addr, "/with-meta", "x").header("Content-Type", "image/jpeg");
        assert_eq!(meta.send_blocking().unwrap().status, 201);
        // A file whose blob was replaced goes after the answer.
        wait_until("replaced files are gone", START_WITHIN, || whole_files(&node.dir()).len() == 1);
        node
    }

    pub fn put(&self, key: &str, body: Vec<u8>) {
        let reply = Request::put(&self.addr, key, body).send_blocking().unwrap();
        assert!(reply.status == 201 || reply.status == 204, "{key}: {reply:?}");
    }

    pub fn delete(&self, key: &str) {
        let reply = Request::new("DELETE", &self.addr, key).send_blocking().unwrap();
        assert_eq!(reply.status, 204, "{key}");
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Whether it holds what [`Node::loaded`] put last.
    pub fn check(&self) {
        let get = |key: &str| Request::get(&self.addr, key).send_blocking().unwrap();
        for n in (0..20).filter(|n| *n != 7) {
            assert!(get(&format!("/small/{n}")).body == body(n, 2, 5_000), "{n}");
        }
        assert!(get("/one-block/%20?and=more").body == body(1, 2, 60_000));
        assert!(get("/long").body == body(2, 2, 90_000) && get("/whole").body == body(3, 2, 300_000));
        assert_eq!((get("/small/7").status, get("/empty").status), (410, 200));
        assert_eq!(get("/with-meta").header("content-type"), Some("image/jpeg"));
    }

    /// Stops it properly; its directory stays.
    pub fn stop(self) -> (TempDir, PathBuf) {
        assert!(self.process.terminate(START_WITHIN).success());
        let dir = self.dir();
        (self.home, dir)
    }
}

pub fn body(n: usize, round: usize, length: usize) -> Vec<u8> {
    format!("{n}/{round};").into_bytes().into_iter().cycle().take(length).collect()
}

/// What a call came to.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Its lines of JSON.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// `backpack-admin volume <command> <dir> <more>`.
pub fn volume(command: &str, dir: &Path, more: &[&str]) -> Said {
    let mut call = Command::new(ADMIN);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BACKPACK_")) {
        call.env_remove(name);
    }
    let output = call.args(["volume", command]).arg(dir).args(more).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("commands print text");
    let code = output.status.code().expect("it ends by itself");
    Said { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A call that finds nothing wrong and has nothing to complain about.
#[track_caller]
pub fn ok(command: &str, dir: &Path, more: &[&str]) -> Said {
    let said = volume(command, dir, more);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{command} {more:?}: {said:?}");
    said
}

/// The last line of `verify --json`.
pub fn verified(said: &Said) -> Value {
    said.lines().pop().expect("verify prints its sums")["verified"].clone()
}

/// Everything under a folder: bytes, and when it was changed.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::metadata(&path).unwrap();
            let bytes = if found.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            all.insert(path, (bytes, found.mtime(), found.mtime_nsec()));
        }
    }
    all
}

/// The volumes of a directory, ascending.
pub fn volumes(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(dir.join("volumes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// The whole files of a directory.
pub fn whole_files(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir.join("blobs")).unwrap();
    let mut all: Vec<PathBuf> = folders
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    all.sort();
    all
}

/// The lines of `dump --json` about records of that key, the live one last.
pub fn records_of(dir: &Path, key: &str) -> Vec<Value> {
    ok("dump", dir, &["--json", "--key", key]).lines()
}
