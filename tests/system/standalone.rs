//! The one-machine system as a new user runs it: the real program, its folder, `kill -9`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::support::{
    daemon::Daemon,
    http::Request,
    port::{free_port, free_ports},
    wait::wait_until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_backpack");
const WITHIN: Duration = Duration::from_secs(60);

struct System {
    daemon: Daemon,
    addr: String,
    nodes: Vec<String>,
    dir: tempfile::TempDir,
}

impl System {
    /// Starts, its nodes on the ports that they have where nobody chooses others.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_ports(&[0, 100, 101]);
        let addr = format!("127.0.0.1:{port}");
        let data = dir.path().join("data").display().to_string();
        let daemon = Daemon::start(PROGRAM, ["--data", &data, "--listen", &addr]);
        daemon.wait_ready(&addr);
        let nodes = vec![format!("127.0.0.1:{}", port + 100), format!("127.0.0.1:{}", port + 101)];
        Self { daemon, addr, nodes, dir }
    }
}

fn body(n: usize) -> Vec<u8> {
    let length = [0, 17, 900, 40_000, 300_000][n % 5];
    (0..length).map(|i| ((i + n) % 251) as u8).collect()
}

#[test]
fn one_command_stores_and_reads_and_makes_the_second_copy() {
    let system = System::start();
    let said = system.daemon.wait_for_line("curl -T hello.txt", WITHIN);
    assert!(said.contains(&system.addr), "{said}");
    let put = Request::put(&system.addr, "/hi.txt", b"hello".to_vec()).send_blocking().unwrap();
    assert_eq!((put.status, put.text().as_str()), (200, "{\"shard_id\":\"1\"}\n"));
    let get = Request::get(&system.addr, "/1:hi.txt").send_blocking().unwrap();
    assert_eq!((get.status, get.body.as_slice()), (200, b"hello".as_slice()));
    for node in &system.nodes {
        wait_until("the copy is made", WITHIN, || {
            Request::get(node, "/hi.txt").send_blocking().is_ok_and(|reply| reply.body == b"hello")
        });
    }
    let status = system.daemon.terminate(WITHIN);
    assert!(status.success(), "{status}: {}", system.daemon.log());
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let system = System::start();
    for round in 0..2 {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (addr, stop, count) = (system.addr.clone(), stop.clone(), acknowledged.clone());
                std::thread::spawn(move || {
                    let mut done = Vec::new();
                    for n in 0..2000 {
                        if stop.load(Relaxed) {
                            break;
                        }
                        let key = format!("r{round}/w{writer}/{n}");
                        let put = Request::put(&addr, &format!("/{key}"), body(n)).send_blocking();
                        if put.is_ok_and(|reply| reply.status == 200) {
                            done.push((key, n));
                            count.fetch_add(1, Relaxed);
                        }
                    }
                    done
                })
            })
            .collect();
        wait_until("some uploads are acknowledged", WITHIN, || acknowledged.load(Relaxed) >= 60);
        system.daemon.kill();
        stop.store(true, Relaxed);
        let done: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        system.daemon.restart();
        system.daemon.wait_ready(&system.addr);
        for (key, n) in &done {
            let get = Request::get(&system.addr, &format!("/1:{key}")).send_blocking().unwrap();
            assert_eq!((get.status, get.body), (200, body(*n)), "{key}");
            for node in &system.nodes {
                wait_until("every copy is made", 3 * WITHIN, || {
                    let reply = Request::get(node, &format!("/{key}")).send_blocking();
                    reply.is_ok_and(|reply| reply.status == 200 && reply.body == body(*n))
                });
            }
        }
        assert!(done.len() >= 60);
    }
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let system = System::start();
    let port = free_port();
    let data = system.dir.path().join("data").display().to_string();
    let second = Daemon::start(PROGRAM, ["--data", &data, "--listen", &format!("127.0.0.1:{port}")]);
    let status = second.wait_for_end(WITHIN);
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(second.log().contains("node 1"), "{}", second.log());
    let put = Request::put(&system.addr, "/still", b"here".to_vec()).send_blocking().unwrap();
    assert_eq!(put.status, 200);
    let same_ports = Daemon::start(PROGRAM, ["--data", &data, "--listen", &system.addr]);
    assert_eq!(same_ports.wait_for_end(WITHIN).code(), Some(1));
    assert!(same_ports.log().contains("--listen chooses other ports"), "{}", same_ports.log());
}

#[test]
fn the_number_of_nodes_is_the_folders() {
    let system = System::start();
    system.daemon.terminate(WITHIN);
    let data = system.dir.path().join("data").display().to_string();
    let other = Daemon::start(PROGRAM, ["--data", &data, "--listen", &system.addr, "--nodes", "3"]);
    assert_eq!(other.wait_for_end(WITHIN).code(), Some(1));
    assert!(other.log().contains("was made with 2 nodes"), "{}", other.log());
}

#[test]
fn misuse_is_told_from_failure() {
    for (args, code) in [
        (vec!["--no-such-flag"], 2),
        (vec!["--listen", "nowhere"], 2),
        (vec!["--nodes", "0"], 2),
        (vec!["--log", "=="], 2),
        (vec!["--data", "/proc/none"], 1),
    ] {
        let ended = Daemon::start(PROGRAM, args.clone());
        let status = ended.wait_for_end(WITHIN);
        assert_eq!(status.code(), Some(code), "{args:?}: {}", ended.log());
        assert!(!ended.log().contains("panicked"), "{}", ended.log());
    }
}
