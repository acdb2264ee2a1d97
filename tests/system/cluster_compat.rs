//! Side by side with the original: its maps are served, ours are read by it, and its nodes and nginx are servers of our
//! shards like our own nodes.

use std::{collections::BTreeMap, time::Duration};

use backpack::queue::DeadLetter;
use serde_json::Value;

use crate::support::{
    cluster::{Cluster, ClusterBuilder, QUEUE_KEY, ROOT},
    http::Request,
    shard_server::{Kind, ShardServer},
    wait::wait_until,
    znodes::Znodes,
};

/// For one change to be noticed.
const SOON: Duration = Duration::from_secs(60);

/// What the original understands of a cluster's documents: it parses each as JSON and takes these fields, unchecked.
/// A field that is missing or of another type would be an error in its requests, or `NaN` in its arithmetic.
#[derive(Debug, PartialEq)]
struct AsTheOriginalReads {
    /// id -> where it puts a blob.
    servers: BTreeMap<String, String>,
    /// id -> whether it takes uploads, its servers.
    shards: BTreeMap<String, (bool, Vec<String>)>,
    /// id -> the weight with which it is chosen.
    weights: BTreeMap<String, f64>,
    /// Key and servers of the queue.
    queue: (String, Vec<String>),
}

impl AsTheOriginalReads {
    fn read(znodes: &Znodes) -> Self {
        let parse = |path: &str| -> Value {
            let text = znodes.get(&format!("{ROOT}/{path}")).unwrap_or_else(|| panic!("there is no {path}"));
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path} is {text}: {error}"))
        };
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
        let address = |value: &Value| format!("http://{}:{}", text(&value["host"]), text(&value["port"]));
        let entries = |value: &Value| value.as_object().expect("the maps are objects").clone();
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let shards = entries(&parse("shards-map"));
        let weight = |id: &String| {
            let size = parse(&format!("shard-size-{id}"));
            let number = |name: &str| size[name].as_f64().unwrap_or(f64::NAN);
            1.0 - number("current") / number("capacity")
        };
        let queue = parse("queue");
        Self {
            servers: entries(&parse("servers-map")).iter().map(|(id, s)| (id.clone(), address(s))).collect(),
            weights: shards.keys().map(|id| (id.clone(), weight(id))).collect(),
            shards: shards
                .iter()
                .map(|(id, shard)| {
                    // Whatever is true counts as read-only, and what is missing does not.
                    let writable = !shard["read_only"].as_bool().unwrap_or(false);
                    (id.clone(), (writable, list(&shard["nodes"]).iter().map(text).collect()))
                })
                .collect(),
            queue: (text(&queue["key"]), list(&queue["servers"]).iter().map(address).collect()),
        }
    }
}

fn port(addr: &str) -> &str {
    addr.rsplit(':').next().unwrap_or_default()
}

/// Starts servers that no map knows yet.
fn start_servers(cluster: &mut Cluster, kinds: &[Kind]) {
    for kind in kinds {
        let id = (cluster.servers.len() + 1).to_string();
        cluster.servers.push(ShardServer::start(*kind, &id, &cluster.zookeeper.addr(), ROOT));
    }
}

/// What the original's commands leave after its README's set-up, with one shard enabled and blobs in it.
fn write_as_the_original_does(cluster: &Cluster, znodes: &Znodes) {
    let redis: Vec<_> = cluster.redis.iter().map(|redis| redis.port()).collect();
    let ports: Vec<_> = cluster.servers.iter().map(|server| port(&server.addr()).to_owned()).collect();
    znodes.create(ROOT, "");
    let queue = format!(
        r#"{{"key":"{QUEUE_KEY}","servers":[{{"host":"127.0.0.1","port":"{}"}},{{"host":"127.0.0.1","port":"{}"}}]}}"#,
        redis[0], redis[1]
    );
    znodes.create(&format!("{ROOT}/queue"), &queue);
    // Of no order, and one port as the number that a hand wrote.
    let servers = format!(
        r#"{{"4":{{"host":"127.0.0.1","port":{}}},"1":{{"port":"{}","host":"127.0.0.1"}},"2":{{"host":"127.0.0.1","port":"{}"}},"3":{{"host":"127.0.0.1","port":"{}"}}}}"#,
        ports[3], ports[0], ports[1], ports[2]
    );
    znodes.create(&format!("{ROOT}/servers-map"), &servers);
    let shards = r#"{"photos-a":{"read_only":true,"nodes":["2","3"]},"1":{"nodes":["1","4"]}}"#;
    znodes.create(&format!("{ROOT}/shards-map"), shards);
    znodes.create(&format!("{ROOT}/shard-size-1"), r#"{"capacity":107374182400,"current":1000}"#);
    znodes.create(&format!("{ROOT}/shard-size-photos-a"), r#"{"capacity":1181116006.4,"current":0}"#);
}

#[test]
fn maps_that_the_original_wrote_are_served() {
    let mut cluster = Cluster::start_stores();
    start_servers(&mut cluster, &[Kind::Node, Kind::Node, Kind::Original, Kind::Original]);
    let znodes = Znodes::connect(&cluster.zookeeper.addr());
    write_as_the_original_does(&cluster, &znodes);
    cluster.start_coordinator();
    cluster.start_replicator();
    cluster.wait_ready();
    cluster.start_front(false);
    cluster.shards = vec![vec![1, 4]];

    let put = cluster.put(0, "hi.txt", "hello").send_blocking().unwrap();
    assert_eq!(
        (put.status, put.text().as_str()),
        (200, "{\"shard_id\":\"1\"}\n"),
        "the other one is read-only"
    );
    cluster.wait_drained();
    cluster.assert_every_copy_is("1", "hi.txt", b"hello");
    assert_eq!(cluster.read("1", "hi.txt").text(), "hello");
    assert_eq!(cluster.used("1"), 1005);

    // The original's coordinator beside ours adds to the same document, and knows nothing of our fields.
    znodes.set(&format!("{ROOT}/shard-size-1"), r#"{"capacity":107374182400,"current":5000}"#);
    assert_eq!(cluster.put(0, "more.txt", "12345").send_blocking().unwrap().status, 200);
    wait_until("both are counted", SOON, || cluster.used("1") == 5005);

    cluster.admin.ok("enable-shard", ["photos-a"]);
    cluster.admin.ok("disable-shard", ["1"]);
    let shards = r#"{"photos-a":{"nodes":["2","3"]},"1":{"read_only":true,"nodes":["1","4"]}}"#;
    assert_eq!(
        znodes.get(&format!("{ROOT}/shards-map")).as_deref(),
        Some(shards),
        "order and all else is kept"
    );
    wait_until("uploads go to the other shard", SOON, || {
        let put = cluster.put(0, "album/1.jpg", "jpeg").send_blocking().unwrap();
        put.text() == "{\"shard_id\":\"photos-a\"}\n"
    });
    assert_eq!(cluster.read("photos-a", "album/1.jpg").text(), "jpeg");
    let stats = cluster.admin.ok("print-stats", [""; 0]);
    assert!(stats.contains("1 [1, 4]: 4.89kb / 100gb (0%) r\n"), "{stats}");
    cluster.assert_all_run();
}

#[test]
fn what_we_write_the_original_reads() {
    let mut cluster = ClusterBuilder::new().shard(&[Kind::Node, Kind::Node]).start();
    let znodes = Znodes::connect(&cluster.zookeeper.addr());
    let [three, four] = [Kind::WebDav, Kind::Original].map(|kind| cluster.start_server(kind));
    cluster.admin.ok("add-shard", ["photos-a", &format!("{three},{four}"), "1.5mb"]);

    let document = |path: &str| znodes.get(&format!("{ROOT}/{path}")).unwrap_or_default();
    let ports: Vec<_> = cluster.servers.iter().map(|server| port(&server.addr()).to_owned()).collect();
    let server =
        |number: usize| format!(r#""{}":{{"host":"127.0.0.1","port":"{}"}}"#, number, ports[number - 1]);
    let servers = (1..=4).map(server).collect::<Vec<_>>().join(",");
    assert_eq!(document("servers-map"), format!("{{{servers}}}"));
    assert_eq!(
        document("shards-map"),
        r#"{"1":{"nodes":["1","2"]},"photos-a":{"read_only":true,"nodes":["3","4"]}}"#
    );
    assert_eq!(document("shard-size-1"), r#"{"capacity":107374182400,"current":0}"#);
    assert_eq!(document("shard-size-photos-a"), r#"{"capacity":1572864,"current":0}"#);
    let redis =
        cluster.redis.iter().map(|redis| format!(r#"{{"host":"127.0.0.1","port":"{}"}}"#, redis.port()));
    let redis = redis.collect::<Vec<_>>().join(",");
    assert_eq!(document("queue"), format!(r#"{{"key":"{QUEUE_KEY}","servers":[{redis}]}}"#));

    // With uploads counted and nodes announced there is more in ZooKeeper, which it does not look at.
    assert_eq!(cluster.put(0, "half", vec![7; 1000]).send_blocking().unwrap().status, 200);
    wait_until("it is counted", SOON, || cluster.used("1") == 1000);
    let read = AsTheOriginalReads::read(&znodes);
    let url = |number: usize| (number.to_string(), format!("http://{}", cluster.servers[number - 1].addr()));
    assert_eq!(read.servers, (1..=4).map(url).collect());
    assert_eq!(read.shards["1"], (true, vec!["1".to_owned(), "2".to_owned()]));
    assert_eq!(read.shards["photos-a"], (false, vec!["3".to_owned(), "4".to_owned()]));
    assert_eq!(read.weights["photos-a"], 1.0);
    assert_eq!(read.weights["1"], 1.0 - 1000.0 / (100u64 << 30) as f64);
    assert_eq!(read.queue.0, QUEUE_KEY);
    assert_eq!(
        read.queue.1,
        cluster.redis.iter().map(|r| format!("http://{}", r.addr())).collect::<Vec<_>>()
    );
}

/// Keys as browsers and programs send them. Where a query string is no part of the name, it changes nothing.
const KEYS: [&str; 8] = [
    "plain.txt",
    "deep/er/and/deeper.txt",
    "a:b:c",
    "a%20b.jpg",
    "what%3Fnot",
    "caf%C3%A9",
    "фото/1.jpg",
    "with-query?x=1&y=2",
];

/// A shard of one server of each kind.
struct Pair {
    cluster: Cluster,
}

impl Pair {
    fn start(kinds: [Kind; 2]) -> Self {
        Self { cluster: ClusterBuilder::new().shard(&kinds).start() }
    }

    /// What is uploaded while one of the servers is down is copied to it when it is back.
    fn copies_from(&self, source: usize) {
        let target = 3 - source;
        let server = &self.cluster.servers[target - 1];
        server.kill();
        for key in KEYS {
            let body = Self::body(source, key);
            self.accepts(&self.cluster.put(0, &format!("{source}/{key}"), body));
        }
        let chunks = vec![b'c'; 100_000];
        let chunked = Request::new("PUT", self.cluster.coordinators[0].addr(), &format!("/{source}/chunked"));
        self.accepts(&chunked.chunked(&chunks, 7_000));
        server.restart();
        self.cluster.wait_drained();
        assert_eq!(self.cluster.dead_letters(), []);
        for key in KEYS {
            self.is_everywhere(&format!("{source}/{key}"), &Self::body(source, key));
        }
        self.is_everywhere(&format!("{source}/chunked"), &chunks);
    }

    /// The bytes of a blob that has the same length wherever it came from, but not the same bytes.
    fn body(source: usize, key: &str) -> Vec<u8> {
        format!("{source}: {key}").into_bytes()
    }

    fn accepts(&self, upload: &Request) {
        let reply = upload.send_blocking().unwrap();
        assert_eq!((reply.status, reply.header("x-backpack-copies")), (200, Some("1/2")), "{}", reply.text());
    }

    fn is_everywhere(&self, key: &str, bytes: &[u8]) {
        self.cluster.assert_every_copy_is("1", key, bytes);
        for _ in 0..2 {
            let read = self.cluster.read("1", key);
            assert!(read.status == 200 && read.body == bytes, "{key} through nginx: {}", read.status);
        }
    }

    /// A key that is uploaded again while one server is down has the newer bytes in the end, also where they are as long.
    fn overwrites_from(&self, source: usize) {
        let server = &self.cluster.servers[2 - source];
        for body in ["first", "again"] {
            let body = format!("{body} from {source}");
            if body.starts_with("again") {
                server.kill();
            }
            let put = self.cluster.put(0, "overwritten", body.clone()).send_blocking().unwrap();
            assert_eq!(put.status, 200, "{}", put.text());
            server.restart();
            self.cluster.wait_drained();
            self.is_everywhere("overwritten", body.as_bytes());
        }
    }

    /// At level `all` a body of unknown length is on both servers when it is answered, whether it can be replayed or is
    /// longer than that.
    fn takes_unknown_lengths_at_level_all(&self) {
        for length in [100_000, 3 << 20] {
            let body: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let key = format!("unknown-length/{length}");
            let put = Request::new("PUT", self.cluster.coordinators[0].addr(), &format!("/{key}"));
            let put = put.header("x-backpack-write", "all").chunked(&body, 70_001).send_blocking().unwrap();
            assert_eq!((put.status, put.header("x-backpack-copies")), (200, Some("2/2")), "{}", put.text());
            self.is_everywhere(&key, &body);
        }
    }

    /// Deletes; the statuses that the servers then answer for the key.
    fn delete(&self, key: &str) -> [u16; 2] {
        let put = self.cluster.put(0, key, "to be deleted").send_blocking().unwrap();
        assert_eq!(put.status, 200);
        self.cluster.wait_drained();
        self.is_everywhere(key, b"to be deleted");
        let coordinator = self.cluster.coordinators[0].addr();
        let deleted = Request::new("DELETE", coordinator, &format!("/1:{key}")).send_blocking().unwrap();
        assert_eq!(deleted.status, 204, "{}", deleted.text());
        self.cluster.wait_drained();
        [1, 2].map(|server| self.cluster.read_from(server, key).status)
    }

    /// Why the task of this key is a dead letter. There may be another one: the backup of a task that was given up is taken
    /// back if possible, else it is given up too.
    fn dead_letter(&self, key: &str) -> String {
        let is_of = |letter: &&DeadLetter| letter.task.as_ref().is_some_and(|task| task.key.as_str() == key);
        let letters = self.cluster.dead_letters();
        let letter = letters.iter().find(is_of).unwrap_or_else(|| panic!("none of {key}: {letters:?}"));
        letter.reason.clone()
    }

    /// No task was given up but those of these keys.
    fn nothing_else_is_dead(&self, keys: [&str; 2]) {
        let letters = self.cluster.dead_letters();
        let is_known =
            |letter: &DeadLetter| letter.task.as_ref().is_some_and(|task| keys.contains(&task.key.as_str()));
        assert!(letters.iter().all(is_known), "{letters:?}");
    }
}

#[test]
fn our_node_with_nginx() {
    let pair = Pair::start([Kind::Node, Kind::WebDav]);
    for source in [1, 2] {
        pair.copies_from(source);
        pair.overwrites_from(source);
    }
    pair.takes_unknown_lengths_at_level_all();
    let empty = pair.cluster.put(0, "empty", "").send_blocking().unwrap();
    assert_eq!(empty.status, 200);
    pair.cluster.wait_drained();
    pair.is_everywhere("empty", b"");
    assert_eq!(pair.delete("gone"), [410, 404]);
    assert!([404, 410].contains(&pair.cluster.read("1", "gone").status));
    assert_eq!(pair.cluster.dead_letters(), []);
    pair.cluster.assert_all_run();
}

#[test]
fn our_node_with_the_originals() {
    let pair = Pair::start([Kind::Node, Kind::Original]);
    for source in [1, 2] {
        pair.copies_from(source);
        pair.overwrites_from(source);
    }
    pair.takes_unknown_lengths_at_level_all();
    assert_an_empty_blob_is_on_the_other_server(&pair);
    // The original cannot delete: an operator sees that, and nginx may still find the blob there.
    assert_eq!(pair.delete("gone"), [410, 200]);
    assert_eq!(pair.dead_letter("gone"), "the target cannot delete");
    pair.nothing_else_is_dead(["empty", "gone"]);
    pair.cluster.assert_all_run();
}

#[test]
fn nginx_with_the_originals_node() {
    let pair = Pair::start([Kind::WebDav, Kind::Original]);
    for source in [1, 2] {
        pair.copies_from(source);
        pair.overwrites_from(source);
    }
    pair.takes_unknown_lengths_at_level_all();
    assert_an_empty_blob_is_on_the_other_server(&pair);
    assert_eq!(pair.delete("gone"), [404, 200]);
    assert_eq!(pair.dead_letter("gone"), "the target cannot delete");
    pair.nothing_else_is_dead(["empty", "gone"]);
    pair.cluster.assert_all_run();
}

/// The original's node, the second server of the pair, takes no empty body.
fn assert_an_empty_blob_is_on_the_other_server(pair: &Pair) {
    let cluster = &pair.cluster;
    let empty = |key: &str| cluster.put(0, key, "").send_blocking().unwrap();
    assert_eq!(empty("empty").status, 200);
    cluster.wait_drained();
    assert_eq!(pair.dead_letter("empty"), "the target takes no empty blobs");
    let statuses = [1, 2].map(|server| cluster.read_from(server, "empty").status);
    assert_eq!(statuses, [200, 404]);
    let read = cluster.read("1", "empty");
    assert_eq!((read.status, read.body.len()), (200, 0));

    // With that server alone it is refused, with a reason.
    cluster.servers[0].kill();
    let refused = empty("empty-too");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("empty"), "{}", refused.text());
    cluster.servers[0].restart();
}
