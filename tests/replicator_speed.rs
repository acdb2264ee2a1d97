//! How fast a backlog drains. Not a promise, so not run with the tests:
//! `cargo test --release --test replicator_speed -- --ignored --nocapture`

mod replicator_rig;
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    client::{PutBody, PutHead, Servers},
    daemon::install_tls_provider,
    http::RequestId,
    model::{Meta, QueueInfo, QueueServer, Server},
    queue::{QueueOptions, connect},
    replicator::Config,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use replicator_rig::{Rig, copy, version};
use support::{daemon::Daemon, nginx::Nginx, port::free_port, redis::Redis};

const BLOB_BYTES: usize = 16 * 1024;
const WITHIN: Duration = Duration::from_secs(300);

fn node(folder: &tempfile::TempDir) -> (Daemon, String) {
    let port = free_port();
    let data = folder.path().join(port.to_string());
    let args = [data.display().to_string(), "127.0.0.1".to_owned(), port.to_string()];
    let daemon = Daemon::start(env!("CARGO_BIN_EXE_backpack-node"), args);
    let addr = format!("127.0.0.1:{port}");
    daemon.wait_ready(&addr);
    (daemon, addr)
}

async fn fill(source: &str, keys: &[String]) {
    let port = source.rsplit(':').next().unwrap().parse().unwrap();
    let source = Server { id: "s".parse().unwrap(), host: "127.0.0.1".to_owned(), port };
    let servers = Arc::new(Servers::default());
    let puts = stream::iter(keys).map(|key| {
        let (servers, source) = (servers.clone(), source.clone());
        async move {
            let head = PutHead {
                key: key.parse().unwrap(),
                version: Some(version(1)),
                meta: Meta::default(),
                length: Some(BLOB_BYTES as u64),
                checksum: None,
                conditions: http::HeaderMap::new(),
            };
            let (sender, body) = PutBody::channel(head.length);
            let id = RequestId::fresh();
            let put = servers.put(&source, &head, body, &id);
            let feed = async {
                sender.send(Bytes::from(vec![fastrand::u8(..); BLOB_BYTES])).await;
                sender.end().await;
            };
            tokio::join!(put, feed).0.unwrap();
        }
    });
    puts.buffer_unordered(64).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and wants a release build"]
async fn tasks_per_second() {
    install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let (source, own, nginx, redis) = (node(&folder), node(&folder), Nginx::webdav(), Redis::start());
    let server = QueueServer { host: "127.0.0.1".to_owned(), port: redis.port(), tls: false };
    let info = QueueInfo { key: "queue".to_owned(), servers: vec![server] };
    let queue = connect(&info, &QueueOptions::default(), None).unwrap();
    let rig = Rig::on(queue, tempfile::tempdir().unwrap());
    rig.add_server("s", &source.1);
    rig.add_server("node", &own.1);
    rig.add_server("nginx", &nginx.addr());
    let keys: Vec<String> = (0..10_000).map(|number| format!("photos/{number}.jpg")).collect();
    fill(&source.1, &keys).await;
    for target in ["node", "nginx"] {
        let mut rest = keys.as_slice();
        for (concurrency, tasks) in [(1, 1000), (8, 4000), (32, 5000)] {
            let (now, later) = rest.split_at(tasks);
            rest = later;
            let tasks: Vec<_> = now.iter().map(|key| copy(key, Some(1), &["s"], target)).collect();
            rig.push(&tasks).await;
            let config = Config { concurrency, per_target: Some(concurrency), ..Config::default() };
            let started = Instant::now();
            let replicator = rig.start(config);
            rig.drained(WITHIN).await;
            let rate = tasks.len() as f64 / started.elapsed().as_secs_f64();
            println!("{target}, concurrency {concurrency}: {rate:.0} tasks/s");
            replicator.stop().await;
        }
    }
    assert!(rig.dead().await.is_empty());
}
