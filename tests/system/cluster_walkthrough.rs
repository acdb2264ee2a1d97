//! The walk-through of the original's README, word for word, on our programs: under their own names, under the original's,
//! and as `examples/cluster.sh` shows it.

use std::{os::unix::fs::symlink, path::Path, time::Duration};

use crate::support::{
    admin::{Admin, PROGRAM, Said},
    cluster::{Cluster, QUEUE_KEY},
    http::Request,
    port::free_ports,
    process::{Process, Program},
    shard_server::{Kind, ShardServer},
    wait::wait_until,
};

/// For one copy.
const SOON: Duration = Duration::from_secs(60);

const HELLO: &[u8] = b"Hello, Backpack!\n";

/// How commands are called.
enum Names<'a> {
    /// `backpack-admin add-server`.
    Ours,
    /// `backpack-coordinator-add-server`, links in this folder.
    TheOriginals(&'a Path),
}

/// The original's name of each command.
const COMMANDS: [(&str, &str); 8] = [
    ("coordinator-init", "backpack-coordinator-init"),
    ("add-server", "backpack-coordinator-add-server"),
    ("add-shard", "backpack-coordinator-add-shard"),
    ("enable-shard", "backpack-coordinator-enable-shard"),
    ("disable-shard", "backpack-coordinator-disable-shard"),
    ("set-queue", "backpack-coordinator-set-queue"),
    ("print-stats", "backpack-coordinator-print-stats"),
    ("dump-shards", "backpack-coordinator-dump-shards"),
];

impl Names<'_> {
    fn run<S: AsRef<str>>(&self, admin: &Admin, command: &str, rest: impl IntoIterator<Item = S>) -> Said {
        match self {
            Self::Ours => admin.run(command, rest),
            Self::TheOriginals(links) => {
                let (_, name) = COMMANDS.iter().find(|(ours, _)| *ours == command).expect("it has one");
                admin.run_link(&links.join(name), rest)
            }
        }
    }

    /// Runs a command whose output must begin with these lines.
    fn says<const N: usize>(&self, admin: &Admin, command: &str, rest: [&str; N], expected: &str) {
        let said = self.run(admin, command, rest);
        assert_eq!(said.code, 0, "{command}: {said:?}");
        let lines = expected.lines().count();
        let begin: Vec<_> = said.stdout.lines().take(lines).collect();
        assert_eq!(begin.join("\n"), expected, "{command}");
    }
}

#[test]
fn the_walk_through_works() {
    walk_through(&Names::Ours);
}

#[test]
fn the_walk_through_works_under_the_originals_names() {
    let links = tempfile::tempdir().unwrap();
    for (_, name) in COMMANDS {
        symlink(PROGRAM, links.path().join(name)).unwrap();
    }
    walk_through(&Names::TheOriginals(links.path()));
}

fn walk_through(names: &Names<'_>) {
    let mut cluster = Cluster::start_stores();
    let admin = cluster.admin.clone();
    set_up(names, &admin, &mut cluster);
    print(names, &admin, &cluster);
    (0..2).for_each(|_| cluster.start_coordinator());
    (0..2).for_each(|_| cluster.start_replicator());
    cluster.wait_ready();
    cluster.start_front(false);
    upload_and_read(&cluster);
    afterwards(names, &admin, &cluster);
    cluster.assert_all_run();
}

/// From an empty ZooKeeper to one enabled shard of three.
fn set_up(names: &Names<'_>, admin: &Admin, cluster: &mut Cluster) {
    let redis = cluster.redis_addrs();
    let init = [QUEUE_KEY, &redis];
    names.says(
        admin,
        "coordinator-init",
        init,
        "Servers map initialized\nShards map initialized\nQueue initialized",
    );
    let again = "Servers map already initialized\nShards map already initialized\nQueue already initialized";
    names.says(admin, "coordinator-init", init, again);
    for id in ["1", "2", "3", "4", "5", "6"] {
        let server =
            ShardServer::start(Kind::Node, id, &cluster.zookeeper.addr(), crate::support::cluster::ROOT);
        let url = format!("http://{}", server.addr());
        names.says(admin, "add-server", [id, &url], &format!("Added {url} as {id}"));
        cluster.servers.push(server);
    }
    for (id, servers) in [("1", "1,4"), ("2", "2,5"), ("3", "3,6")] {
        let expected = format!("Made shard {id} of size 100gb that consist of nodes {servers}");
        names.says(admin, "add-shard", [id, servers, "100gb"], &expected);
    }
    cluster.shards = vec![vec![1, 4], vec![2, 5], vec![3, 6]];
    names.says(admin, "enable-shard", ["1"], "Enabled shard 1 for writing");
}

fn print(names: &Names<'_>, admin: &Admin, cluster: &Cluster) {
    let stats = "Shards:\n1 [1, 4]: 0b / 100gb (0%) rw\n2 [2, 5]: 0b / 100gb (0%) r\n\
                 3 [3, 6]: 0b / 100gb (0%) r\nOverall: 0b / 300gb (0%)";
    names.says(admin, "print-stats", [], stats);
    let (one, four) = (cluster.servers[0].addr(), cluster.servers[3].addr());
    let port = |addr: &str| addr.rsplit(':').next().unwrap_or_default().to_owned();
    let dump = format!(
        r#"{{
    "1": {{
        "enabled": true,
        "nodes": {{
            "1": {{
                "host": "127.0.0.1",
                "port": "{}"
            }},
            "4": {{
                "host": "127.0.0.1",
                "port": "{}"
            }}
        }}
    }},"#,
        port(&one),
        port(&four)
    );
    names.says(admin, "dump-shards", [], &dump);
}

fn upload_and_read(cluster: &Cluster) {
    let put = cluster.put(0, "hi.txt", HELLO).send_blocking().unwrap();
    assert_eq!((put.status, put.text().as_str()), (200, "{\"shard_id\":\"1\"}\n"));
    assert_eq!(put.header("content-type"), Some("application/json"));
    for server in [1, 4] {
        wait_until("the blob is copied", SOON, || cluster.read_from(server, "hi.txt").status == 200);
        assert_eq!(cluster.read_from(server, "hi.txt").body, HELLO);
    }
    assert_eq!(cluster.read("1", "hi.txt").body, HELLO);
    cluster.assert_every_copy_is("1", "hi.txt", HELLO);

    // A blob of one server only: whichever nginx asks first, the 404 of the other one is not seen.
    let addr = cluster.servers[3].addr();
    assert_eq!(Request::put(&addr, "/only-on-4.txt", HELLO).send_blocking().unwrap().status, 201);
    for _ in 0..6 {
        let read = cluster.read("1", "only-on-4.txt");
        assert_eq!((read.status, read.body.as_slice()), (200, HELLO));
    }
    assert_eq!(cluster.read("1", "nowhere.txt").status, 404);
}

fn afterwards(names: &Names<'_>, admin: &Admin, cluster: &Cluster) {
    names.says(admin, "disable-shard", ["1"], "Shard 1 is read-only now");
    wait_until("uploads are refused", SOON, || {
        let put = cluster.put(1, "late.txt", HELLO).send_blocking().unwrap();
        put.status == 503 && put.text().contains("No writable shards found!")
    });
    let redis = cluster.redis_addrs();
    names.says(admin, "set-queue", [QUEUE_KEY, &redis], "Queue info updated!");
    let said = names.run(admin, "add-server", ["1"]);
    assert_eq!(said.code, 2, "{said:?}");
    let usage = match names {
        Names::Ours => "Usage: backpack-admin add-server",
        Names::TheOriginals(_) => "Usage: backpack-coordinator-add-server",
    };
    assert!(said.stderr.contains(usage), "{said:?}");
}

/// The script's own figures: it takes these distances from `PORT_BASE`.
const SCRIPT_PORTS: [u16; 12] = [1, 2, 3, 4, 5, 6, 2001, 2002, 2181, 6001, 6002, 8080];

#[test]
fn the_example_script_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let script = Program::new("/bin/bash", folder.path())
        .has_children()
        .args([root.join("examples/cluster.sh").display().to_string(), "--check".to_owned()])
        .env("BIN_DIR", &programs)
        .env("PORT_BASE", &free_ports(&SCRIPT_PORTS).to_string());
    let script = Process::start(script);
    let ended = script.wait_for_end(Duration::from_secs(120));
    let log = script.log();
    assert!(ended.success() && log.contains("All is as it should be."), "{log}");
}
