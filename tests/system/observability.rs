//! What operators see of the real programs: metrics against known traffic, statsd packets, one request id through all logs,
//! and a document that names every metric.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::UdpSocket,
    path::Path,
    time::Duration,
};

use backpack::{
    cluster::{
        self, MapStore, StoreOptions,
        edit::{self, NewShard},
    },
    daemon::{install_tls_provider, unix_ms},
    model::{QueueInfo, QueueServer, Server, Version},
};

use crate::support::{
    daemon::Daemon,
    http::Request,
    port::free_port,
    redis::Redis,
    wait::{eventually, wait_for},
    zookeeper::ZooKeeper,
};

/// For whatever happens soon, on a machine that does other things too.
const WITHIN: Duration = Duration::from_secs(60);

/// More series than a small cluster may ever have: something unbounded became a label.
const MAX_SERIES: usize = 600;

const ROOT: &str = "/backpack";

/// Every role as a process, two nodes in one shard.
struct System {
    coordinator: Daemon,
    replicator: Daemon,
    nodes: Vec<Daemon>,
    addr: String,
    replicator_addr: String,
    node_addrs: Vec<String>,
    statsd: UdpSocket,
    _servers: (ZooKeeper, Redis, Vec<tempfile::TempDir>),
}

impl System {
    async fn start() -> Self {
        install_tls_provider();
        let (zookeeper, redis) = (ZooKeeper::start(), Redis::start());
        let statsd = UdpSocket::bind("127.0.0.1:0").unwrap();
        statsd.set_nonblocking(true).unwrap();
        let store = cluster::connect(&zookeeper.addr(), ROOT, &StoreOptions::default()).unwrap();
        let mut dirs = Vec::new();
        let (mut nodes, mut node_addrs) = (Vec::new(), Vec::new());
        let logs = [("BACKPACK_LOG", "backpack=debug,info"), ("BACKPACK_LOG_FORMAT", "json")];
        let start = |program: &str, args: &[&str]| Daemon::start_with_env(program, args, &logs);
        make_map(&*store, redis.port()).await;
        for number in 1..=2 {
            let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
            let data = dir.path().to_str().unwrap().to_owned();
            nodes.push(start(env!("CARGO_BIN_EXE_backpack-node"), &[&data, "127.0.0.1", &port]));
            add_server(&*store, number, port.parse().unwrap()).await;
            node_addrs.push(format!("127.0.0.1:{port}"));
            dirs.push(dir);
        }
        add_shard(&*store).await;
        let (addr, replicator_addr) = (free_port(), format!("127.0.0.1:{}", free_port()));
        let (port, zk) = (addr.to_string(), zookeeper.addr());
        let packets = statsd.local_addr().unwrap().to_string();
        let coordinator =
            start(env!("CARGO_BIN_EXE_backpack-coordinator"), &[&zk, ROOT, "127.0.0.1", &port, &packets]);
        let replicator =
            start(env!("CARGO_BIN_EXE_backpack-replicator"), &[&zk, ROOT, "4", "--listen", &replicator_addr]);
        let addr = format!("127.0.0.1:{addr}");
        for (daemon, addr) in nodes.iter().zip(&node_addrs) {
            daemon.wait_ready(addr);
        }
        coordinator.wait_ready(&addr);
        replicator.wait_ready(&replicator_addr);
        let _servers = (zookeeper, redis, dirs);
        Self { coordinator, replicator, nodes, addr, replicator_addr, node_addrs, statsd, _servers }
    }
}

async fn make_map(store: &dyn MapStore, redis: u16) {
    let server = QueueServer { host: "127.0.0.1".to_owned(), port: redis, tls: false };
    edit::init(store, &QueueInfo { key: "queue".to_owned(), servers: vec![server] }).await.unwrap();
}

async fn add_server(store: &dyn MapStore, number: u32, port: u16) {
    let id = number.to_string().parse().unwrap();
    edit::add_server(store, &Server { id, host: "127.0.0.1".to_owned(), port }).await.unwrap();
}

async fn add_shard(store: &dyn MapStore) {
    let servers = vec!["1".parse().unwrap(), "2".parse().unwrap()];
    let shard = NewShard { id: "photos".parse().unwrap(), servers, capacity: 1 << 30, pool: None };
    edit::add_shard(store, &shard, false).await.unwrap();
    edit::set_read_only(store, &shard.id, false).await.unwrap();
}

/// One line of the Prometheus text format.
#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads metrics as Prometheus does, complaining of whatever it would not take.
struct Metrics {
    types: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Metrics {
    async fn of(addr: &str) -> Self {
        let reply = Request::get(addr, "/-/metrics").send().await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
        Self::parse(&reply.text())
    }

    fn parse(text: &str) -> Self {
        let mut metrics = Self { types: BTreeMap::new(), samples: Vec::new() };
        assert!(text.ends_with('\n'), "the last line has an end");
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                let before = metrics.types.insert(name.to_owned(), kind.to_owned());
                assert!(before.is_none(), "{name} is declared twice");
            } else if !line.starts_with("# HELP ") {
                metrics.samples.push(parse_sample(line).unwrap_or_else(|| panic!("no sample: {line}")));
            }
        }
        metrics
    }

    /// The metric that a sample is of: a histogram's samples have endings of their own.
    fn family(&self, sample: &str) -> String {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|ending| sample.strip_suffix(ending));
        match base {
            Some(base) if self.types.get(base).is_some_and(|kind| kind == "histogram") => base.to_owned(),
            _ => sample.to_owned(),
        }
    }

    fn families(&self) -> BTreeSet<String> {
        self.samples.iter().map(|sample| self.family(&sample.name)).collect()
    }

    /// Sum over all series that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|held| held == value))
        };
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples.filter(has).map(|sample| sample.value).sum()
    }

    /// Names, units and types as Prometheus' naming conventions want them, and no label without a bound.
    fn check(&self, unbounded: &[&str]) {
        assert!(self.samples.len() < MAX_SERIES, "{} series", self.samples.len());
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            let family = self.family(&sample.name);
            let kind = self.types.get(&family).unwrap_or_else(|| panic!("{family} has no type"));
            let plain = family.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            assert!(plain && family.starts_with("backpack_"), "{family}");
            assert_eq!(family.ends_with("_total"), kind == "counter", "{family} is a {kind}");
            assert!(kind != "histogram" || family.ends_with("_seconds"), "{family} is a histogram");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {sample:?}");
            for value in sample.labels.values() {
                assert!(!unbounded.iter().any(|text| value.contains(text)), "{sample:?}");
            }
        }
    }
}

/// `name{label="value",...} number`, without escapes in values: ours never need any.
fn parse_sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut parsed = BTreeMap::new();
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once("=\"")?;
        let value = value.strip_suffix('"').unwrap_or(value);
        (!value.contains(['\\', '"'])).then_some(())?;
        parsed.insert(name.to_owned(), value.to_owned()).is_none().then_some(())?;
    }
    let value = value.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels: parsed, value })
}

/// Names of metrics in backquotes in the document.
fn documented() -> BTreeSet<String> {
    names_in(include_str!("../../docs/metrics.md"), "`backpack_", '`')
}

/// Names between an opening and a closing mark; the opening one without its first character begins the name.
fn names_in(text: &str, opening: &str, closing: char) -> BTreeSet<String> {
    let starts = text.match_indices(opening).map(|(at, _)| &text[at + 1..]);
    let names = starts.filter_map(|rest| rest.split_once(closing).map(|(name, _)| name));
    let is_name =
        |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    names.filter(is_name).map(str::to_owned).collect()
}

fn names_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_below(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.extend(names_in(&fs::read_to_string(&path).unwrap(), "\"backpack_", '"'));
        }
    }
}

#[test]
fn the_document_names_every_metric_and_no_other() {
    let mut in_source = BTreeSet::new();
    names_below(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut in_source);
    assert!(in_source.len() > 40, "{in_source:?}");
    let documented = documented();
    let missing: Vec<_> = in_source.difference(&documented).collect();
    let made_up: Vec<_> = documented.difference(&in_source).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    assert!(made_up.is_empty(), "docs/metrics.md has {made_up:?}, which nothing sends");
}

/// Statsd packets that came so far, one metric a line.
fn packets(socket: &UdpSocket, lines: &mut Vec<String>) {
    let mut packet = [0; 2048];
    while let Ok(length) = socket.recv(&mut packet) {
        let text = std::str::from_utf8(&packet[..length]).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
}

/// The value of a metric of that kind, the last one that came.
fn statsd_value(lines: &[String], name: &str, kind: &str) -> Option<u64> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let start = format!("backpack-coordinator.{}.{name}:", host.trim());
    let ending = format!("|{kind}");
    lines.iter().rev().find_map(|line| line.strip_prefix(&start)?.strip_suffix(&ending)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_statsd_and_logs_tell_of_known_traffic() {
    let system = System::start().await;
    let id = "trace-4711";
    for n in 0..3 {
        let put = Request::put(&system.addr, &format!("/secret-key-{n}"), vec![b'x'; 1000]);
        let put = if n == 0 { put.header("x-request-id", id) } else { put };
        assert_eq!(put.send().await.unwrap().status, 200);
    }
    let bad = Request::put(&system.addr, "/a/../b", b"x".to_vec()).send().await.unwrap();
    assert_eq!(bad.status, 400);
    let copied = async || {
        let metrics = Metrics::of(&system.replicator_addr).await;
        metrics.sum("backpack_replicator_tasks_total", &[("outcome", "done")]) == 3.0
    };
    eventually("the copies are made", WITHIN, copied).await;
    let gone = Request::new("DELETE", &system.addr, "/photos:secret-key-2").send().await.unwrap();
    assert_eq!(gone.status, 204);
    let deleted = async || {
        let metrics = Metrics::of(&system.replicator_addr).await;
        metrics.sum("backpack_replicator_tasks_total", &[("outcome", "deleted")]) == 1.0
            && metrics.sum("backpack_queue_acked_total", &[]) == 4.0
    };
    eventually("the delete is carried out", WITHIN, deleted).await;
    let drained = async || {
        let metrics = Metrics::of(&system.addr).await;
        metrics.sum("backpack_shard_used_bytes", &[("shard", "photos")]) == 2000.0
            && metrics.sum("backpack_queue_backlog_tasks", &[]) == 0.0
            && metrics.sum("backpack_queue_server_up", &[]) == 1.0
    };
    eventually("the gauges follow", WITHIN, drained).await;

    check_metrics(&system, id).await;
    check_logs(&system, id);
    check_statsd(&system);
    check_clock(&system).await;
}

/// A version from a clock that is an hour ahead reaches the nodes.
async fn check_clock(system: &System) {
    let version = Version::from_parts(unix_ms() + 3_600_000, 1).to_string();
    for node in &system.node_addrs {
        assert_eq!(Metrics::of(node).await.sum("backpack_node_clock_ahead_seconds", &[]), 0.0);
        let put = Request::put(node, "/ahead", b"x".to_vec()).header("x-backpack-version", &version);
        assert_eq!(put.send().await.unwrap().status, 201);
    }
    let warning = "versions are ahead of this machine's clock";
    assert_eq!(system.coordinator.log().matches(warning).count(), 0);
    assert_eq!(Request::put(&system.addr, "/another", b"x".to_vec()).send().await.unwrap().status, 200);
    let is_ahead = async |addr: &str, name: &str| {
        let ahead_s = Metrics::of(addr).await.sum(name, &[]);
        // It shrinks while the machine's clock goes on.
        ahead_s > 3000.0 && ahead_s <= 3600.0
    };
    eventually("it is measured", WITHIN, async || {
        is_ahead(&system.addr, "backpack_coordinator_clock_ahead_seconds").await
            && is_ahead(&system.node_addrs[0], "backpack_node_clock_ahead_seconds").await
            && is_ahead(&system.node_addrs[1], "backpack_node_clock_ahead_seconds").await
            && system.coordinator.log().contains(warning)
    })
    .await;
    assert_eq!(system.coordinator.log().matches(warning).count(), 1);
}

async fn check_metrics(system: &System, id: &str) {
    let coordinator = Metrics::of(&system.addr).await;
    for (name, labels, value) in [
        ("backpack_coordinator_uploads_total", vec![("result", "ok")], 3.0),
        ("backpack_coordinator_uploads_total", vec![("result", "client_error")], 1.0),
        ("backpack_coordinator_uploads_total", vec![("result", "error")], 0.0),
        ("backpack_coordinator_upload_seconds_count", vec![("result", "ok")], 3.0),
        ("backpack_coordinator_upload_bytes_total", vec![], 3000.0),
        ("backpack_coordinator_copies_reached_total", vec![("copies", "1")], 3.0),
        ("backpack_coordinator_deletes_total", vec![("result", "ok")], 1.0),
        ("backpack_coordinator_uncounted_bytes", vec![], 0.0),
        ("backpack_queue_pushed_total", vec![], 4.0),
        ("backpack_queue_push_seconds_count", vec![], 4.0),
        ("backpack_queue_dead_letters", vec![], 0.0),
        ("backpack_shard_capacity_bytes", vec![("shard", "photos")], f64::from(1 << 30)),
        ("backpack_shard_writable", vec![("shard", "photos")], 1.0),
        ("backpack_http_requests_total", vec![("method", "PUT"), ("status", "200")], 3.0),
        ("backpack_http_requests_total", vec![("method", "PUT"), ("status", "400")], 1.0),
    ] {
        assert_eq!(coordinator.sum(name, &labels), value, "{name} {labels:?}");
    }
    let replicator = Metrics::of(&system.replicator_addr).await;
    for (name, value) in [
        ("backpack_replicator_bytes_total", 3000.0),
        ("backpack_replicator_lag_seconds_count", 3.0),
        ("backpack_replicator_in_flight", 0.0),
        ("backpack_queue_claimed_total", 4.0),
        ("backpack_queue_buried_total", 0.0),
    ] {
        assert_eq!(replicator.sum(name, &[]), value, "{name}");
    }
    let nodes = [Metrics::of(&system.node_addrs[0]).await, Metrics::of(&system.node_addrs[1]).await];
    let both = |name: &str, labels: &[_]| nodes.iter().map(|node| node.sum(name, labels)).sum::<f64>();
    assert_eq!(both("backpack_node_puts_total", &[("outcome", "created")]), 6.0);
    assert_eq!(both("backpack_node_received_bytes_total", &[]), 6000.0);
    assert_eq!(both("backpack_node_deletes_total", &[("outcome", "deleted")]), 2.0);
    assert_eq!(both("backpack_node_commit_seconds_count", &[]), 6.0);
    let documented = documented();
    for metrics in nodes.iter().chain([&coordinator, &replicator]) {
        metrics.check(&["secret-key", id]);
        let unknown: Vec<_> = metrics.families().difference(&documented).cloned().collect();
        assert!(unknown.is_empty(), "docs/metrics.md lacks {unknown:?}");
    }
}

/// One upload is found in every log by its request id.
fn check_logs(system: &System, id: &str) {
    let lines = |daemon: &Daemon, message: &str| {
        let log = daemon.log();
        let lines = log.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}"))
        });
        lines.filter(|line| line["request_id"] == id && line["message"] == message).collect::<Vec<_>>()
    };
    let at_coordinator = lines(&system.coordinator, "request");
    assert_eq!(at_coordinator.len(), 1, "{}", system.coordinator.log());
    assert_eq!((&at_coordinator[0]["status"], &at_coordinator[0]["method"]), (&200.into(), &"PUT".into()));
    for node in &system.nodes {
        // One of them took it from the coordinator, the other one from the replicator.
        let puts = lines(node, "request").into_iter().filter(|line| line["method"] == "PUT").count();
        assert_eq!(puts, 1, "{}", node.log());
    }
    let tasks = lines(&system.replicator, "task done");
    assert_eq!(tasks.len(), 1, "{}", system.replicator.log());
    assert_eq!(tasks[0]["key"], "secret-key-0");
}

/// The original's packets.
fn check_statsd(system: &System) {
    let mut lines = Vec::new();
    wait_for("counters, timings and gauges", WITHIN, || {
        packets(&system.statsd, &mut lines);
        // The last gauge of a round that has seen the delete.
        (statsd_value(&lines, "used_size", "g") == Some(2000)
            && statsd_value(&lines, "queue_length", "g") == Some(0))
        .then_some(())
    });
    for (name, value) in [
        ("photos.rw.current_size", 2000),
        ("photos.rw.capacity_size", 1 << 30),
        ("photos.rw.available_size", (1 << 30) - 2000),
        ("total_size", 1 << 30),
        ("total_shards", 1),
        ("available_space", (1 << 30) - 2000),
    ] {
        assert_eq!(statsd_value(&lines, name, "g"), Some(value), "{name}: {lines:#?}");
    }
    let counted = |ending: &str| lines.iter().filter(|line| line.ends_with(ending)).count();
    assert_eq!(counted(".add_photo.ok:1|c"), 3, "{lines:#?}");
    let timings = lines.iter().filter(|line| line.contains(".add_photo.ok:") && line.ends_with("|ms"));
    assert_eq!(timings.count(), 3, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("add_photo.error")), "a bad request is no failed upload");
}
