//! The real program on a real directory: `kill -9` under load loses nothing that was acknowledged, a stop finishes what
//! is in flight, misuse is told apart from failure.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    thread,
};

use crate::{
    storage_compaction::metric,
    support::{
        daemon::Daemon,
        http::{Reply, Request},
        port::free_port,
        wait::{START_WITHIN, wait_until},
        writers::Writers,
        zookeeper::ZooKeeper,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_backpack-node");
/// Bigger blobs get a file of their own, so that both kinds are written.
const SMALL: &str = "64kb";
const BIGGEST: usize = 150_000;
const WRITERS: usize = 16;
const KEYS_PER_WRITER: usize = 40;
const ROUNDS: usize = 3;
/// Writes acknowledged in a round before the node is killed.
const ACKNOWLEDGED: usize = 300;

fn start(dir: &Path, port: u16) -> (Daemon, String) {
    let dir = dir.to_str().unwrap();
    let node = Daemon::start(PROGRAM, [dir, "127.0.0.1", &port.to_string(), "--small-blob-size", SMALL]);
    let addr = format!("127.0.0.1:{port}");
    node.wait_ready(&addr);
    (node, addr)
}

fn bytes(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    // Most blobs are small; one in ten is of any size.
    let length = if random.u8(..10) == 0 { random.usize(..BIGGEST) } else { random.usize(..4_000) };
    (0..length).map(|_| random.u8(..)).collect()
}

fn read(addr: &str, key: &str) -> Reply {
    Request::get(addr, key).send_blocking().unwrap()
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (node, addr) = start(dir.path(), free_port());
    let writers = Writers::new(WRITERS, KEYS_PER_WRITER, bytes);
    for _ in 0..ROUNDS {
        writers.write_until_killed(&node, &addr, ACKNOWLEDGED, || true);
        node.restart();
        node.wait_ready(&addr);
        writers.check(&addr);
    }
    let stats: serde_json::Value = serde_json::from_str(&read(&addr, "/stats").text()).unwrap();
    assert_eq!((&stats["blobs"], &stats["damaged"]), (&writers.blobs().len().into(), &0.into()));
}

#[test]
fn a_stop_finishes_uploads_and_the_next_start_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let (node, addr) = start(dir.path(), free_port());
    let mut client = TcpStream::connect(&addr).unwrap();
    client.set_read_timeout(Some(START_WITHIN)).unwrap();
    let head = "PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    client.read_exact(&mut [0; 25]).unwrap();
    let ended = thread::scope(|scope| {
        let ended = scope.spawn(|| node.terminate(START_WITHIN));
        wait_until("nobody is let in", START_WITHIN, || TcpStream::connect(&addr).is_err());
        client.write_all(b"helloworld").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        ended.join().unwrap()
    });
    assert!(ended.success(), "{ended}");
    node.restart();
    node.wait_ready(&addr);
    assert_eq!(read(&addr, "/k").text(), "helloworld");
}

#[test]
fn with_several_disks_a_lost_one_loses_only_its_blobs() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (port, disks) = (free_port(), ["a", "b", "c"].map(path));
    let [first, second, third] = &disks;
    let args = [first, "127.0.0.1", &port.to_string(), "--disk", second, "--disk", third];
    let (node, addr) = (Daemon::start(PROGRAM, args), format!("127.0.0.1:{port}"));
    node.wait_ready(&addr);
    let keys: Vec<String> = (0..60).map(|n| format!("/k{n}")).collect();
    for key in &keys {
        assert_eq!(Request::put(&addr, key, key.clone()).send_blocking().unwrap().status, 201);
    }
    let statuses = || -> Vec<u16> { keys.iter().map(|key| read(&addr, key).status).collect() };
    let failed_disks = || {
        let stats: serde_json::Value = serde_json::from_str(&read(&addr, "/stats").text()).unwrap();
        stats["failed_disks"].as_u64().unwrap()
    };
    node.kill();
    // Its mount point is what is left.
    std::fs::rename(second, path("away")).unwrap();
    std::fs::create_dir(second).unwrap();
    node.restart();
    node.wait_ready(&addr);
    let found = statuses();
    let lost = found.iter().filter(|status| **status == 503).count();
    assert!(
        lost > 0 && found.iter().filter(|status| **status == 200).count() == keys.len() - lost,
        "{found:?}"
    );
    assert_eq!(failed_disks(), 1);
    node.kill();
    std::fs::remove_dir(second).expect("nothing was put where the disk belongs");
    std::fs::rename(path("away"), second).unwrap();
    node.restart();
    node.wait_ready(&addr);
    assert!(statuses().iter().all(|status| *status == 200));
    assert_eq!(failed_disks(), 0);
}

#[test]
fn an_empty_mount_is_not_taken_for_the_node() {
    let (home, zookeeper) = (tempfile::tempdir().unwrap(), ZooKeeper::start());
    let (dir, away) = (home.path().join("data"), home.path().join("away"));
    let (port, zk) = (free_port(), zookeeper.addr());
    let addr = format!("127.0.0.1:{port}");
    let args = |more: &[&str]| {
        let own = [dir.to_str().unwrap(), "127.0.0.1", &port.to_string()].map(str::to_owned);
        let place = ["--id", "1", "--zk", &zk, "--root", "/backpack"].map(str::to_owned);
        own.into_iter().chain(place).chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let admin = Command::new(env!("CARGO_BIN_EXE_backpack-admin"))
        .args(["coordinator-init", &zk, "/backpack", "q", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert!(admin.status.success(), "{admin:?}");
    let node = Daemon::start(PROGRAM, args(&[]));
    node.wait_ready(&addr);
    assert_eq!(Request::put(&addr, "/k", "kept").send_blocking().unwrap().status, 201);
    node.kill();

    std::fs::rename(&dir, &away).unwrap();
    let refused = Daemon::start(PROGRAM, args(&[]));
    assert_eq!(refused.wait_for_end(START_WITHIN).code(), Some(1));
    assert!(refused.log().contains("is the right disk mounted?"), "{}", refused.log());
    std::fs::remove_dir_all(&dir).unwrap();
    // While ZooKeeper cannot be asked, an empty storage waits; one with blobs does not.
    zookeeper.kill();
    let waiting = Daemon::start(PROGRAM, args(&[]));
    waiting.wait_for_line("the storage is empty", START_WITHIN);
    assert!(TcpStream::connect(&addr).is_err(), "nobody is let in");
    zookeeper.restart();
    assert_eq!(waiting.wait_for_end(START_WITHIN).code(), Some(1));
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&away, &dir).unwrap();
    zookeeper.kill();
    node.restart();
    wait_until("it serves", START_WITHIN, || Request::get(&addr, "/k").send_blocking().is_ok());
    assert_eq!(read(&addr, "/k").text(), "kept");
    zookeeper.restart();
    node.wait_ready(&addr);
    node.kill();

    // The disk is gone for good.
    std::fs::remove_dir_all(&dir).unwrap();
    let replaced = Daemon::start(PROGRAM, args(&["--replace-storage"]));
    replaced.wait_ready(&addr);
    assert_eq!(read(&addr, "/k").status, 404);
    replaced.kill();
    node.restart();
    node.wait_ready(&addr);
}

#[test]
fn misuse_exits_2_and_failure_1() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    for (args, code, said) in [
        (vec![], 2, "<LISTEN_HOST>"),
        (vec![dir, "127.0.0.1"], 2, "<LISTEN_PORT>"),
        (vec![dir, "127.0.0.1", "99999"], 2, "99999"),
        (vec![dir, "127.0.0.1", "0", "--id", "1"], 2, "--zk"),
        (vec![dir, "127.0.0.1", "0", "--zk", "zk:2181", "--root", "/b"], 2, "--id"),
        (vec![dir, "127.0.0.1", "0", "--sync", "sometimes"], 2, "always"),
        (vec![dir, "127.0.0.1", &taken], 1, "listen on 127.0.0.1"),
        (vec![dir, "127.0.0.1", "0", "--small-blob-size", "1gb"], 1, "at most"),
        (vec!["/proc/none", "127.0.0.1", "0"], 1, "/proc/none"),
    ] {
        let output = Command::new(PROGRAM).args(&args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(
        String::from_utf8_lossy(&help.stdout)
            .contains("Examples:\n  backpack-node /var/lib/backpack 127.0.0.1 10001")
    );
}

/// Flips a byte of the one file that holds these bytes.
fn damage(dir: &Path, bytes: &[u8], at: usize) {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap();
            if let Some(start) = content.windows(bytes.len()).position(|window| window == bytes) {
                // In place: the node may be running.
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.write_all_at(&[content[start + at] ^ 1], (start + at) as u64).unwrap();
                return;
            }
        }
    }
    panic!("no file holds these bytes");
}

#[test]
fn damage_on_the_disk_is_never_served() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
    // The scrub would find it first.
    let unscrubbed = ["--scrub-bytes-per-second", "0", "--small-blob-size", SMALL];
    let node = Daemon::start(
        PROGRAM,
        [&[dir.path().to_str().unwrap(), "127.0.0.1", &port], &unscrubbed[..]].concat(),
    );
    let addr = format!("127.0.0.1:{port}");
    node.wait_ready(&addr);
    let small = b"a small blob, packed into a volume".to_vec();
    let big: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    for (key, bytes) in [("/small", &small), ("/big", &big)] {
        assert_eq!(Request::put(&addr, key, bytes.clone()).send_blocking().unwrap().status, 201);
    }
    assert!(node.terminate(START_WITHIN).success());
    damage(dir.path(), &small, 7);
    damage(dir.path(), &big[2_000_000..2_000_064], 0);
    node.restart();
    node.wait_ready(&addr);

    let reply = read(&addr, "/small");
    assert_eq!((reply.status, reply.header("X-Backpack-Damaged")), (404, Some("1")), "{}", reply.text());
    let part = Request::get(&addr, "/big").header("Range", "bytes=0-999").send_blocking().unwrap();
    assert_eq!((part.status, part.body.as_slice()), (206, &big[..1000]));
    let cut = Request::get(&addr, "/big").send_blocking();
    assert!(cut.is_err(), "{:?}", cut.map(|reply| (reply.status, reply.body.len())));
    let reply = read(&addr, "/big");
    assert_eq!(
        (reply.status, reply.header("X-Backpack-Damaged")),
        (404, Some("1")),
        "known, it is withdrawn"
    );
    let metrics = read(&addr, "/-/metrics").text();
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("backpack_node_damaged_reads_total{") && line.ends_with(" 3"))
    );

    assert_eq!(Request::put(&addr, "/small", small.clone()).send_blocking().unwrap().status, 204);
    assert_eq!(read(&addr, "/small").body, small);
}

/// The lines of a page of what is damaged.
fn listed(addr: &str, query: &str) -> Vec<serde_json::Value> {
    let reply = read(addr, &format!("/-/damaged{query}"));
    assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("application/x-ndjson")));
    reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_the_scrub_finds_is_listed_until_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (node, addr) = start(dir.path(), free_port());
    let blob = |n: u8| vec![n; 10_000 + usize::from(n)];
    let big: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    for n in 1..6 {
        assert_eq!(Request::put(&addr, &format!("/small/{n}"), blob(n)).send_blocking().unwrap().status, 201);
    }
    assert_eq!(Request::put(&addr, "/big", big.clone()).send_blocking().unwrap().status, 201);
    let found = || -> (u64, u64) {
        let stats: serde_json::Value = serde_json::from_str(&read(&addr, "/stats").text()).unwrap();
        let scrub = &stats["scrub"];
        if scrub["running"] == false && scrub["last_ended_ms"].is_u64() {
            assert_eq!(scrub["verified_bytes"], scrub["total_bytes"]);
        }
        (scrub["last_ended_ms"].as_u64().unwrap_or(0), scrub["found"].as_u64().unwrap())
    };
    let round = |expected: u64| {
        let (last, _) = found();
        assert_eq!(Request::new("POST", &addr, "/-/scrub/start").send_blocking().unwrap().status, 204);
        wait_until("a round of the scrub came to its end", START_WITHIN, || found().0 > last);
        assert_eq!(found().1, expected);
    };
    assert_eq!(listed(&addr, ""), Vec::<serde_json::Value>::new());
    // While it runs.
    damage(dir.path(), &blob(2), 7);
    damage(dir.path(), &blob(4), 9_000);
    damage(dir.path(), &big[200_000..200_064], 0);
    round(3);
    let all = listed(&addr, "");
    let of = |field: &str| all.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("key"), ["small/2", "small/4", "big"]);
    assert_eq!(of("what"), ["checksum", "checksum", "block"]);
    assert!(
        all.iter().all(|line| line["version"].as_str().unwrap().len() == 26 && line["found_ms"].is_u64())
    );
    assert!(all[2]["file"].as_str().unwrap().starts_with("blobs/"));
    // Page by page.
    let first = listed(&addr, "?limit=2");
    assert_eq!(first, all[..2]);
    let next = format!("?limit=2&after={}", first[1]["place"].as_str().unwrap());
    assert_eq!(listed(&addr, &next), all[2..]);
    assert_eq!(read(&addr, "/-/damaged?after=x").status, 400);
    for key in ["/small/2", "/small/4", "/big"] {
        let reply = read(&addr, key);
        assert_eq!((reply.status, reply.header("X-Backpack-Damaged")), (404, Some("1")), "{key}");
    }
    // It is known after a restart.
    assert!(node.terminate(START_WITHIN).success());
    node.restart();
    node.wait_ready(&addr);
    assert_eq!(listed(&addr, ""), all);
    for (key, bytes) in [("/small/2", blob(2)), ("/small/4", blob(4)), ("/big", big)] {
        let again = all.iter().find(|line| key[1..] == *line["key"].as_str().unwrap()).unwrap();
        let version = again["version"].as_str().unwrap();
        let put = Request::put(&addr, key, bytes.clone()).header("X-Backpack-Version", version);
        assert_eq!(put.send_blocking().unwrap().status, 204, "the same version repairs it");
        assert_eq!(read(&addr, key).body, bytes);
    }
    assert_eq!(listed(&addr, ""), Vec::<serde_json::Value>::new());
    round(0);
}

#[test]
fn memory_comes_in_small_pages_and_open_files_have_room() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = start(dir.path(), free_port());
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    assert!(status.lines().any(|line| line == "THP_enabled:\t0"), "{status}");
    let room = status.lines().find_map(|line| line.strip_prefix("FDSize:\t")).unwrap();
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    assert!(room.parse::<u64>().unwrap() >= allowed.unwrap_or(u64::MAX).min(32 << 10), "{status}");
}

#[test]
fn what_is_read_again_and_again_is_answered_as_the_first_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_node, addr) = start(dir.path(), free_port());
    let ask = |method: &str, id: &str| {
        let request = Request::new(method, &addr, "/k?w=1").header("X-Request-Id", id);
        let mut reply = request.send_blocking().unwrap();
        assert_eq!((reply.status, reply.header("x-request-id")), (200, Some(id)));
        reply.headers.retain(|(name, _)| !["date", "x-request-id", "connection"].contains(&name.as_str()));
        reply.headers.sort();
        reply
    };
    for (owner, length) in [("ann", 5), ("bob, who has it now", 60_000), ("eve", 0)] {
        let body = vec![length as u8; length];
        let put = Request::put(&addr, "/k?w=1", body.clone()).header("X-Amz-Meta-Owner", owner);
        assert!(put.header("Content-Type", "image/png").send_blocking().unwrap().status < 300);
        // HEAD is answered by other code, from what is on the disk.
        let head = ask("HEAD", "first");
        assert_eq!(head.header("x-amz-meta-owner"), Some(owner));
        for id in ["one", "two", "three", "four", "five"] {
            let reply = ask("GET", id);
            assert!(reply.headers == head.headers, "{id}: {:?} {:?}", reply.headers, head.headers);
            assert!(reply.body == body, "{id}");
        }
    }
    let reads = |from: &str| metric(&addr, &format!("backpack_node_{from}_reads_total"));
    // Those after the second of each blob; where the file system cannot tell what is in memory, all are the disk's.
    wait_until("reads were hot", START_WITHIN, || {
        reads("hot") >= 9.0 || reads("memory") == 0.0 && reads("disk") >= 15.0
    });
}

/// The scheduling policies of a program's threads: field 41 of proc_pid_stat(5).
fn policies(node: &Daemon) -> BTreeSet<i32> {
    let threads = Path::new("/proc").join(node.id().to_string()).join("task").read_dir().unwrap();
    let policy = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(38)?.parse().ok();
    // One that has ended meanwhile has none.
    let policy = |path: &Path| policy(&std::fs::read_to_string(path.join("stat")).ok()?);
    threads.filter_map(|thread| policy(&thread.unwrap().path())).collect()
}

#[test]
fn it_lets_others_finish_unless_an_operator_chose_a_policy() {
    // With a flag the usual policy is a choice, too.
    for (policy, expected) in [("--other", libc::SCHED_BATCH), ("--reset-on-fork", libc::SCHED_OTHER)] {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
        let dir = dir.path().to_str().unwrap();
        let node = Daemon::start("chrt", [policy, "--other", "0", PROGRAM, dir, "127.0.0.1", &port]);
        node.wait_ready(&format!("127.0.0.1:{port}"));
        assert_eq!(policies(&node), BTreeSet::from([expected]), "{policy}");
    }
}
