//! Servers that take the place of others: a shard that is moved, a machine that is replaced, a server that is drained, while the
//! cluster is in use. Every read is right meanwhile.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{
    cluster::{Cluster, ClusterBuilder, ROOT},
    http::{Reply, Request},
    shard_server::{Kind, ShardServer},
    wait::wait_until,
    znodes::Znodes,
};

/// Some looks, a comparison, and the copies.
const SOON: Duration = Duration::from_secs(180);

/// Uploads of one load at most: it ends when what it runs beside has ended.
const MOST_UPLOADS: usize = 20_000;

/// For commands: the tests' nginx and coordinators follow the map at once, or within seconds where the machine is busy.
const GRACE: [&str; 2] = ["--grace", "4"];

fn document(cluster: &Cluster, path: &str) -> serde_json::Value {
    let znode = Znodes::connect(&cluster.zookeeper.addr()).get(&format!("{ROOT}/{path}"));
    serde_json::from_str(&znode.expect("it is there")).expect("it is JSON")
}

fn shard(cluster: &Cluster) -> serde_json::Value {
    document(cluster, "shards-map")["1"].clone()
}

fn put(cluster: &Cluster, key: &str, level: &str, bytes: &str) -> Reply {
    let stored = cluster.put(0, key, bytes).header("X-Backpack-Write", level).send_blocking();
    let stored = stored.expect("an answer");
    assert_eq!(stored.status, 200, "{stored:?}");
    stored
}

/// Uploads, overwrites and reads until it is told to stop. Overwrites are at level `all`: who reads later must not get less.
struct Load<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    /// Keys of which one upload was acknowledged.
    stored: Mutex<Vec<String>>,
    /// How often the key that is written again and again was acknowledged.
    overwritten: Mutex<u64>,
}

impl<'a> Load<'a> {
    fn beside<T>(cluster: &'a Cluster, work: impl FnOnce(&Self) -> T) -> (T, Vec<String>) {
        let load = Self {
            cluster,
            stop: AtomicBool::new(false),
            stored: Mutex::default(),
            overwritten: Mutex::new(0),
        };
        let worked = thread::scope(|scope| {
            scope.spawn(|| load.upload());
            scope.spawn(|| load.overwrite());
            scope.spawn(|| load.read());
            let _end = StopWhenDropped(&load.stop);
            wait_until("uploads are acknowledged", SOON, || load.stored.lock().unwrap().len() >= 50);
            work(&load)
        });
        let stored = load.stored.into_inner().unwrap();
        println!("{} uploads, {} overwrites", stored.len(), load.overwritten.into_inner().unwrap());
        (worked, stored)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn upload(&self) {
        for number in 0..MOST_UPLOADS {
            if !self.goes_on() {
                return;
            }
            let (key, level) = (format!("k/{number}"), ["one", "quorum", "all"][number % 3]);
            put(self.cluster, &key, level, &bytes(&key));
            self.stored.lock().unwrap().push(key);
        }
    }

    fn overwrite(&self) {
        for number in 1..MOST_UPLOADS as u64 {
            if !self.goes_on() {
                return;
            }
            put(self.cluster, "again", "all", &number.to_string());
            *self.overwritten.lock().unwrap() = number;
        }
    }

    fn read(&self) {
        let mut dice = fastrand::Rng::with_seed(7);
        while self.goes_on() {
            let key = dice.choice(self.stored.lock().unwrap().iter()).cloned();
            if let Some(key) = key {
                let reply = self.cluster.read("1", &key);
                assert_eq!((reply.status, reply.text()), (200, bytes(&key)), "{key}");
            }
            let least = *self.overwritten.lock().unwrap();
            if least > 0 {
                let reply = self.cluster.read("1", "again");
                let read: u64 = reply.text().parse().unwrap_or_else(|_| panic!("{reply:?}"));
                assert!(read >= least, "{read} was read after {least} was acknowledged by all servers");
            }
        }
    }
}

struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Some KiB that only this key has.
fn bytes(key: &str) -> String {
    format!("bytes of {key}, ").repeat(300)
}

#[test]
fn a_shard_is_moved_while_it_is_used_and_every_read_is_right() {
    let mut cluster = ClusterBuilder::new().shard(&[Kind::Node, Kind::Node]).coordinators(2).watch().start();
    let new = cluster.start_server(Kind::Node);
    cluster.wait_ready();
    let arguments = ["1", "--from", "1", "--to", &new, GRACE[0], GRACE[1]];
    let (said, stored) = Load::beside(&cluster, |load| {
        // The first one is killed in the middle.
        let slow = [&arguments[..], &["--rate", "100kb", "--at-once", "1"]].concat();
        let first = cluster.admin.start("move-shard", slow);
        wait_until("the new server is being filled", SOON, || {
            assert!(first.ended().is_none(), "{}", first.log());
            let has = |key: &String| cluster.read_from(3, key).status == 200;
            shard(&cluster)["stages"]["3"] == "joining" && load.stored.lock().unwrap().iter().any(has)
        });
        first.kill();
        let status = cluster.admin.ok("status", Vec::<String>::new());
        assert!(status.contains("3 (joining)") && status.contains("server 3 is being filled"), "{status}");
        // The second one when the new server was just handed the shard: it has everything.
        let before: Vec<String> = load.stored.lock().unwrap().clone();
        let patient = ["1", "--from", "1", "--to", &new, "--grace", "10"];
        let second = cluster.admin.start("move-shard", patient);
        wait_until("the old server leaves", SOON, || {
            assert!(second.ended().is_none(), "{}", second.log());
            shard(&cluster)["stages"]["1"] == "leaving"
        });
        let lacking: Vec<_> = before.iter().filter(|key| cluster.read_from(3, key).status != 200).collect();
        assert!(lacking.is_empty(), "it was handed the shard without {lacking:?}");
        second.kill();
        // What only the old server has by now comes along, though no replicator copies it.
        ["2", "3"].iter().for_each(|target| drop(cluster.admin.ok("queue pause", [target])));
        let late = Request::put(&cluster.servers[0].addr(), "/late", "late bytes").send_blocking();
        assert_eq!(late.expect("an answer").status, 201);
        let said = cluster.admin.ok("move-shard", arguments);
        assert_eq!(cluster.read("1", "late").text(), "late bytes");
        ["2", "3"].iter().for_each(|target| drop(cluster.admin.ok("queue resume", [target])));
        said
    });
    println!("{said}");
    assert!(said.contains("Shard 1 is on the servers 3, 2 now"), "{said}");
    assert_eq!(shard(&cluster)["nodes"], serde_json::json!(["3", "2"]));
    assert!(shard(&cluster)["stages"].is_null());
    let again = cluster.admin.ok("move-shard", arguments);
    assert!(again.contains("nothing was to be done"), "{again}");

    cluster.servers[0].kill();
    cluster.wait_drained();
    cluster.shards[0] = vec![3, 2];
    cluster.assert_every_copy_is("1", "late", b"late bytes");
    for key in &stored {
        cluster.assert_every_copy_is("1", key, bytes(key).as_bytes());
    }
    assert_eq!(cluster.dead_letters(), []);
}

#[test]
fn a_machine_that_is_gone_is_replaced_by_an_empty_one_that_is_read_once_it_is_full() {
    let mut cluster = ClusterBuilder::new().shard(&[Kind::Node, Kind::Node]).watch().start();
    let keys: Vec<String> = (0..60).map(|number| format!("k/{number}")).collect();
    keys.iter().for_each(|key| drop(put(&cluster, key, "all", &bytes(key))));
    // One blob that only the server has which is going to die.
    cluster.admin.ok("queue pause", ["1"]);
    let alone = (0..).map(|number| format!("alone/{number}")).find(|key| {
        put(&cluster, key, "one", &bytes(key));
        cluster.read_from(1, key).status == 404
    });
    let alone = alone.expect("it does not end before");
    cluster.servers[1].kill();
    let other = ShardServer::start(Kind::Node, "9", &cluster.zookeeper.addr(), ROOT);
    other.wait_ready();
    let url = format!("http://{}", other.addr());
    let before = shard(&cluster);
    let refused = cluster.admin.run("replace-server", ["2", &url, GRACE[0], GRACE[1]]);
    assert!(
        refused.code == 1 && refused.stderr.contains("no other server is known to have a copy"),
        "{refused:?}"
    );
    assert_eq!(shard(&cluster), before);
    // So it is started again for a while.
    cluster.servers[1].restart();
    cluster.admin.ok("queue resume", ["1"]);
    cluster.wait_drained();
    assert_eq!(cluster.read_from(1, &alone).status, 200);
    cluster.servers[1].kill();

    let new = ShardServer::start_replacement("2", &cluster.zookeeper.addr(), ROOT);
    new.wait_ready();
    let url = format!("http://{}", new.addr());
    let slow = ["2", &url, GRACE[0], GRACE[1], "--rate", "100kb", "--at-once", "1"];
    let filling = cluster.admin.start("replace-server", slow);
    let config = || cluster.front.as_ref().expect("nginx runs").config();
    wait_until("nginx leaves it out", SOON, || config().contains("# server 2 is not read now"));
    for key in keys.iter().chain([&alone]) {
        assert_eq!(cluster.read("1", key).text(), bytes(key));
    }
    assert!(filling.wait_for_end(SOON).success(), "{}", filling.log());
    assert!(filling.log().contains("server 2 has everything"), "{}", filling.log());
    let port = new.addr().rsplit(':').next().expect("a port").to_owned();
    assert_eq!(document(&cluster, "servers-map")["2"]["port"], port);
    assert_eq!(shard(&cluster), before);
    wait_until("nginx asks it", SOON, || config().contains(&format!("server {} ", new.addr())));
    cluster.servers[1] = new;
    cluster.servers[0].kill();
    for key in keys.iter().chain([&alone]) {
        let copy = cluster.read_from(2, key);
        assert_eq!((copy.status, copy.text()), (200, bytes(key)));
    }
}

#[test]
fn a_server_is_drained_or_it_is_said_why_not() {
    let node = Kind::Node;
    let mut cluster = ClusterBuilder::new().shard(&[node, node]).shard(&[node]).start();
    // All uploads go to the first one.
    cluster.admin.ok("disable-shard", ["2"]);
    wait_until("uploads go to shard 1 alone", SOON, || {
        put(&cluster, "first", "all", "bytes").text().contains("\"1\"")
    });
    let maps = |cluster: &Cluster| (document(cluster, "servers-map"), document(cluster, "shards-map"));
    let before = maps(&cluster);
    let refused = |command: &str, rest: &[&str], why: &str| {
        let said = cluster.admin.run(command, rest);
        assert!(said.code == 1 && said.stderr.contains(why), "{command} {rest:?}: {said:?}");
        assert_eq!(maps(&cluster), before, "{command} {rest:?} changed something");
    };
    refused("drain-server", &["1"], "add an empty one with add-server");
    refused("drain-server", &["9"], "unknown server 9");
    refused("drain-server", &["1", "--to", "9"], "unknown server 9");
    refused("move-shard", &["1", "--from", "1", "--to", "3"], "belongs to shard 2");
    refused("move-shard", &["1", "--from", "3", "--to", "9"], "neither server 3 nor server 9");
    refused("move-shard", &["7", "--from", "1", "--to", "2"], "unknown shard 7");
    refused("replace-server", &["9", "http://127.0.0.1:1"], "unknown server 9");
    refused("replace-server", &["1", "http://127.0.0.1:1"], "does not answer");
    let alone = cluster.servers[2].addr();
    refused("replace-server", &["3", &format!("http://{alone}")], "is the only one of shard 2");
    assert_eq!(cluster.admin.run("move-shard", ["1", "--from", "1", "--to", "1"]).code, 2);

    let spare = cluster.start_server(node);
    cluster.wait_ready();
    let before = maps(&cluster);
    // What is there already would be taken for the shard's.
    let stranger = Request::put(&cluster.servers[3].addr(), "/stranger", "bytes");
    assert_eq!(stranger.send_blocking().expect("an answer").status, 201);
    let said = cluster.admin.run("drain-server", ["1", "--to", &spare]);
    assert!(said.code == 1 && said.stderr.contains("holds 1 blobs of something else"), "{said:?}");
    assert_eq!(maps(&cluster), before);

    // While the other server of the shard is away, nobody can tell what only that one has.
    let spare = cluster.start_server(node);
    cluster.wait_ready();
    cluster.servers[1].kill();
    let said = cluster.admin.run("drain-server", ["1", "--grace", "0"]);
    assert!(said.code == 1 && said.stderr.contains("server 2 of shard 1 does not answer"), "{said:?}");
    assert_eq!(shard(&cluster)["stages"], serde_json::json!({ "5": "joining" }), "it goes on from there");
    cluster.servers[1].restart();
    let said = cluster.admin.ok("drain-server", ["1", GRACE[0], GRACE[1]]);
    assert!(said.contains("Server 1 is not in the map any more"), "{said}");
    assert!(document(&cluster, "servers-map")["1"].is_null());
    assert_eq!(shard(&cluster)["nodes"], serde_json::json!([spare, "2"]));
    cluster.shards[0] = vec![5, 2];
    cluster.assert_every_copy_is("1", "first", b"bytes");
}
