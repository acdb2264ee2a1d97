//! Space of overwritten and deleted blobs comes back while the engine runs, whatever else goes on, and whatever ends it.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backpack::{
    model::{Meta, Version},
    storage::{Engine, Found, NewBlob, OpenError, Options, Storage, StorageError, SyncMode},
};
use bytes::Bytes;

use crate::support::{
    daemon::Daemon, http::Request, port::free_port, small_disk::SmallDisk, wait::eventually, writers::Writers,
};

const WITHIN: Duration = Duration::from_secs(300);
const BODY: usize = 8_000;
const KEYS: u64 = 50;

/// Volumes that are full soon.
fn options() -> Options {
    Options {
        sync: SyncMode::Never,
        volume_bytes: 256 << 10,
        small_limit: 100_000,
        reserve_bytes: 4096,
        ..Options::default()
    }
}

fn body(name: &str, n: u64) -> Vec<u8> {
    format!("{name}@{n};").into_bytes().into_iter().cycle().take(BODY).collect()
}

async fn put(engine: &Engine, key: u64, n: u64) {
    try_put(engine, key, n).await.unwrap();
}

async fn try_put(engine: &Engine, key: u64, n: u64) -> Result<(), StorageError> {
    let name = format!("k{key}");
    let version = Version::from_parts(n, 1);
    let new = NewBlob { key: name.parse().unwrap(), version, meta: Meta::default(), length: None };
    let mut writer = engine.create(new).await?;
    writer.write(Bytes::from(body(&name, n))).await?;
    writer.commit().await.map(|_| ())
}

async fn delete(engine: &Engine, key: u64, n: u64) {
    engine.delete(&format!("k{key}").parse().unwrap(), Version::from_parts(n, 1)).await.unwrap();
}

/// Which version a key holds, its bytes checked; `None` where it was deleted or never there.
async fn get(engine: &Engine, key: u64) -> Option<u64> {
    let name = format!("k{key}");
    let Some(Found::Blob(blob)) = engine.open(&name.parse().unwrap()).await.unwrap() else { return None };
    let n = blob.info().version.unix_ms();
    assert!(blob.read(0, blob.info().length).await.unwrap() == body(&name, n), "{name}");
    Some(n)
}

fn volume_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir.join("volumes"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().map_or(0, |meta| meta.len()))
        .sum()
}

/// What live bytes may take on the disk: the share of dead ones that is left alone, the volume that is written to, the
/// one that is rewritten.
fn bound(options: &Options, live: u64) -> u64 {
    (live as f64 / (1.0 - options.compact_dead_ratio)) as u64 + 3 * options.volume_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn space_stays_bounded_under_overwrites_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    let live = KEYS * (BODY as u64 + 50);
    for n in 1..=20 {
        for key in 0..KEYS {
            put(&engine, key, n).await;
        }
    }
    let settled = async |live| {
        let is_small = async || engine.usage().disk_bytes <= bound(&options(), live);
        eventually("the space is given back", WITHIN, is_small).await;
        assert!(volume_bytes(dir.path()) <= bound(&options(), live));
    };
    settled(live).await;
    let usage = engine.usage();
    assert!(usage.reclaimed_bytes > 15 * live, "{usage:?}");
    assert!(usage.compacted_bytes < usage.reclaimed_bytes && usage.blobs == KEYS, "{usage:?}");
    for key in 0..KEYS - 5 {
        delete(&engine, key, 30).await;
    }
    // Volumes in which only deletes are: they are young.
    for n in 31..=60 {
        put(&engine, KEYS - 1, n).await;
        put(&engine, KEYS - 2, n).await;
    }
    settled(5 * (BODY as u64 + 50)).await;
    engine.close().await.unwrap();
    drop(engine);
    let engine = Engine::open(dir.path(), options()).unwrap();
    for key in 0..KEYS {
        let held = if key < KEYS - 5 {
            None
        } else if key < KEYS - 2 {
            Some(20)
        } else {
            Some(60)
        };
        assert_eq!(get(&engine, key).await, held, "{key}");
    }
    let usage = engine.usage();
    assert_eq!((usage.blobs, usage.tombstones, usage.damaged), (5, KEYS - 5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_paused_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    engine.pause_compaction(true);
    let started = Instant::now();
    // Twice as long as it takes to see that a volume is worth it.
    for n in 1.. {
        for key in 0..KEYS {
            put(&engine, key, n).await;
        }
        if started.elapsed() > Duration::from_secs(2) && engine.usage().volumes > 3 {
            break;
        }
    }
    let usage = engine.usage();
    assert!(usage.compaction_paused && usage.reclaimed_bytes == 0, "{usage:?}");
    engine.pause_compaction(false);
    eventually("it goes on", WITHIN, async || engine.usage().reclaimed_bytes > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    // So slow that what is left of one volume is paid for far later than the stop is waited for.
    let slow = Options { compact_bytes_per_second: 100, ..options() };
    let engine = Engine::open(dir.path(), slow).unwrap();
    // Half of each volume is overwritten.
    for n in 1..=10 {
        for key in 0..KEYS / 2 {
            put(&engine, key, n).await;
            put(&engine, n * 1000 + key, 1).await;
        }
    }
    let begun = async || engine.usage().compacted_bytes > 0;
    eventually("it is in the middle of a volume", WITHIN, begun).await;
    let stopped = tokio::time::timeout(WITHIN, engine.close()).await;
    stopped.unwrap().unwrap();
    drop(engine);
    let engine = Engine::open(dir.path(), options()).unwrap();
    eventually("the next start goes on", WITHIN, async || engine.usage().reclaimed_bytes > 0).await;
    for key in 0..KEYS / 2 {
        assert_eq!(get(&engine, key).await, Some(10));
        assert_eq!(get(&engine, 5000 + key).await, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers_go_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), options()).unwrap();
    for key in 0..KEYS {
        put(&engine, key, 1).await;
    }
    let (done, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![1; KEYS as usize])));
    let readers = (0..3).map(|seed| {
        let (engine, done, newest) = (engine.clone(), done.clone(), newest.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            while !done.load(Ordering::SeqCst) {
                let key = random.u64(..KEYS);
                let least = newest.lock().unwrap()[key as usize];
                let held = get(&engine, key).await;
                assert!(held.is_some_and(|held| held >= least), "{key}: {held:?}, {least} was acknowledged");
                if random.u8(..100) == 0 {
                    assert_eq!(engine.list("k", None, 1000).await.unwrap().len() as u64, KEYS);
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let started = Instant::now();
    for n in 2.. {
        for key in 0..KEYS {
            put(&engine, key, n).await;
            newest.lock().unwrap()[key as usize] = n;
        }
        if n > 20 && engine.usage().reclaimed_bytes > 20 * KEYS * BODY as u64 {
            break;
        }
        assert!(started.elapsed() < WITHIN, "{:?}", engine.usage());
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_of_dead_records_takes_uploads_again_by_itself() {
    let Some(disk) = SmallDisk::mount(8 << 20) else {
        eprintln!("not run: mounting is not allowed here");
        return;
    };
    let engine = Engine::open(disk.path().join("data"), options()).unwrap();
    engine.pause_compaction(true);
    let mut newest = vec![0; KEYS as usize];
    let refused = 'filled: {
        for n in 1.. {
            for key in 0..KEYS {
                match try_put(&engine, key, n).await {
                    Ok(()) => newest[key as usize] = n,
                    Err(error) => break 'filled error,
                }
            }
        }
        unreachable!("no disk holds all versions")
    };
    assert!(matches!(refused, StorageError::Full), "{refused}");
    assert!(engine.usage().free_bytes > 64 << 10, "room is left: {:?}", engine.usage());
    delete(&engine, 0, 1000).await;
    engine.pause_compaction(false);
    let taken = async || try_put(&engine, 0, 1001).await.is_ok();
    eventually("uploads are taken again", WITHIN, taken).await;
    for (key, &n) in newest.iter().enumerate().skip(1) {
        assert_eq!(get(&engine, key as u64).await, Some(n), "{key}");
    }
    assert_eq!((engine.usage().blobs, engine.usage().damaged), (KEYS, 0));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Engine::open(dir.path(), Options { compact_dead_ratio: 0.0, ..options() });
    assert!(matches!(opened, Err(OpenError::Options(_))));
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_backpack-node");
const WRITERS: usize = 8;
const KEYS_PER_WRITER: usize = 25;
const ROUNDS: usize = 4;
/// Writes acknowledged in a round before the node is killed, at least.
const ACKNOWLEDGED: usize = 200;

fn bytes(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    // One in ten gets a file of its own.
    let length = if random.u8(..10) == 0 { random.usize(16_384..60_000) } else { random.usize(..12_000) };
    (0..length).map(|_| random.u8(..)).collect()
}

pub fn metric(addr: &str, name: &str) -> f64 {
    let all = Request::get(addr, "/-/metrics").send_blocking().unwrap().text();
    let line = all.lines().find(|line| line.starts_with(&format!("{name}{{")));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn kill_9_of_a_node_that_compacts_loses_nothing_acknowledged_and_brings_nothing_back() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let (data, port) = (dir.path().to_str().unwrap(), port.to_string());
    // Volumes of some twenty blobs, each worth rewriting soon, and so slowly that the kill comes in the middle.
    let settings = ["--small-blob-size", "16kb", "--volume-size", "128kb", "--compact-dead-ratio", "0.1"];
    let slow = ["--compact-bytes-per-second", "2mb"];
    let node = Daemon::start(PROGRAM, [&[data, "127.0.0.1", &port], &settings[..], &slow].concat());
    let addr = format!("127.0.0.1:{port}");
    node.wait_ready(&addr);
    let writers = Writers::new(WRITERS, KEYS_PER_WRITER, bytes);
    for _ in 0..ROUNDS {
        let has_compacted = || metric(&addr, "backpack_node_reclaimed_bytes_total") > 0.0;
        writers.write_until_killed(&node, &addr, ACKNOWLEDGED, has_compacted);
        node.restart();
        node.wait_ready(&addr);
        writers.check(&addr);
    }
    let stats = Request::get(&addr, "/stats").send_blocking().unwrap().text();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let blobs = writers.blobs();
    assert_eq!((&stats["blobs"], &stats["damaged"]), (&blobs.len().into(), &0.into()));
    let files: usize = fs::read_dir(dir.path().join("blobs"))
        .unwrap()
        .map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum();
    let whole = blobs.iter().filter(|length| **length > 16_384).count();
    assert_eq!(files, whole, "files of overwritten and deleted blobs are gone, others are there");
}
