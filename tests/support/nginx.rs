//! Real nginx servers: with any configuration, or as a WebDAV server that can be a member of a shard.

use std::{
    fs,
    net::TcpStream,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    port::free_port,
    process::{Process, Program, required},
    wait::START_WITHIN,
};

/// One nginx: a single process, without a master, so that a signal meets all of it, unless it is to have workers.
pub struct Nginx {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Deref for Nginx {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Nginx {
    /// Starts it with this configuration, which listens on `port` and names files relative to the prefix only (a folder of
    /// its own). It must not set `daemon` or `master_process`.
    pub fn start(port: u16, config: &str) -> Self {
        Self::launch(port, config, |nginx| nginx.args(["-g", "daemon off; master_process off;"]))
    }

    /// The same with a master and workers, as it is run where it has to be fast.
    pub fn start_with_workers(port: u16, config: &str) -> Self {
        Self::launch(port, config, |nginx| nginx.has_children().args(["-g", "daemon off;"]))
    }

    fn launch(port: u16, config: &str, run: impl FnOnce(Program) -> Program) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for nginx");
        fs::create_dir(folder.path().join("files")).expect("make nginx's folder of files");
        fs::write(folder.path().join("nginx.conf"), config).expect("write nginx's configuration");
        let program =
            Program::new(required("nginx", "nginx"), folder.path()).args(prefix_args(folder.path()));
        let server = Self { process: Process::start(run(program)), port, folder };
        server.wait_until_up();
        server
    }

    /// A server of blobs: PUT (201 new, 204 replaced), GET, HEAD, DELETE; no limit on size.
    pub fn webdav() -> Self {
        let port = free_port();
        Self::start(port, &WEBDAV.replace("PORT", &port.to_string()))
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where [`Nginx::webdav`] keeps its blobs.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// What was asked of [`Nginx::webdav`] since the start: `GET /key 200`.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("requests.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Starts it again on the same port and files, killing it first if it runs.
    pub fn restart(&self) {
        self.process.start_again();
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        self.process.wait_until_up(START_WITHIN, || TcpStream::connect(self.addr()).is_ok());
    }
}

/// Runs `nginx -t` on a configuration, with an empty folder as prefix; what it complains about, if it does.
pub fn check_config(config: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("make a folder for nginx");
    fs::write(folder.path().join("nginx.conf"), config).expect("write nginx's configuration");
    let command =
        Command::new(required("nginx", "nginx")).args(prefix_args(folder.path())).arg("-t").output();
    let output = command.expect("run nginx");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && !said.contains("[warn]") { Ok(()) } else { Err(said) }
}

fn prefix_args(folder: &Path) -> [String; 6] {
    let folder = folder.display();
    [
        "-p".into(),
        format!("{folder}/"),
        "-c".into(),
        format!("{folder}/nginx.conf"),
        "-e".into(),
        "stderr".into(),
    ]
}

const WEBDAV: &str = r#"
pid nginx.pid;
error_log stderr;
events {}
http {
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format request '$request_method $request_uri $status';
    access_log requests.log request;
    server {
        listen 127.0.0.1:PORT;
        root files;
        client_max_body_size 0;
        location / {
            dav_methods PUT DELETE;
            create_full_put_path on;
        }
    }
}
"#;
