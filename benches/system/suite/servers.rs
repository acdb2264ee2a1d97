//! What is measured: our own programs, and nginx as somebody would set it up who wants it fast.

use std::path::Path;

use tempfile::TempDir;

use crate::support::{
    daemon::{Daemon, Service},
    nginx::Nginx,
    port::free_port,
    process::Process,
};

/// A node, which belongs to no cluster.
pub struct Node {
    service: Service,
    // Dropped after the process.
    _data: Option<TempDir>,
}

impl Node {
    /// Starts an empty one; `sync` is its setting.
    pub fn start(sync: &str) -> Self {
        Self::with(&["--sync", sync])
    }

    /// Starts an empty one with these options.
    pub fn with(options: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("make a folder for a node");
        let node = Self::begin(data.path(), options);
        Self { _data: Some(data), ..node }
    }

    /// Starts one on what is in a folder.
    pub fn on(folder: &Path, sync: &str) -> Self {
        Self::begin(folder, &["--sync", sync])
    }

    fn begin(folder: &Path, options: &[&str]) -> Self {
        let (folder, port) = (folder.display().to_string(), free_port().to_string());
        let args = [&[folder.as_str(), "127.0.0.1", &port], options].concat();
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_backpack-node"), args);
        let service = Service::new(daemon, format!("127.0.0.1:{port}"));
        service.wait_ready();
        Self { service, _data: None }
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> &str {
        self.service.addr()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        self.service.daemon()
    }
}

/// nginx that takes uploads (WebDAV), and nothing else: its blobs are read from [`files`].
pub fn uploads() -> Nginx {
    start("", "root files; client_max_body_size 0; dav_methods PUT DELETE; create_full_put_path on;")
}

/// nginx that gives out the files of this folder.
pub fn files(folder: &Path) -> Nginx {
    start("", &format!("root {};\n{KEEP_OPEN}", folder.display()))
}

/// nginx that passes everything on to these, and goes to the next one where the first has no such file.
pub fn proxy(servers: &[Nginx]) -> Nginx {
    let servers: String = servers.iter().map(|server| format!("server {};\n", server.addr())).collect();
    start(
        &format!("upstream servers {{\n{servers}keepalive 64;\n}}\n"),
        "location / {\nproxy_pass http://servers;\nproxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
         proxy_next_upstream error timeout http_404;\n}\naccess_log access.log combined buffer=64k flush=5s;",
    )
}

fn start(before: &str, server: &str) -> Nginx {
    let port = free_port();
    // Started by root, its workers would be somebody who may not enter a temporary folder.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let config = format!(
        "{user}worker_processes auto;\nworker_rlimit_nofile 20000;\npid nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{FOLDERS}{FAST}{before}server {{ listen 127.0.0.1:{port};\n{server}\n}}\n}}\n"
    );
    Nginx::start_with_workers(port, &config)
}

/// Files and their lengths are looked up once.
const KEEP_OPEN: &str =
    "open_file_cache max=5000 inactive=600s;\nopen_file_cache_valid 600s;\nopen_file_cache_min_uses 1;";

const FOLDERS: &str = "client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
     uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n";

/// Connections last as long as the load; nothing is logged: a node does not do that either. (The
/// configuration that we ship has nginx log, so [`proxy`] does.)
const FAST: &str = "access_log off;\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 100000000;\n";
