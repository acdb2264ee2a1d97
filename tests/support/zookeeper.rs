//! Real ZooKeeper servers, alone or three together.

use std::{fs, net::TcpStream, ops::Deref, path::Path};

use tempfile::TempDir;

use super::{
    http,
    port::free_port,
    process::{Process, Program, required},
    tls::Certificates,
    wait::START_WITHIN,
};

/// Where Debian's package `libzookeeper-java` and those it depends on put their jars.
const JARS: &str = "/usr/share/java";

/// Beside what the manifest of `zookeeper.jar` names: what TLS needs of netty, and a logger that writes to stderr.
const EXTRA_JARS: [&str; 7] = [
    "netty-codec",
    "netty-buffer",
    "netty-common",
    "netty-handler",
    "netty-transport",
    "netty-resolver",
    "slf4j-simple",
];

/// One ZooKeeper server. Sessions may be as short as half a second.
pub struct ZooKeeper {
    process: Process,
    port: u16,
    tls_port: Option<u16>,
    // Dropped after the process, which writes there.
    _folder: TempDir,
}

impl Deref for ZooKeeper {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl ZooKeeper {
    /// A server of its own, empty.
    pub fn start() -> Self {
        let server = Self::launch(free_port(), None, "");
        server.wait_until_serving();
        server
    }

    /// The same, which takes TLS on a second port ([`ZooKeeper::tls_addr`]). With `client_certificates` it refuses
    /// whoever brings none.
    pub fn start_tls(certificates: &Certificates, client_certificates: bool) -> Self {
        let tls_port = free_port();
        let bundle = certificates.server_bundle();
        let ca = certificates.ca();
        let client_auth = if client_certificates { "need" } else { "none" };
        let extra = format!(
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             secureClientPort={tls_port}\nsecureClientPortAddress=127.0.0.1\n\
             ssl.keyStore.location={}\nssl.trustStore.location={}\nssl.clientAuth={client_auth}\n",
            bundle.display(),
            ca.display(),
        );
        let server = Self::launch(free_port(), Some(tls_port), &extra);
        server.wait_until_serving();
        // It opens this port after the other.
        server.process.wait_until_up(START_WITHIN, || TcpStream::connect(server.tls_addr()).is_ok());
        server
    }

    /// `127.0.0.1:port`, the connect string.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:port` of the TLS port. Panics on a server without.
    pub fn tls_addr(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port.expect("started with start_tls"))
    }

    /// Starts it again on the same port and data, killing it first if it runs, and waits until it serves.
    pub fn restart(&self) {
        self.process.start_again();
        self.wait_until_serving();
    }

    /// The answer to a four-letter command (`srvr`, `cons`, `dump`, `wchp`); empty when the server does not answer.
    pub fn four_letters(&self, command: &str) -> String {
        let answer = http::exchange(&self.addr(), command.as_bytes(), std::time::Duration::from_secs(20));
        String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned()
    }

    fn wait_until_serving(&self) {
        self.process.wait_until_up(START_WITHIN, || self.four_letters("srvr").contains("Mode: "));
    }

    fn launch(port: u16, tls_port: Option<u16>, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for ZooKeeper");
        let config = format!(
            "dataDir={data}\nclientPort={port}\nclientPortAddress=127.0.0.1\n{COMMON}{extra}",
            data = folder.path().join("data").display(),
        );
        Self { process: launch(folder.path(), &config, None), port, tls_port, _folder: folder }
    }
}

/// - half-second ticks, and sessions from one tick to a minute, so that tests of lost sessions are quick
/// - 64 KiB of log at a time instead of 64 MiB: a test's data is tiny
const COMMON: &str = "tickTime=500\nminSessionTimeout=500\nmaxSessionTimeout=600000\nmaxClientCnxns=0\npreAllocSize=64\n\
     admin.enableServer=false\n4lw.commands.whitelist=*\nextendedTypesEnabled=true\n";

fn launch(folder: &Path, config: &str, id: Option<usize>) -> Process {
    let jar = Path::new(JARS).join("zookeeper.jar");
    assert!(
        jar.is_file(),
        "ZooKeeper is not installed: run `make setup`, or install Debian's package libzookeeper-java"
    );
    let data = folder.join("data");
    fs::create_dir_all(&data).expect("make ZooKeeper's data folder");
    if let Some(id) = id {
        fs::write(data.join("myid"), id.to_string()).expect("write ZooKeeper's id");
    }
    fs::write(folder.join("zoo.cfg"), config).expect("write ZooKeeper's configuration");
    let jars = EXTRA_JARS.map(|name| format!("{JARS}/{name}.jar")).join(":");
    let class_path = format!("{}:{jars}", jar.display());
    let java = required("java", "default-jre-headless");
    Process::start(
        Program::new(java, folder)
            // The quickest start and the fewest threads; and no fsync, which only a power cut would need.
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no"])
            .args(["-cp", &class_path, "org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]),
    )
}

/// Three ZooKeeper servers that elect a leader.
pub struct ZooKeeperEnsemble {
    /// The servers, in the order of their ids.
    pub servers: Vec<ZooKeeper>,
}

impl ZooKeeperEnsemble {
    /// Starts three and waits until all of them serve.
    pub fn start() -> Self {
        let ports: Vec<[u16; 3]> = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let mut members = String::from("initLimit=40\nsyncLimit=20\n");
        for (index, [client, peer, election]) in ports.iter().enumerate() {
            let id = index + 1;
            members += &format!("server.{id}=127.0.0.1:{peer}:{election};127.0.0.1:{client}\n");
        }
        let start = |(index, [port, ..]): (usize, &[u16; 3])| {
            let folder = tempfile::tempdir().expect("make a folder for ZooKeeper");
            let config = format!("dataDir={}\n{COMMON}{members}", folder.path().join("data").display());
            let process = launch(folder.path(), &config, Some(index + 1));
            ZooKeeper { process, port: *port, tls_port: None, _folder: folder }
        };
        let servers: Vec<_> = ports.iter().enumerate().map(start).collect();
        servers.iter().for_each(ZooKeeper::wait_until_serving);
        Self { servers }
    }

    /// `127.0.0.1:a,127.0.0.1:b,127.0.0.1:c`, the connect string.
    pub fn addrs(&self) -> String {
        self.servers.iter().map(ZooKeeper::addr).collect::<Vec<_>>().join(",")
    }

    /// The server that leads now.
    pub fn leader(&self) -> &ZooKeeper {
        super::wait::wait_for("a leader is elected", START_WITHIN, || {
            self.servers.iter().find(|server| server.four_letters("srvr").contains("Mode: leader"))
        })
    }
}
