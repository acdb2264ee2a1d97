//! One of our own programs as a process.

use std::{ops::Deref, path::Path, time::Duration};

use tempfile::TempDir;

use super::{
    http::Request,
    process::{Process, Program},
    wait::{START_WITHIN, wait_for},
};

/// A probe that takes longer counts as "not ready" and is sent again.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// A running program of ours. `program` is `env!("CARGO_BIN_EXE_backpack-node")`, which only a test crate itself can name.
pub struct Daemon {
    process: Process,
    // Dropped after the process, which writes its log there.
    _folder: TempDir,
}

impl Deref for Daemon {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Daemon {
    /// Starts it in an empty folder. Returns at once: wait with [`Daemon::wait_ready`] or [`Daemon::wait_for_line`].
    pub fn start<S: ToString>(program: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self::start_with_env(program, args, &[])
    }

    /// The same with environment variables.
    pub fn start_with_env<S: ToString>(
        program: &str,
        args: impl IntoIterator<Item = S>,
        envs: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for a program");
        let program = Program::new(Path::new(program), folder.path()).args(args);
        let program = envs.iter().fold(program, |program, (name, value)| program.env(name, value));
        Self { process: Process::start(program), _folder: folder }
    }

    /// Waits until `GET /-/ready` at `addr` (`127.0.0.1:port`) answers 200.
    pub fn wait_ready(&self, addr: &str) {
        self.process.wait_until_up(START_WITHIN, || {
            let reply = Request::get(addr, "/-/ready").within(PROBE_WITHIN).send_blocking();
            reply.is_ok_and(|reply| reply.status == 200)
        });
    }

    /// Waits until a line of its log contains this text, and gives the line.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> String {
        wait_for(&format!("a line of the log contains {text:?}"), within, || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Starts it again with the same arguments and data, killing it first if it runs. Returns at once.
    pub fn restart(&self) {
        self.process.start_again();
    }
}

/// One of our own programs that answers HTTP.
pub struct Service {
    daemon: Daemon,
    addr: String,
}

impl Service {
    /// `daemon` was told to listen at `addr` (`127.0.0.1:port`).
    pub fn new(daemon: Daemon, addr: String) -> Self {
        Self { daemon, addr }
    }

    /// Where it listens.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its process.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        self.daemon.wait_ready(&self.addr);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.daemon.kill();
    }

    /// Starts it again with the same arguments and data, and waits until it is ready.
    pub fn restart(&self) {
        self.daemon.restart();
        self.wait_ready();
    }
}
