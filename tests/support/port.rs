//! Free TCP ports on loopback, each given to one test only.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{LazyLock, Mutex},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below the range from which the kernel takes the ports of outgoing connections (32768 and up), so that a port stays
/// free while its server is restarted.
const PORTS: Range<u16> = 20_000..32_000;

/// Locks of the ports this process has taken; held until it ends, so that tests that run side by side, in this process
/// or in another, never get the same one. A lock is an abstract socket: it leaves no file behind.
static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Each lock is an open file, and a program of many hundred tests has thousands of them.
static ROOM_FOR_LOCKS: LazyLock<()> = LazyLock::new(|| {
    let limit = getrlimit(Resource::Nofile);
    // Where the system says no, it is as before.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
});

/// A port on 127.0.0.1 that nobody listens on and that no test was given before, in this process, or in another one that runs.
pub fn free_port() -> u16 {
    free_ports(&[0])
}

/// A base for ports at these distances above it, each of them free as with [`free_port`].
pub fn free_ports(distances: &[u16]) -> u16 {
    let farthest = distances.iter().max().expect("at least one port is wanted");
    let bases = PORTS.start..PORTS.end - farthest;
    LazyLock::force(&ROOM_FOR_LOCKS);
    for _ in 0..PORTS.len() {
        let base = fastrand::u16(bases.clone());
        let locks: Option<Vec<UnixListener>> =
            distances.iter().map(|distance| take(base + distance)).collect();
        if let Some(locks) = locks {
            TAKEN.lock().unwrap().extend(locks);
            return base;
        }
    }
    panic!("no free ports in {PORTS:?}");
}

/// The lock of a port, if the port is free.
fn take(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("backpack-test-port-{port}")).expect("a short name");
    let lock = UnixListener::bind_addr(&name).ok()?;
    // Asked by connecting: what listens for a moment would be inherited by a program that another test starts just then, until
    // that has its own.
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err_and(refused).then_some(lock)
}
