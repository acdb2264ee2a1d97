//! Real Redis servers.

use std::{fs, ops::Deref};

use tempfile::TempDir;

use super::{
    http,
    port::free_port,
    process::{Process, Program, required},
    tls::Certificates,
    wait::START_WITHIN,
};

/// How a Redis server is started.
#[derive(Default)]
pub struct RedisOptions<'a> {
    /// Keep the data over restarts: every write is fsynced before it is answered.
    pub appendonly: bool,
    /// Ask for this password.
    pub password: Option<&'a str>,
    /// Speak only TLS, with this server certificate.
    pub tls: Option<&'a Certificates>,
}

/// One Redis server.
pub struct Redis {
    process: Process,
    port: u16,
    // Dropped after the process, which writes there.
    _folder: TempDir,
}

impl Deref for Redis {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Redis {
    /// A server that forgets everything when it ends.
    pub fn start() -> Self {
        Self::start_with(&RedisOptions::default())
    }

    /// A server with options.
    pub fn start_with(options: &RedisOptions<'_>) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for Redis");
        let port = free_port();
        fs::write(folder.path().join("redis.conf"), config(port, options))
            .expect("write Redis's configuration");
        let program =
            Program::new(required("redis-server", "redis-server"), folder.path()).args(["redis.conf"]);
        let server = Self { process: Process::start(program), port, _folder: folder };
        server.wait_until_up();
        server
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again on the same port (empty, unless `appendonly`), killing it first if it runs.
    pub fn restart(&self) {
        self.process.start_again();
        self.wait_until_up();
    }

    /// Sends one command of plain words and gives the reply as it came (`+OK`, `:3`, ...). Not over TLS.
    pub fn command(&self, line: &str) -> String {
        let sent = format!("{line}\r\nQUIT\r\n");
        let reply = http::exchange(&self.addr(), sent.as_bytes(), START_WITHIN);
        String::from_utf8_lossy(&reply.expect("Redis answers")).into_owned()
    }

    fn wait_until_up(&self) {
        self.process
            .wait_until_up(START_WITHIN, || self.process.log().contains("Ready to accept connections"));
    }
}

fn config(port: u16, options: &RedisOptions<'_>) -> String {
    let mut text = String::from("bind 127.0.0.1\nsave \"\"\ndir .\n");
    text += if options.appendonly { "appendonly yes\nappendfsync always\n" } else { "appendonly no\n" };
    if let Some(password) = options.password {
        text += &format!("requirepass {password}\n");
    }
    text += &match options.tls {
        None => format!("port {port}\n"),
        Some(certificates) => format!(
            "port 0\ntls-port {port}\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n",
            certificates.server_certificate().display(),
            certificates.server_key().display(),
            certificates.ca().display(),
        ),
    };
    text
}
