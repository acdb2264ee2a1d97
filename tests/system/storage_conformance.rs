//! What every implementation of `Storage` must do, as functions over the trait. A new implementation adds a line to
//! `conforms!` at the end.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use backpack::{
    model::{Checksum, Key, Meta, Version},
    storage::{
        Before, Blob, Engine, Found, NewBlob, Options, READ_CHUNK_BYTES, Storage, StorageError, SyncMode,
        Usage, Written,
    },
};
use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};

type Store = Arc<dyn Storage>;

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn version(n: u64) -> Version {
    Version::from_parts(n, 1)
}

/// Bytes that differ from block to block.
fn body(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

async fn try_put(
    store: &Store,
    name: &str,
    n: u64,
    bytes: &[u8],
    announced: bool,
) -> Result<Written, StorageError> {
    let meta = Meta::from_pairs(vec![("content-type".into(), format!("type/{n}"))]);
    let length = announced.then_some(bytes.len() as u64);
    let mut writer = store.create(NewBlob { key: key(name), version: version(n), meta, length }).await?;
    for part in bytes.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(part)).await?;
    }
    assert_eq!(writer.checksum(), Checksum::of(bytes));
    writer.commit().await
}

async fn put(store: &Store, name: &str, n: u64, bytes: &[u8]) -> Written {
    try_put(store, name, n, bytes, true).await.unwrap()
}

async fn delete(store: &Store, name: &str, n: u64) -> Written {
    store.delete(&key(name), version(n)).await.unwrap()
}

async fn open(store: &Store, name: &str) -> Box<dyn Blob> {
    match store.open(&key(name)).await.unwrap() {
        Some(Found::Blob(blob)) => {
            if let Some(at_hand) = store.at_hand(&key(name)) {
                assert!(
                    *at_hand.info() == *blob.info() && *at_hand.data() == read_all(&*blob).await,
                    "{name}"
                );
            }
            blob
        }
        Some(Found::Tombstone(version)) => panic!("{name} was deleted by {version}"),
        None => panic!("{name} is not there"),
    }
}

async fn read_all(blob: &dyn Blob) -> Vec<u8> {
    let (mut all, length) = (Vec::new(), blob.info().length);
    while (all.len() as u64) < length {
        let start = all.len() as u64;
        all.extend_from_slice(&blob.read(start, (start + READ_CHUNK_BYTES).min(length)).await.unwrap());
    }
    all
}

async fn tombstone(store: &Store, name: &str) -> Version {
    match store.open(&key(name)).await.unwrap() {
        Some(Found::Tombstone(version)) => {
            assert!(store.at_hand(&key(name)).is_none(), "{name}");
            version
        }
        Some(Found::Blob(_)) => panic!("{name} is a blob"),
        None => panic!("{name} is not there"),
    }
}

fn counted(usage: &Usage) -> (u64, u64, u64) {
    (usage.blobs, usage.blob_bytes, usage.tombstones)
}

const SIZES: [usize; 12] =
    [0, 1, 1000, 65_535, 65_536, 65_537, 131_072, 262_144, 262_145, 300_000, 1_000_000, 9_000_000];

async fn gives_back_what_was_put(store: Store) {
    for (n, size) in SIZES.into_iter().enumerate() {
        for announced in [true, false] {
            let (name, bytes) = (format!("a/{size}?{announced}"), body(size, n as u64));
            let written = try_put(&store, &name, n as u64, &bytes, announced).await.unwrap();
            assert_eq!(written.before, Before::Nothing);
            assert_eq!((written.length, written.checksum), (size as u64, Checksum::of(&bytes)));
            let blob = open(&store, &name).await;
            let info = blob.info();
            assert_eq!((info.version, info.length), (version(n as u64), size as u64));
            assert_eq!(info.checksum, Checksum::of(&bytes));
            assert_eq!(info.meta.pairs(), [("content-type".to_owned(), format!("type/{n}"))]);
            assert!(read_all(&*blob).await == bytes, "{name}");
        }
    }
    assert!(store.open(&key("a")).await.unwrap().is_none());
}

async fn gives_back_any_range(store: Store) {
    for size in [1, 70_000, 300_000, 9_000_000_u64] {
        let bytes = body(size as usize, size);
        put(&store, "r", size, &bytes).await;
        let blob = open(&store, "r").await;
        let mut random = fastrand::Rng::with_seed(size);
        for _ in 0..50 {
            let start = random.u64(0..=size);
            let end = random.u64(start..=size.min(start + READ_CHUNK_BYTES));
            assert!(blob.read(start, end).await.unwrap() == bytes[start as usize..end as usize]);
        }
        assert!(blob.read(0, size + 1).await.is_err(), "beyond the end");
        assert!(blob.read(1, 0).await.is_err());
    }
}

async fn a_body_of_another_length_stores_nothing(store: Store) {
    let new = |length| NewBlob { key: key("k"), version: version(1), meta: Meta::default(), length };
    let mut longer = store.create(new(Some(3))).await.unwrap();
    let error = longer.write(Bytes::from_static(b"four")).await.unwrap_err();
    assert!(matches!(error, StorageError::WrongLength { announced: 3, got: 4 }), "{error}");
    assert!(longer.commit().await.is_err());
    let mut shorter = store.create(new(Some(3))).await.unwrap();
    shorter.write(Bytes::from_static(b"no")).await.unwrap();
    let error = shorter.commit().await.unwrap_err();
    assert!(matches!(error, StorageError::WrongLength { announced: 3, got: 2 }), "{error}");
    let mut abandoned = store.create(new(None)).await.unwrap();
    abandoned.write(Bytes::from(body(9_000_000, 1))).await.unwrap();
    drop(abandoned);
    assert!(store.open(&key("k")).await.unwrap().is_none());
    assert_eq!(counted(&store.usage()), (0, 0, 0));
}

async fn the_greater_version_stays(store: Store) {
    assert_eq!(put(&store, "k", 5, b"five").await.before, Before::Nothing);
    for (n, before) in
        [(4, Before::Newer(version(5))), (5, Before::Newer(version(5))), (6, Before::Older { length: 4 })]
    {
        let written = put(&store, "k", n, b"other").await;
        assert_eq!((written.before, written.length), (before, 5), "{n}");
    }
    assert_eq!(read_all(&*open(&store, "k").await).await, b"other");
    assert_eq!(counted(&store.usage()), (1, 5, 0));
    // A blob of another size class takes the place all the same, and back.
    assert_eq!(put(&store, "k", 7, &body(9_000_000, 7)).await.before, Before::Older { length: 5 });
    assert_eq!(put(&store, "k", 6, &body(9_000_000, 6)).await.before, Before::Newer(version(7)));
    assert_eq!(put(&store, "k", 8, b"x").await.before, Before::Older { length: 9_000_000 });
    assert_eq!(counted(&store.usage()), (1, 1, 0));
}

async fn a_delete_leaves_a_tombstone(store: Store) {
    assert_eq!(delete(&store, "never", 3).await.before, Before::Nothing);
    assert_eq!(tombstone(&store, "never").await, version(3));
    put(&store, "k", 5, b"five").await;
    assert_eq!(delete(&store, "k", 4).await.before, Before::Newer(version(5)));
    assert_eq!(read_all(&*open(&store, "k").await).await, b"five");
    let deleted = delete(&store, "k", 5).await;
    assert_eq!((deleted.before, deleted.length), (Before::Older { length: 4 }, 0));
    assert_eq!(tombstone(&store, "k").await, version(5));
    assert_eq!(delete(&store, "k", 5).await.before, Before::Newer(version(5)));
    assert_eq!(put(&store, "k", 5, b"five").await.before, Before::Newer(version(5)));
    assert_eq!(put(&store, "k", 4, b"five").await.before, Before::Newer(version(5)));
    assert_eq!(delete(&store, "k", 6).await.before, Before::OlderTombstone);
    assert_eq!(counted(&store.usage()), (0, 0, 2));
    assert_eq!(put(&store, "k", 7, b"seven").await.before, Before::OlderTombstone);
    assert_eq!(counted(&store.usage()), (1, 5, 1));
}

async fn lists_in_the_order_of_bytes(store: Store) {
    let names = ["b", "a/2", "a/10", "a", "a/1", "ä", "c?x=%20", "a/1/x", "B"];
    for (n, name) in names.into_iter().enumerate() {
        put(&store, name, 10 + n as u64, name.as_bytes()).await;
    }
    delete(&store, "b", 90).await;
    put(&store, "a", 91, b"again").await;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let all = store.list("", None, 100).await.unwrap();
    assert_eq!(all.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>(), sorted);
    let mut paged = Vec::new();
    while let Some(after) = Some(paged.last().map(|listed: &backpack::storage::Listed| listed.key.clone())) {
        let page = store.list("", after.as_ref().map(Key::as_str), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let prefixed = store.list("a/1", Some("a/1"), 100).await.unwrap();
    assert_eq!(prefixed.iter().map(|listed| listed.key.as_str()).collect::<Vec<_>>(), ["a/1/x", "a/10"]);
    assert!(store.list("", None, 0).await.unwrap().is_empty());
    assert!(store.list("x", None, 10).await.unwrap().is_empty());
    let find = |name| all.iter().find(|listed| listed.key.as_str() == name).unwrap();
    let (a, b) = (find("a"), find("b"));
    assert_eq!((a.version, a.length, a.deleted), (version(91), 5, false));
    assert_eq!(a.checksum, Some(Checksum::of(b"again")));
    assert_eq!((b.version, b.length, b.deleted, b.checksum), (version(90), 0, true, None));
}

async fn a_blob_stays_readable_when_its_key_moves_on(store: Store) {
    for size in [10, 1_000_000, 9_000_000] {
        for deleted in [false, true] {
            let (name, bytes) = (format!("{size}/{deleted}"), body(size, 3));
            put(&store, &name, 1, &bytes).await;
            let blob = open(&store, &name).await;
            assert!(blob.read(0, 1).await.unwrap() == bytes[..1]);
            if deleted {
                delete(&store, &name, 2).await;
            } else {
                put(&store, &name, 2, &body(size, 4)).await;
            }
            assert!(read_all(&*blob).await == bytes, "{name}");
        }
    }
}

async fn nothing_is_visible_before_the_commit(store: Store) {
    let new = NewBlob { key: key("k"), version: version(1), meta: Meta::default(), length: None };
    let mut writer = store.create(new).await.unwrap();
    for part in body(9_000_000, 1).chunks(1_000_000) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
        assert!(store.open(&key("k")).await.unwrap().is_none());
    }
    writer.commit().await.unwrap();
    assert_eq!(open(&store, "k").await.info().length, 9_000_000);
}

async fn takes_many_writers_at_once(store: Store) {
    let writers = (0..64_u64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..10 {
                put(&store, &format!("{writer}/{n}"), 1, &body(500 + n, writer)).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for writer in 0..64 {
        for n in 0..10 {
            let blob = open(&store, &format!("{writer}/{n}")).await;
            assert!(read_all(&*blob).await == body(500 + n, writer));
        }
    }
    assert_eq!(store.usage().blobs, 640);
}

async fn of_many_writers_of_one_key_the_greatest_version_stays(store: Store) {
    let writers = (0..64_u64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put(&store, "k", 1 + n * 37 % 64, &body(10 + n as usize, n)).await.before })
    });
    let mut replaced = 0;
    for writer in writers.collect::<Vec<_>>() {
        replaced += u64::from(!matches!(writer.await.unwrap(), Before::Newer(_)));
    }
    assert!(replaced >= 1);
    let blob = open(&store, "k").await;
    assert_eq!(blob.info().version, version(64));
    assert_eq!(counted(&store.usage()), (1, blob.info().length, 0));
}

async fn a_closed_storage_takes_no_writes_and_still_reads(store: Store) {
    put(&store, "k", 1, b"x").await;
    let new = NewBlob { key: key("l"), version: version(1), meta: Meta::default(), length: None };
    let late = store.create(new.clone()).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(late.commit().await, Err(StorageError::ReadOnly(_))));
    assert!(matches!(store.create(new).await.map(|_| ()), Err(StorageError::ReadOnly(_))));
    assert!(matches!(store.delete(&key("k"), version(2)).await, Err(StorageError::ReadOnly(_))));
    assert!(store.usage().read_only.is_some());
    assert_eq!(read_all(&*open(&store, "k").await).await, b"x");
}

async fn usage_says_what_the_disk_holds(store: Store) {
    put(&store, "k", 1, &body(100_000, 1)).await;
    let usage = store.usage();
    assert!(usage.disk_bytes >= 100_000 && usage.free_bytes > 0);
    assert_eq!((usage.damaged, usage.read_only), (0, None));
}

/// What a test does to the store and to the model.
#[derive(Debug, Clone)]
enum Step {
    Put { name: usize, n: u64, size: usize, announced: bool },
    Delete { name: usize, n: u64 },
    Read { name: usize, from: prop::sample::Index, to: prop::sample::Index },
    List { prefix: usize, after: Option<usize>, limit: usize },
}

const NAMES: [&str; 6] = ["a", "a/1", "a/2", "b", "b?q", "é"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let size = prop_oneof![0_usize..2000, 60_000_usize..140_000, 250_000_usize..600_000];
    let step = prop_oneof![
        4 => (name.clone(), 0_u64..20, size, any::<bool>())
            .prop_map(|(name, n, size, announced)| Step::Put { name, n, size, announced }),
        1 => (name.clone(), 0_u64..20).prop_map(|(name, n)| Step::Delete { name, n }),
        3 => (name.clone(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(name, from, to)| Step::Read { name, from, to }),
        1 => (name.clone(), proptest::option::of(name), 0_usize..8)
            .prop_map(|(prefix, after, limit)| Step::List { prefix, after, limit }),
    ];
    proptest::collection::vec(step, 1..40)
}

type Model = BTreeMap<&'static str, (u64, Option<Vec<u8>>)>;

/// What the model says a write does.
fn expected(model: &Model, name: &str, n: u64, tombstone: bool) -> Before {
    match model.get(name) {
        None => Before::Nothing,
        Some((held, old)) if (n, tombstone) <= (*held, old.is_none()) => Before::Newer(version(*held)),
        Some((_, Some(old))) => Before::Older { length: old.len() as u64 },
        Some((_, None)) => Before::OlderTombstone,
    }
}

async fn take_step(store: &Store, model: &mut Model, step: Step) {
    match step {
        Step::Put { name, n, size, announced } => {
            let (name, bytes) = (NAMES[name], body(size, n));
            let before = expected(model, name, n, false);
            let written = try_put(store, name, n, &bytes, announced).await.unwrap();
            assert_eq!(written.before, before);
            if !matches!(before, Before::Newer(_)) {
                model.insert(name, (n, Some(bytes)));
            }
        }
        Step::Delete { name, n } => {
            let name = NAMES[name];
            let before = expected(model, name, n, true);
            assert_eq!(delete(store, name, n).await.before, before);
            if !matches!(before, Before::Newer(_)) {
                model.insert(name, (n, None));
            }
        }
        Step::Read { name, from, to } => match model.get(NAMES[name]) {
            None => assert!(store.open(&key(NAMES[name])).await.unwrap().is_none()),
            Some((n, None)) => assert_eq!(tombstone(store, NAMES[name]).await, version(*n)),
            Some((n, Some(bytes))) => {
                let blob = open(store, NAMES[name]).await;
                assert_eq!(blob.info().version, version(*n));
                let (a, b) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
                let (start, end) = (a.min(b), a.max(b));
                assert!(blob.read(start as u64, end as u64).await.unwrap() == bytes[start..end]);
            }
        },
        Step::List { prefix, after, limit } => {
            let (prefix, after) = (NAMES[prefix], after.map(|after| NAMES[after]));
            let listed = store.list(prefix, after, limit).await.unwrap();
            let wanted: Vec<_> = model
                .iter()
                .filter(|(name, _)| name.starts_with(prefix) && after.is_none_or(|after| **name > after))
                .map(|(name, (n, bytes))| {
                    let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    (*name, version(*n), length, bytes.as_ref().map(|bytes| Checksum::of(bytes)))
                })
                .take(limit)
                .collect();
            let got: Vec<_> = listed
                .iter()
                .map(|listed| (listed.key.as_str(), listed.version, listed.length, listed.checksum))
                .collect();
            assert_eq!(got, wanted);
        }
    }
    let blobs = || model.values().filter_map(|(_, bytes)| bytes.as_ref());
    let tombstones = model.values().filter(|(_, bytes)| bytes.is_none()).count() as u64;
    let bytes = blobs().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(counted(&store.usage()), (blobs().count() as u64, bytes, tombstones));
}

/// Anything in any order, against a map; with a reopen wherever the implementation can be reopened.
fn agrees_with_a_map(make: fn() -> Box<dyn Reopen>, cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (steps(), proptest::collection::vec(any::<prop::sample::Index>(), 0..4));
    let run = TestRunner::new(config).run(&strategy, |(steps, reopens)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut home = make();
        runtime.block_on(async {
            let reopens: Vec<usize> = reopens.iter().map(|at| at.index(steps.len())).collect();
            let mut store = home.open();
            let mut model = Model::new();
            for (at, step) in steps.into_iter().enumerate() {
                if reopens.contains(&at) {
                    store.close().await.unwrap();
                    drop(store);
                    store = home.open();
                }
                take_step(&store, &mut model, step).await;
            }
        });
        Ok(())
    });
    run.unwrap();
}

/// An implementation that can be opened again on what it wrote.
trait Reopen {
    fn open(&mut self) -> Store;
}

struct EngineHome {
    dir: tempfile::TempDir,
    options: Options,
}

impl Reopen for EngineHome {
    fn open(&mut self) -> Store {
        Engine::open(self.dir.path(), self.options.clone()).unwrap()
    }
}

fn engine(options: Options) -> Box<dyn Reopen> {
    Box::new(EngineHome { dir: tempfile::tempdir().unwrap(), options })
}

/// Everything in volumes.
fn usual() -> Box<dyn Reopen> {
    engine(Options::default())
}

/// Nearly everything in files of its own, and a new volume all the time.
fn tiny_limits() -> Box<dyn Reopen> {
    engine(Options { small_limit: 1500, volume_bytes: 70_000, ..Options::default() })
}

/// No memory for bodies: whatever has bytes gets a file of its own.
fn no_memory() -> Box<dyn Reopen> {
    engine(Options { buffer_bytes: 0, ..Options::default() })
}

/// Two hashes for all keys.
fn colliding() -> Box<dyn Reopen> {
    engine(Options {
        key_hash: |key, _| u64::from(key.len() % 2 == 0) << 63,
        volume_bytes: 10 << 20,
        ..Options::default()
    })
}

fn always() -> Box<dyn Reopen> {
    engine(Options { sync: SyncMode::Always, ..Options::default() })
}

fn never() -> Box<dyn Reopen> {
    engine(Options { sync: SyncMode::Never, small_limit: 100_000, ..Options::default() })
}

fn run<F: Future<Output = ()>>(mut home: Box<dyn Reopen>, test: fn(Store) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = home.open();
    runtime.block_on(test(store));
}

macro_rules! conforms {
    ($($make:ident, $cases:expr;)*) => {
        $(mod $make {
            conforms!(@ $make:
                gives_back_what_was_put,
                gives_back_any_range,
                a_body_of_another_length_stores_nothing,
                the_greater_version_stays,
                a_delete_leaves_a_tombstone,
                lists_in_the_order_of_bytes,
                a_blob_stays_readable_when_its_key_moves_on,
                nothing_is_visible_before_the_commit,
                takes_many_writers_at_once,
                of_many_writers_of_one_key_the_greatest_version_stays,
                a_closed_storage_takes_no_writes_and_still_reads,
                usage_says_what_the_disk_holds,
            );

            #[test]
            fn agrees_with_a_map() {
                super::agrees_with_a_map(super::$make, $cases);
            }
        })*
    };
    (@ $make:ident: $($test:ident,)*) => {
        $(#[test]
        fn $test() {
            super::run(super::$make(), super::$test);
        })*
    };
}

conforms! {
    usual, 24;
    tiny_limits, 24;
    no_memory, 8;
    colliding, 24;
    always, 4;
    never, 8;
}
