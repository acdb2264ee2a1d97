//! `backpack-admin` as an operator runs it.

use std::{path::Path, process::Command};

use super::daemon::Daemon;

/// The commands of one cluster.
#[derive(Clone)]
pub struct Admin {
    zk_servers: String,
    root: String,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output, without the last newline.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The program itself.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_backpack-admin");

impl Admin {
    /// Commands for the cluster at `root` of these ZooKeeper servers.
    pub fn new(zk_servers: &str, root: &str) -> Self {
        Self { zk_servers: zk_servers.to_owned(), root: root.to_owned() }
    }

    /// Runs `backpack-admin <command> <zk_servers> <root> <rest>`; the command may have two words (`queue dead`).
    pub fn run<S: AsRef<str>>(&self, command: &str, rest: impl IntoIterator<Item = S>) -> Said {
        run(Command::new(PROGRAM).args(command.split(' ')).args(self.arguments(rest)))
    }

    /// Runs a link to the program, whose name is the command.
    pub fn run_link<S: AsRef<str>>(&self, link: &Path, rest: impl IntoIterator<Item = S>) -> Said {
        run(Command::new(link).args(self.arguments(rest)))
    }

    /// Runs a command that must succeed; what it printed.
    pub fn ok<S: AsRef<str>>(&self, command: &str, rest: impl IntoIterator<Item = S>) -> String {
        let said = self.run(command, rest);
        assert_eq!(said.code, 0, "backpack-admin {command}: {said:?}");
        said.stdout
    }

    /// Starts a command that goes on until it is ended.
    pub fn start<S: AsRef<str>>(&self, command: &str, rest: impl IntoIterator<Item = S>) -> Daemon {
        Daemon::start(PROGRAM, [command.to_owned()].into_iter().chain(self.arguments(rest)))
    }

    fn arguments<S: AsRef<str>>(&self, rest: impl IntoIterator<Item = S>) -> Vec<String> {
        let rest = rest.into_iter().map(|argument| argument.as_ref().to_owned());
        [self.zk_servers.clone(), self.root.clone()].into_iter().chain(rest).collect()
    }
}

fn run(command: &mut Command) -> Said {
    let output = command.output().expect("start a program of ours");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
