//! Whatever became of the saved index: a start with it shows what a start without it shows, which is what was
//! acknowledged.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use backpack::storage::{Engine, Options, Storage, StorageError, SyncMode, Usage};
use proptest::prelude::*;

use crate::support::wait::wait_until;

use super::{
    processes::{CHILD_DIR, child, told_by},
    rig::*,
};

/// The newest write of each key, and whether it was a delete.
type Model = BTreeMap<String, (u64, bool)>;

fn index(dir: &Path) -> PathBuf {
    dir.join("INDEX")
}

/// Volumes of some hundred records, bodies in files too, and the index saved again and again. No compaction, so that two
/// starts can be compared.
fn small() -> Options {
    let compact_bytes_per_second = 0;
    Options {
        small_limit: 600,
        volume_bytes: 68_000,
        index_save_bytes: 1,
        compact_bytes_per_second,
        ..options()
    }
}

/// As [`small`], with keys that nearly all collide.
fn colliding() -> Options {
    Options { key_hash: |key, _| u64::from(key.len() % 2 == 0) << 63, ..small() }
}

fn open(dir: &Path, options: &Options) -> Arc<Engine> {
    Engine::open(dir, options.clone()).unwrap()
}

async fn write(engine: &Engine, model: &mut Model, name: &str, n: u64, deleted: bool) {
    if deleted {
        delete(engine, name, n).await.unwrap();
    } else {
        put(engine, name, n).await.unwrap();
    }
    model.insert(name.to_owned(), (n, deleted));
}

/// Writes some keys over and over, into several volumes; the versions from `from` on.
async fn write_much(engine: &Engine, model: &mut Model, from: u64) {
    for n in from..from + 400 {
        write(engine, model, &format!("key/{}", n * 7 % 61), n, n % 9 == 0).await;
    }
}

async fn holds(engine: &Engine, model: &Model, what: &str) {
    for (name, &(n, deleted)) in model {
        let held = get(engine, name).await.unwrap();
        assert!(held == Some((n, (!deleted).then(|| body(name, n)))), "{what}: {name} at {n}");
    }
    let listed = engine.list("", None, usize::MAX).await.unwrap();
    assert_eq!(listed.len(), model.len(), "{what}");
    let deleted = model.values().filter(|(_, deleted)| *deleted).count() as u64;
    let usage = engine.usage();
    assert_eq!((usage.blobs, usage.tombstones), (model.len() as u64 - deleted, deleted), "{what}");
    let bytes: usize =
        model.iter().filter(|(_, (_, gone))| !gone).map(|(name, (n, _))| body(name, *n).len()).sum();
    assert_eq!((usage.blob_bytes, usage.damaged), (bytes as u64, 0), "{what}");
}

/// What must not depend on how the start went. The bytes of the index and of the files of keys do.
fn totals(engine: &Engine) -> Usage {
    Usage { disk_bytes: 0, free_bytes: 0, ..engine.usage() }
}

/// Opens the directory as it is, and a copy of it that has no index.
async fn both_hold(dir: &Path, options: &Options, model: &Model, what: &str) {
    let home = tempfile::tempdir().unwrap();
    copy(dir, home.path());
    let _ = fs::remove_file(index(home.path()));
    // Closed, so that no index is saved while the files are looked at.
    let options = Options { index_save_bytes: u64::MAX, ..options.clone() };
    let (with, without) = (open(dir, &options), open(home.path(), &options));
    holds(&with, model, what).await;
    holds(&without, model, what).await;
    assert_eq!(totals(&with), totals(&without), "{what}");
}

#[test]
fn a_start_reads_only_what_was_written_since() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = reopen(home.path());
        put(&engine, "first", 1).await.unwrap();
        // So much that the first one is not among the bytes before the end, which are looked at.
        put_bytes(&engine, "filler", 1, vec![7; 10_000]).await.unwrap();
        put(&engine, "second", 1).await.unwrap();
        drop(engine);
        let saved = fs::read(index(home.path())).unwrap();
        let engine = reopen(home.path());
        put(&engine, "third", 1).await.unwrap();
        drop(engine);
        // As if the process had been killed before the last save.
        fs::write(index(home.path()), saved).unwrap();
        // Whoever reads the first record's head finds it damaged.
        let mut bytes = fs::read(last_volume(home.path())).unwrap();
        bytes[70] ^= 1;
        fs::write(last_volume(home.path()), bytes).unwrap();
        let engine = reopen(home.path());
        assert_eq!((engine.usage().damaged, engine.usage().blobs), (0, 4));
        for name in ["second", "third"] {
            assert_eq!(get(&engine, name).await.unwrap().unwrap().1.unwrap(), body(name, 1));
        }
        assert!(matches!(get(&engine, "first").await, Err(StorageError::Damaged(_))));
        assert_eq!(engine.usage().damaged, 1);
        drop(engine);
        forget_index(home.path());
        assert_eq!(reopen(home.path()).usage().damaged, 1, "without the index all heads are read");
    });
}

#[test]
fn an_index_that_is_wrong_in_any_way_is_ignored() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (stored, tried) = (home.path().join("stored"), home.path().join("tried"));
        let mut model = Model::new();
        let engine = open(&stored, &small());
        write_much(&engine, &mut model, 1).await;
        drop(engine);
        let right = fs::read(index(&stored)).unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let mut wrong = vec![Vec::new(), vec![0; right.len()], [&right[..], b"x"].concat()];
        for _ in 0..12 {
            let mut flipped = right.clone();
            flipped[random.usize(..right.len())] ^= 1 << random.u8(..8);
            wrong.push(flipped);
            wrong.push(right[..random.usize(..right.len())].to_vec());
        }
        // The one of another storage with the same writes.
        let other = open(&home.path().join("other"), &small());
        write_much(&other, &mut Model::new(), 1).await;
        drop(other);
        wrong.push(fs::read(index(&home.path().join("other"))).unwrap());
        for (at, bytes) in wrong.into_iter().enumerate() {
            copy(&stored, &tried);
            fs::write(index(&tried), bytes).unwrap();
            let engine = open(&tried, &Options { index_save_bytes: u64::MAX, ..small() });
            assert!(!index(&tried).exists(), "{at}: what is wrong once is not believed later");
            holds(&engine, &model, &format!("wrong index {at}")).await;
            drop(engine);
            assert!(index(&tried).exists(), "{at}: the stop saved another");
            fs::remove_dir_all(&tried).unwrap();
        }
        // Other hashes than those it was made with.
        let engine = open(&stored, &colliding());
        holds(&engine, &model, "other hashes").await;
    });
}

#[test]
fn a_crash_between_the_steps_of_saving_leaves_the_old_index_or_the_new_one() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (stored, tried) = (home.path().join("stored"), home.path().join("tried"));
        let mut model = Model::new();
        let engine = open(&stored, &small());
        write_much(&engine, &mut model, 1).await;
        drop(engine);
        let old = fs::read(index(&stored)).unwrap();
        let engine = open(&stored, &small());
        write_much(&engine, &mut model, 1000).await;
        drop(engine);
        let new = fs::read(index(&stored)).unwrap();
        let mut random = fastrand::Rng::with_seed(4);
        let cuts = [0, 1, new.len()].into_iter().chain((0..5).map(|_| random.usize(..new.len())));
        for cut in cuts.collect::<Vec<_>>() {
            for before in [None, Some(&old), Some(&new)] {
                copy(&stored, &tried);
                forget_index(&tried);
                if let Some(bytes) = before {
                    fs::write(index(&tried), bytes).unwrap();
                }
                fs::write(tried.join("INDEX.new"), &new[..cut]).unwrap();
                both_hold(&tried, &small(), &model, &format!("{cut} bytes of the next index")).await;
                assert!(!tried.join("INDEX.new").exists());
                fs::remove_dir_all(&tried).unwrap();
            }
        }
    });
}

#[test]
fn a_volume_that_is_gone_since_takes_its_entries_with_it() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let engine = open(home.path(), &small());
        write_much(&engine, &mut model, 1).await;
        drop(engine);
        let old = fs::read(index(home.path())).unwrap();
        let volumes = fs::read_dir(home.path().join("volumes")).unwrap().count();
        assert!(volumes > 1);
        // All are written again, as compaction does it with those that are still needed.
        let engine = open(home.path(), &small());
        for name in model.keys().cloned().collect::<Vec<_>>() {
            write(&engine, &mut model, &name, 5000, false).await;
        }
        drop(engine);
        fs::write(index(home.path()), old).unwrap();
        for number in 1..volumes {
            fs::remove_file(home.path().join(format!("volumes/{number:08}.vol"))).unwrap();
        }
        both_hold(home.path(), &small(), &model, "without the first volumes").await;
    });
}

#[test]
fn an_index_from_before_compaction_is_right_after_it() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let engine = open(home.path(), &small());
        write_much(&engine, &mut model, 1).await;
        drop(engine);
        let old = fs::read(index(home.path())).unwrap();
        // Most of the first volumes is written anew, the rest is moved.
        let options = Options { compact_bytes_per_second: 1 << 30, ..small() };
        let engine = open(home.path(), &options);
        for n in 1000..1400 {
            write(&engine, &mut model, &format!("key/{}", n * 7 % 50), n, n % 9 == 0).await;
        }
        let first = home.path().join("volumes/00000001.vol");
        wait_until("the first volume is compacted", DEADLINE, || !first.exists());
        engine.close().await.unwrap();
        drop(engine);
        fs::write(index(home.path()), old).unwrap();
        both_hold(home.path(), &small(), &model, "after compaction").await;
    });
}

/// Restored from a backup, say, and written to since.
#[test]
fn a_volume_that_was_cut_and_written_again_is_noticed() {
    // So many bytes each; together so many that the volume is long enough again.
    for again in [&[("other", 300), ("another", 300)][..], &[("big", 6000)], &[("lost", 200), ("late", 200)]]
    {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let engine = reopen(home.path());
            put(&engine, "first", 1).await.unwrap();
            let end = fs::metadata(last_volume(home.path())).unwrap().len();
            put_bytes(&engine, "late", 1, vec![1; 150]).await.unwrap();
            put_bytes(&engine, "lost", 1, vec![1; 50]).await.unwrap();
            drop(engine);
            let old = fs::read(index(home.path())).unwrap();
            fs::File::options().write(true).open(last_volume(home.path())).unwrap().set_len(end).unwrap();
            fs::remove_file(home.path().join("CLEAN")).unwrap();
            let engine = reopen(home.path());
            for (name, length) in again {
                put_bytes(&engine, name, 1, vec![2; *length]).await.unwrap();
            }
            drop(engine);
            fs::write(index(home.path()), old).unwrap();
            let engine = reopen(home.path());
            assert_eq!(get(&engine, "first").await.unwrap(), Some((1, Some(body("first", 1)))));
            for (name, length) in again {
                let held = get(&engine, name).await.unwrap();
                assert_eq!(held, Some((1, Some(vec![2; *length]))), "{name}");
            }
            assert_eq!((engine.usage().blobs, engine.usage().damaged), (again.len() as u64 + 1, 0));
        });
    }
}

#[test]
fn damage_at_the_end_of_the_last_volume_brings_nothing_back() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (stored, tried) = (home.path().join("stored"), home.path().join("tried"));
        let engine = reopen(&stored);
        for name in ["replaced", "deleted", "whole"] {
            put(&engine, name, 1).await.unwrap();
        }
        let length = || fs::metadata(last_volume(&stored)).unwrap().len() as usize;
        let first = length();
        put(&engine, "replaced", 2).await.unwrap();
        let second = length();
        delete(&engine, "deleted", 2).await.unwrap();
        engine.close().await.unwrap();
        drop(engine);
        let is_damaged = |held: Result<Held, StorageError>| matches!(held, Err(StorageError::Damaged(_)));
        // The heads of the last two, then all of them.
        for zeros in [false, true] {
            copy(&stored, &tried);
            let mut bytes = fs::read(last_volume(&tried)).unwrap();
            match zeros {
                true => bytes[first..].fill(0),
                false => [first, second].iter().for_each(|start| bytes[start + 9] ^= 1),
            }
            fs::write(last_volume(&tried), bytes).unwrap();
            let engine = reopen(&tried);
            assert!(is_damaged(get(&engine, "replaced").await), "zeros: {zeros}");
            assert!(is_damaged(get(&engine, "deleted").await), "zeros: {zeros}");
            assert_eq!(get(&engine, "whole").await.unwrap(), Some((1, Some(body("whole", 1)))));
            assert_eq!((engine.usage().damaged, index(&tried).exists()), (2, true));
            drop(engine);
            fs::remove_dir_all(&tried).unwrap();
        }
    });
}

/// What happens to a directory.
#[derive(Debug, Clone)]
enum Step {
    Write {
        key: u64,
        deleted: bool,
        times: u64,
    },
    Stop,
    /// The process ends without a stop.
    Kill,
    /// Remembers the saved index.
    Keep,
    /// The process ends, and the index that was remembered is put back.
    PutBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0_u64..40, prop::bool::weighted(0.2), prop_oneof![Just(1_u64), 1_u64..60]);
    let step = prop_oneof![
        8 => write.prop_map(|(key, deleted, times)| Step::Write { key, deleted, times }),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        2 => Just(Step::Keep),
        1 => Just(Step::PutBack),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Writes, stops and crashes in any order, with the index saved all the time and older ones put back.
    #[test]
    fn any_history_gives_what_was_acknowledged(steps in steps(), collide in any::<bool>()) {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let options = if collide { colliding() } else { Options { sync: SyncMode::Never, ..small() } };
            let mut dir = home.path().join("0");
            let (mut engine, mut model, mut kept, mut n) = (open(&dir, &options), Model::new(), None, 0);
            for (at, step) in steps.into_iter().chain([Step::Kill, Step::Stop]).enumerate() {
                match step {
                    Step::Write { key, deleted, times } => {
                        for key in key..key + times {
                            n += 1;
                            write(&engine, &mut model, &format!("key/{}", key % 50), n, deleted).await;
                        }
                        continue;
                    }
                    Step::Keep => {
                        kept = fs::read(index(&dir)).ok().or(kept);
                        continue;
                    }
                    Step::Stop => engine.close().await.unwrap(),
                    Step::Kill | Step::PutBack => {
                        let killed = home.path().join((at + 1).to_string());
                        copy(&dir, &killed);
                        if let Some(kept) = kept.as_ref().filter(|_| matches!(step, Step::PutBack)) {
                            fs::write(index(&killed), kept).unwrap();
                        }
                        dir = killed;
                    }
                }
                drop(engine);
                both_hold(&dir, &options, &model, &format!("step {at}")).await;
                engine = open(&dir, &options);
            }
        });
    }
}

#[test]
fn killed_while_the_index_is_saved() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        block_on(write_for_ever(Path::new(&dir)));
    }
    for round in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let mut killed = child("saved_index::killed_while_the_index_is_saved", home.path()).spawn().unwrap();
        let told = told_by(&mut killed, 400 + round * 200);
        killed.kill().unwrap();
        killed.wait().unwrap();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for line in &told {
            let (name, n) = line.split_once(' ').unwrap();
            last.insert(name.to_owned(), n.parse().unwrap());
        }
        block_on(async {
            // What was written after the last line that was read is not known.
            let mut model = Model::new();
            let copied = tempfile::tempdir().unwrap();
            copy(home.path(), copied.path());
            let engine = open(copied.path(), &small());
            for name in WRITERS {
                let told = last.get(name).copied().unwrap_or(0);
                match get(&engine, name).await.unwrap() {
                    Some((n, bytes)) => {
                        assert!(n >= told, "{name}: {n}, {told} was acknowledged");
                        assert_eq!(bytes.is_none(), n % 5 == 0);
                        model.insert(name.to_owned(), (n, bytes.is_none()));
                    }
                    None => assert_eq!(told, 0, "{name}"),
                }
            }
            drop(engine);
            both_hold(home.path(), &small(), &model, "killed").await;
        });
    }
}

const WRITERS: [&str; 6] = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"];

/// Each writes, overwrites and deletes one key.
async fn write_for_ever(dir: &Path) {
    let engine = open(dir, &small());
    let writers = WRITERS.map(async |name| {
        for n in 1.. {
            write(&engine, &mut Model::new(), name, n, n % 5 == 0).await;
            println!("done {name} {n}");
        }
    });
    futures_util::future::join_all(writers).await;
}
