//! nginx as readers meet it: with the configuration that `backpack-admin nginx-config` writes for a cluster.

use std::{fs, net::TcpStream};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    admin::Admin,
    daemon::Daemon,
    port::free_port,
    process::{Process, Program, required},
    wait::START_WITHIN,
};

/// A running front: a master and its workers, so that it can be reloaded.
pub struct Front {
    // Ended in this order: what reloads nginx, nginx, its folder.
    watch: Option<Daemon>,
    process: Process,
    addr: String,
    _folder: TempDir,
}

impl Front {
    /// Starts nginx with the configuration of the maps as they are now. With `watch` it is reloaded whenever they change.
    pub fn start(admin: &Admin, watch: bool) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for nginx");
        let prefix = folder.path().display().to_string();
        let addr = format!("127.0.0.1:{}", free_port());
        let config = format!("{prefix}/nginx.conf");
        admin.ok("nginx-config", ["--listen", &addr, "--output", &config]);
        let nginx = required("nginx", "nginx");
        let arguments = ["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"];
        let program =
            Program::new(&nginx, folder.path()).has_children().args(arguments).args(["-g", "daemon off;"]);
        let process = Process::start(program);
        process.wait_until_up(START_WITHIN, || TcpStream::connect(&addr).is_ok());
        let watch = watch.then(|| {
            let reload = format!("{} {} -s reload", nginx.display(), arguments.join(" "));
            admin
                .start("nginx-config", ["--listen", &addr, "--output", &config, "--watch", "--exec", &reload])
        });
        Self { watch, process, addr, _folder: folder }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// SIGKILL to the master and to its workers, so that nobody is left who serves on.
    pub fn kill(&self) {
        // A master that stands still starts no new workers.
        self.process.stop();
        for worker in self.workers() {
            // It may have ended by itself; its pid stays its own until its parent, which stands still, has waited for it.
            let _ = kill_process(worker, Signal::KILL);
        }
        self.process.kill();
    }

    /// Starts it again with the configuration as it is now, after [`Front::kill`] or its end.
    pub fn restart(&self) {
        self.process.start_again();
        self.process.wait_until_up(START_WITHIN, || TcpStream::connect(&self.addr).is_ok());
    }

    /// Its master.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn workers(&self) -> Vec<Pid> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// What it complained about.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What reloads it.
    pub fn watch(&self) -> Option<&Daemon> {
        self.watch.as_ref()
    }

    /// Its configuration as it stands on disk.
    pub fn config(&self) -> String {
        fs::read_to_string(self._folder.path().join("nginx.conf")).unwrap_or_default()
    }
}
