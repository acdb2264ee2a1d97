//! `backpack-admin` as its users call it: the real program against real ZooKeeper and Redis, and against the embedded parts
//! of a system that runs.

mod bench;
mod embedded;
mod nginx_config;
mod old_names;
mod queue;
mod refusals;
mod servers;
mod trouble;
mod walkthrough;

use std::{
    collections::BTreeMap,
    process::{Command, Output},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use backpack::cluster::{self, StoreOptions};

use crate::support::zookeeper::ZooKeeper;

/// The program.
pub const ADMIN: &str = env!("CARGO_BIN_EXE_backpack-admin");

/// One ZooKeeper for all tests that do not break it; each has a root of its own.
static ZOOKEEPER: LazyLock<ZooKeeper> = LazyLock::new(ZooKeeper::start);

/// A cluster that commands are called on.
pub struct Cluster {
    /// The first argument of commands.
    pub zk: String,
    /// The second.
    pub root: String,
    envs: Vec<(String, String)>,
}

impl Cluster {
    /// A root of its own in the shared ZooKeeper, where nothing is yet.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::at(&ZOOKEEPER.addr(), &format!("/tests/{number}"))
    }

    /// Any place.
    pub fn at(zk: &str, root: &str) -> Self {
        Self { zk: zk.to_owned(), root: root.to_owned(), envs: Vec::new() }
    }

    /// The same cluster, seen by a program with this environment variable.
    pub fn env(&self, name: &str, value: &str) -> Self {
        let envs = self.envs.iter().cloned().chain([(name.to_owned(), value.to_owned())]);
        Self { zk: self.zk.clone(), root: self.root.clone(), envs: envs.collect() }
    }

    /// Calls a command (`queue stats`) with what follows the first two arguments.
    pub fn call(&self, command: &str, rest: &str) -> Said {
        call(ADMIN, &[command, &self.zk, &self.root, rest].join(" "), &self.envs)
    }

    /// Calls a command that must succeed; what it said.
    #[track_caller]
    pub fn ok(&self, command: &str, rest: &str) -> String {
        let said = self.call(command, rest);
        assert_eq!(said.code, 0, "{command} {rest}: {said:?}");
        assert_eq!(said.stderr, "", "{command} {rest}");
        said.stdout
    }

    /// Calls a command that must succeed, for its JSON.
    #[track_caller]
    pub fn json(&self, command: &str, rest: &str) -> serde_json::Value {
        let stdout = self.ok(command, &format!("{rest} --json"));
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{command} {rest}: {error}: {stdout}"))
    }

    /// Calls a command that must fail with this exit code; what it complained about. It must print nothing on stdout.
    #[track_caller]
    pub fn refused(&self, code: i32, command: &str, rest: &str) -> String {
        let said = self.call(command, rest);
        assert_eq!(said.code, code, "{command} {rest}: {said:?}");
        assert_eq!(said.stdout, "", "{command} {rest}");
        said.stderr
    }

    /// Sets up as the README does, with this queue: servers 1 to 6, shards 1 to 3, the first one enabled.
    pub fn set_up(&self, redis: &str) {
        self.ok("coordinator-init", &format!("backpack-queue {redis}"));
        for id in 1..=6 {
            self.ok("add-server", &format!("{id} http://127.0.0.1:1000{id}"));
        }
        for (shard, servers) in [(1, "1,4"), (2, "2,5"), (3, "3,6")] {
            self.ok("add-shard", &format!("{shard} {servers} 100gb"));
        }
        self.ok("enable-shard", "1");
    }

    /// Every document of the map with its version, read past the program.
    pub fn documents(&self) -> BTreeMap<String, (String, i32)> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = cluster::connect(&self.zk, &self.root, &StoreOptions::default()).unwrap();
            let mut found = BTreeMap::new();
            for name in store.children("/").await.unwrap() {
                let path = format!("/{name}");
                let entry = store.get(&path).await.unwrap().unwrap();
                found.insert(path, (String::from_utf8(entry.data.to_vec()).unwrap(), entry.version));
            }
            found
        })
    }

    /// One document, as JSON.
    #[track_caller]
    pub fn document(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.documents()[path].0).unwrap()
    }
}

/// What a call of a program came to.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Calls a program with arguments that are set apart by blanks, and with nothing of our own environment that it reads. It
/// logs errors only: on a busy machine a ZooKeeper that answers late is worth a warning, and that is not what is looked at.
pub fn call(program: &str, args: &str, envs: &[(String, String)]) -> Said {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BACKPACK_")) {
        command.env_remove(name);
    }
    command.env("BACKPACK_LOG", "error");
    command.envs(envs.iter().map(|(name, value)| (name, value)));
    said(command.args(args.split_whitespace()).output().expect("run the program"))
}

fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("programs print text");
    Said {
        code: output.status.code().expect("ended by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}
