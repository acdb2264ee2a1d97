//! What a crash, a damaged disk or a full one leaves of a storage: everything acknowledged, nothing half.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    model::{Meta, Version},
    storage::{Before, Engine, Found, NewBlob, OpenError, Options, Storage, StorageError},
};
use bytes::Bytes;
use proptest::prelude::*;
use support::small_disk::SmallDisk;
use support::wait::wait_until;

/// Tells a test that is started again in a process of its own which directory to use.
const CHILD_DIR: &str = "STORAGE_TEST_DIR";
const DEADLINE: Duration = Duration::from_secs(60);

fn version(n: u64) -> Version {
    Version::from_parts(n, 1)
}

/// The bytes of a version of a key: what is read tells what was written.
fn body(name: &str, n: u64) -> Vec<u8> {
    format!("{name}@{n};").repeat(1 + (n as usize * 7 + name.len()) % 60).into_bytes()
}

async fn put_bytes(engine: &Engine, name: &str, n: u64, bytes: Vec<u8>) -> Result<Before, StorageError> {
    let new =
        NewBlob { key: name.parse().unwrap(), version: version(n), meta: Meta::default(), length: None };
    let mut writer = engine.create(new).await?;
    writer.write(Bytes::from(bytes)).await?;
    writer.commit().await.map(|written| written.before)
}

async fn put(engine: &Engine, name: &str, n: u64) -> Result<Before, StorageError> {
    put_bytes(engine, name, n, body(name, n)).await
}

async fn delete(engine: &Engine, name: &str, n: u64) -> Result<Before, StorageError> {
    engine.delete(&name.parse().unwrap(), version(n)).await.map(|written| written.before)
}

/// What a key holds: the version and the bytes; no bytes for a tombstone.
type Held = Option<(u64, Option<Vec<u8>>)>;

async fn get(engine: &Engine, name: &str) -> Result<Held, StorageError> {
    Ok(match engine.open(&name.parse().unwrap()).await? {
        None => None,
        Some(Found::Tombstone(version)) => Some((version.unix_ms(), None)),
        Some(Found::Blob(blob)) => {
            let bytes = blob.read(0, blob.info().length).await?;
            Some((blob.info().version.unix_ms(), Some(bytes.to_vec())))
        }
    })
}

fn options() -> Options {
    Options { reserve_bytes: 4096, ..Options::default() }
}

fn reopen(dir: &Path) -> Arc<Engine> {
    Engine::open(dir, options()).unwrap()
}

fn last_volume(dir: &Path) -> PathBuf {
    let volumes = fs::read_dir(dir.join("volumes")).unwrap();
    volumes.map(|entry| entry.unwrap().path()).max().unwrap()
}

/// The state of a directory as a crash would leave it: copied while the engine runs.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// What was acknowledged, and how long the volume was then.
struct Acknowledged {
    name: String,
    n: u64,
    deleted: bool,
    volume_length: u64,
}

/// Writes one after the other, so that each is a batch of its own.
async fn write_some(engine: &Engine, dir: &Path) -> Vec<Acknowledged> {
    let mut all = Vec::new();
    for n in 1..=12_u64 {
        let name = format!("key/{}", n % 5);
        let deleted = n % 4 == 0;
        if deleted {
            delete(engine, &name, n).await.unwrap();
        } else {
            put(engine, &name, n).await.unwrap();
        }
        let volume_length = fs::metadata(last_volume(dir)).unwrap().len();
        all.push(Acknowledged { name, n, deleted, volume_length });
    }
    all
}

/// What each key must hold if the volume had that length.
fn expected(all: &[Acknowledged], name: &str, length: u64) -> Held {
    let last = all.iter().rfind(|one| one.name == name && one.volume_length <= length)?;
    Some((last.n, (!last.deleted).then(|| body(name, last.n))))
}

async fn holds_exactly(dir: &Path, all: &[Acknowledged], length: u64, what: &str) {
    // Twice: the first start puts in order what the second must find in order.
    for start in 1..=2 {
        let engine = reopen(dir);
        for name in (0..5).map(|n| format!("key/{n}")) {
            let held = get(&engine, &name).await.unwrap();
            assert!(held == expected(all, &name, length), "{what}, start {start}: {name}");
        }
        assert_eq!(engine.usage().damaged, 0, "{what}");
        // And it goes on from there.
        put(&engine, "more", 100 + start).await.unwrap();
        assert_eq!(get(&engine, "more").await.unwrap().unwrap().0, 100 + start, "{what}");
    }
}

#[test]
fn a_tail_cut_anywhere_keeps_what_was_acknowledged_before() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, copied) = (home.path().join("live"), home.path().join("copy"));
        let engine = reopen(&live);
        let all = write_some(&engine, &live).await;
        let length = all.last().unwrap().volume_length;
        let mut random = fastrand::Rng::with_seed(1);
        // Every place in the last record, and some everywhere.
        let last_two = all[all.len() - 2].volume_length;
        let cuts = (last_two..=length).step_by(3).chain((0..60).map(|_| random.u64(0..length)));
        for cut in cuts.collect::<Vec<_>>() {
            for fill in [None, Some(0_u8), Some(0xa5)] {
                copy(&live, &copied);
                let volume = fs::File::options().write(true).open(last_volume(&copied)).unwrap();
                volume.set_len(cut).unwrap();
                if let Some(fill) = fill.filter(|_| cut >= 64) {
                    let mut tail = fs::File::options().append(true).open(last_volume(&copied)).unwrap();
                    tail.write_all(&vec![fill; (length - cut) as usize + 100]).unwrap();
                }
                holds_exactly(&copied, &all, cut, &format!("cut at {cut} of {length}, filled with {fill:?}"))
                    .await;
                fs::remove_dir_all(&copied).unwrap();
            }
        }
    });
}

#[test]
fn a_torn_batch_shows_whole_records_or_none() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, copied) = (home.path().join("live"), home.path().join("copy"));
        let engine = reopen(&live);
        put(&engine, "first", 1).await.unwrap();
        let acknowledged = fs::metadata(last_volume(&live)).unwrap().len();
        let names: Vec<String> = (0..40).map(|n| format!("together/{n}")).collect();
        let writes = names.iter().map(|name| put(&engine, name, 2));
        futures_util::future::join_all(writes).await;
        let length = fs::metadata(last_volume(&live)).unwrap().len();
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..40 {
            copy(&live, &copied);
            // Sectors that never reached the disk, anywhere after what was durable.
            let mut bytes = fs::read(last_volume(&copied)).unwrap();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(acknowledged as usize..length as usize);
                let end = (at + random.usize(1..2000)).min(bytes.len());
                bytes[at..end].fill(0);
            }
            fs::write(last_volume(&copied), &bytes).unwrap();
            let mut seen = Vec::new();
            for start in 1..=2 {
                let engine = reopen(&copied);
                assert_eq!(get(&engine, "first").await.unwrap().unwrap().1.unwrap(), body("first", 1));
                let mut now = Vec::new();
                for name in &names {
                    match get(&engine, name).await {
                        Ok(Some((2, Some(bytes)))) => {
                            assert_eq!(bytes, body(name, 2));
                            now.push(name.clone());
                        }
                        Ok(None) => {}
                        // Batches before the last were durable: that is damage, and reported as such.
                        Err(StorageError::Damaged(_)) => assert!(engine.usage().damaged > 0),
                        other => panic!("{name}: {other:?}"),
                    }
                }
                if start == 2 {
                    assert_eq!(now, seen, "the second start shows what the first did");
                }
                seen = now;
            }
            fs::remove_dir_all(&copied).unwrap();
        }
    });
}

#[test]
fn damage_in_the_middle_costs_one_blob_and_is_reported() {
    block_on(async {
        for clean in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
            let engine = reopen(&live);
            let mut ends = Vec::new();
            for n in 0..20 {
                put_bytes(&engine, &format!("k{n:02}"), 1, vec![n; 500]).await.unwrap();
                ends.push(fs::metadata(last_volume(&live)).unwrap().len() as usize);
            }
            let dir = if clean {
                engine.close().await.unwrap();
                drop(engine);
                &live
            } else {
                copy(&live, &crashed);
                &crashed
            };
            // The data of one blob, the head of another.
            let mut bytes = fs::read(last_volume(dir)).unwrap();
            bytes[ends[5] - 1] ^= 1;
            bytes[ends[9] + 9] ^= 1;
            fs::write(last_volume(dir), &bytes).unwrap();
            let engine = reopen(dir);
            for n in 0..20 {
                match (n, get(&engine, &format!("k{n:02}")).await) {
                    (5, held) => assert!(matches!(held, Err(StorageError::Damaged(_))), "{held:?}"),
                    (10, held) => assert_eq!(held.unwrap(), None, "whose it was cannot be known"),
                    (n, held) => assert_eq!(held.unwrap().unwrap().1.unwrap(), vec![n; 500]),
                }
            }
            assert_eq!(engine.usage().damaged, 2);
            // The same version repairs it.
            let repaired = put_bytes(&engine, "k05", 1, vec![5; 500]).await.unwrap();
            assert_eq!(repaired, Before::Older { length: 500 });
            assert_eq!(engine.usage().damaged, 1);
            drop(engine);
            let engine = reopen(dir);
            assert_eq!(get(&engine, "k05").await.unwrap().unwrap().1.unwrap(), vec![5; 500]);
            assert_eq!(engine.usage().blobs, 19);
        }
    });
}

#[test]
fn damage_of_a_whole_file_is_found_and_repaired() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = Options { small_limit: 1000, ..options() };
        let engine = Engine::open(home.path(), options.clone()).unwrap();
        let big: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        for name in ["flipped", "short", "gone"] {
            put_bytes(&engine, name, 1, big.clone()).await.unwrap();
        }
        drop(engine);
        let mut files: Vec<PathBuf> = fs::read_dir(home.path().join("blobs"))
            .unwrap()
            .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        let mut bytes = fs::read(&files[0]).unwrap();
        bytes[150_000] ^= 1;
        fs::write(&files[0], bytes).unwrap();
        fs::File::options().write(true).open(&files[1]).unwrap().set_len(100).unwrap();
        fs::remove_file(&files[2]).unwrap();
        let engine = Engine::open(home.path(), options).unwrap();
        assert_eq!(engine.usage().damaged, 2, "lengths are looked at, bytes are not");
        for name in ["flipped", "short", "gone"] {
            assert!(matches!(get(&engine, name).await, Err(StorageError::Damaged(_))), "{name}");
        }
        assert_eq!(engine.usage().damaged, 3);
        let Some(Found::Blob(blob)) = engine.open(&"flipped".parse().unwrap()).await.unwrap() else {
            panic!()
        };
        assert_eq!(blob.read(0, 100_000).await.unwrap(), big[..100_000], "the blocks before are whole");
        for name in ["flipped", "short", "gone"] {
            let before = put_bytes(&engine, name, 1, big.clone()).await.unwrap();
            assert_eq!(before, Before::Older { length: 200_000 });
            assert_eq!(get(&engine, name).await.unwrap().unwrap().1.unwrap(), big);
        }
        assert_eq!((engine.usage().damaged, engine.usage().blobs), (0, 3));
    });
}

#[test]
fn files_that_no_record_names_are_removed() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = Options { small_limit: 10, ..options() };
        let engine = Engine::open(home.path(), options.clone()).unwrap();
        put_bytes(&engine, "k", 1, vec![7; 1000]).await.unwrap();
        drop(engine);
        let orphan = home.path().join("blobs/63/0000000000000063.blob");
        fs::create_dir_all(orphan.parent().unwrap()).unwrap();
        fs::write(&orphan, "left by a crash before its record was written").unwrap();
        let engine = Engine::open(home.path(), options).unwrap();
        assert!(!orphan.exists());
        assert_eq!(get(&engine, "k").await.unwrap().unwrap().1.unwrap(), vec![7; 1000]);
    });
}

#[test]
fn a_volume_that_was_only_begun_and_a_lost_tail_are_told_apart() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = reopen(home.path());
        put(&engine, "k", 1).await.unwrap();
        put(&engine, "l", 1).await.unwrap();
        engine.close().await.unwrap();
        drop(engine);
        fs::write(home.path().join("volumes/00000002.vol"), [0; 30]).unwrap();
        let engine = reopen(home.path());
        assert_eq!(engine.usage().damaged, 0);
        assert!(!home.path().join("volumes/00000002.vol").exists());
        drop(engine);
        // Bytes that were there at a clean stop are gone.
        let volume = fs::File::options().write(true).open(last_volume(home.path())).unwrap();
        volume.set_len(volume.metadata().unwrap().len() - 3).unwrap();
        let engine = reopen(home.path());
        assert_eq!(engine.usage().damaged, 1);
        assert!(get(&engine, "k").await.unwrap().is_some() && get(&engine, "l").await.unwrap().is_none());
    });
}

#[test]
fn a_volume_of_another_storage_is_refused() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        for dir in [&one, &two] {
            let engine = reopen(dir);
            put(&engine, "k", 1).await.unwrap();
        }
        fs::copy(last_volume(&one), last_volume(&two)).unwrap();
        assert!(matches!(Engine::open(&two, options()), Err(OpenError::Format { .. })));
    });
}

#[test]
fn a_volume_uploaded_as_a_blob_is_never_taken_for_records() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = reopen(home.path());
        put(&engine, "inner", 5).await.unwrap();
        let volume = fs::read(last_volume(home.path())).unwrap();
        let start = volume.len();
        delete(&engine, "inner", 6).await.unwrap();
        put_bytes(&engine, "outer", 1, volume).await.unwrap();
        put(&engine, "next", 1).await.unwrap();
        engine.close().await.unwrap();
        drop(engine);
        // The heads of the tombstone and of the outer blob are lost: the search for the next one goes through its bytes.
        let mut bytes = fs::read(last_volume(home.path())).unwrap();
        bytes[start + 50..start + 80].fill(0);
        fs::write(last_volume(home.path()), &bytes).unwrap();
        let engine = reopen(home.path());
        assert_eq!(get(&engine, "next").await.unwrap().unwrap().1.unwrap(), body("next", 1));
        assert!(get(&engine, "outer").await.unwrap().is_none());
        assert_eq!(engine.usage().damaged, 1);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to the bytes of a volume: no panic, no endless loop, and never bytes that were not written.
    #[test]
    fn any_damage_gives_what_was_written_or_nothing(
        wounds in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 1..200)),
            1..6,
        ),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        clean in any::<bool>(),
    ) {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
            let engine = reopen(&live);
            let all = write_some(&engine, &live).await;
            let dir = if clean {
                drop(engine);
                &live
            } else {
                copy(&live, &crashed); &crashed };
            let mut bytes = fs::read(last_volume(dir)).unwrap();
            for (at, wound) in wounds {
                let at = at.index(bytes.len());
                let end = (at + wound.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&wound[..end - at]);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            fs::write(last_volume(dir), &bytes).unwrap();
            let engine = reopen_damaged(dir);
            for name in (0..5).map(|n| format!("key/{n}")) {
                if let Ok(Some((n, Some(bytes)))) = get(&engine, &name).await {
                    assert_eq!(bytes, body(&name, n));
                    assert!(all.iter().any(|one| one.name == name && one.n == n && !one.deleted));
                }
            }
            engine.list("", None, 100).await.unwrap();
            put(&engine, "more", 1).await.unwrap();
            drop(engine);
            assert_eq!(get(&reopen_damaged(dir), "more").await.unwrap().unwrap().1.unwrap(), body("more", 1));
        });
    }
}

fn reopen_damaged(dir: &Path) -> Arc<Engine> {
    let started = Instant::now();
    let engine = reopen(dir);
    assert!(started.elapsed() < DEADLINE);
    engine
}

/// Written once by the program that introduced format 1, and never again: what is stored must stay readable.
#[test]
fn a_storage_of_format_1_is_opened() {
    let pattern = |length: usize| (0..length).map(|n| (n / 100 % 251) as u8).collect::<Vec<u8>>();
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/storage-v1")), home.path());
        fs::create_dir_all(home.path().join("tmp")).unwrap();
        let engine = reopen(home.path());
        let usage = engine.usage();
        assert_eq!((usage.blobs, usage.blob_bytes, usage.tombstones), (12, 401_050, 2));
        assert_eq!(usage.damaged, 0);
        for (name, n, length) in [
            ("photos/one.jpg?size=%20big", 1, 1000),
            ("empty", 2, 0),
            ("two-blocks", 3, 70_000),
            ("overwritten", 5, 20),
            ("whole-file", 8, 150_000),
            ("фото", 9, 90_000),
            ("more", 9, 90_000),
        ] {
            let Some(Found::Blob(blob)) = engine.open(&name.parse().unwrap()).await.unwrap() else {
                panic!("{name}")
            };
            assert_eq!(blob.info().version, Version::from_parts(n, 7), "{name}");
            assert!(blob.read(0, length as u64).await.unwrap() == pattern(length), "{name}");
        }
        let Some(Found::Blob(blob)) =
            engine.open(&"photos/one.jpg?size=%20big".parse().unwrap()).await.unwrap()
        else {
            panic!()
        };
        let meta = [("content-type", "image/jpeg"), ("x-amz-meta-owner", "ann")];
        assert_eq!(blob.info().meta.pairs(), meta.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for name in ["deleted", "never-there"] {
            assert_eq!(get(&engine, name).await.unwrap(), Some((7, None)), "{name}");
        }
        // A batch that was torn, put in order with a gap.
        for n in 0..6 {
            let name = format!("torn/{n}");
            let held = (n != 4).then(|| (10, Some(name.clone().into_bytes())));
            assert_eq!(get(&engine, &name).await.unwrap(), held, "{name}");
        }
        put(&engine, "more", 10).await.unwrap();
    });
}

/// Starts one of the tests below again, in a process of its own.
fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD_DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// What the child says that it was told of, one key a line, up to `count` or its end.
fn told_by(child: &mut Child, count: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(|line| Some(line.ok()?.split_once("done ")?.1.to_owned())).take(count).collect()
}

#[test]
fn killed_while_writing() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        block_on(write_for_ever(Path::new(&dir)));
    }
    for round in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let mut killed = child("killed_while_writing", home.path()).spawn().unwrap();
        let told = told_by(&mut killed, 300 + round * 150);
        killed.kill().unwrap();
        killed.wait().unwrap();
        block_on(async {
            let engine = Engine::open(home.path(), Options { small_limit: 20_000, ..options() }).unwrap();
            assert_eq!(engine.usage().damaged, 0);
            for name in &told {
                let held = get(&engine, name).await.unwrap();
                assert_eq!(held, Some((1, Some(long_body(name)))), "{name} was acknowledged");
            }
            let listed = engine.list("", None, usize::MAX).await.unwrap();
            assert!(listed.len() >= told.len());
            for listed in listed {
                let bytes = get(&engine, listed.key.as_str()).await.unwrap().unwrap().1.unwrap();
                assert_eq!(bytes, long_body(listed.key.as_str()), "nothing half");
            }
        });
    }
}

/// Some small, some in files of their own.
fn long_body(name: &str) -> Vec<u8> {
    let n: usize = name.rsplit('/').next().unwrap().parse().unwrap();
    name.repeat(if n.is_multiple_of(10) { 5000 } else { 10 + n % 100 }).into_bytes()
}

async fn write_for_ever(dir: &Path) {
    let engine = Engine::open(dir, Options { small_limit: 20_000, ..options() }).unwrap();
    let writers = (0..8).map(async |writer| {
        for n in 0.. {
            let name = format!("{writer}/{n}");
            put_bytes(&engine, &name, 1, long_body(&name)).await.unwrap();
            println!("done {name}");
        }
    });
    futures_util::future::join_all(writers).await;
}

#[test]
fn a_second_process_is_refused() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        match Engine::open(dir, options()) {
            Err(error @ OpenError::Locked(_)) => println!("done {error}"),
            other => println!("done {:?}", other.map(|_| ())),
        }
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let engine = reopen(home.path());
    let mut second = child("a_second_process_is_refused", home.path()).spawn().unwrap();
    let said = told_by(&mut second, 1);
    second.wait().unwrap();
    assert!(said[0].ends_with("is in use by another process"), "{said:?}");
    drop(engine);
    let mut second = child("a_second_process_is_refused", home.path()).spawn().unwrap();
    assert_eq!(told_by(&mut second, 1), ["Ok(())"]);
    second.wait().unwrap();
}

/// The system cuts a write short and refuses the rest: files may not grow past a limit.
#[test]
fn a_write_that_the_system_refuses() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return block_on(write_past_the_limit(Path::new(&dir)));
    }
    let home = tempfile::tempdir().unwrap();
    let limited = child("a_write_that_the_system_refuses", home.path());
    let mut shell = Command::new("sh");
    // Without the trap the signal would end the process. 512 blocks of 512 or 1024 bytes, whatever the shell counts in.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]).arg(limited.get_program());
    shell.args(limited.get_args()).env(CHILD_DIR, home.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = shell.spawn().unwrap();
    let told = told_by(&mut running, usize::MAX);
    assert!(running.wait().unwrap().success());
    let refused: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("refused ")).collect();
    let taken: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("taken ")).collect();
    assert!(!refused.is_empty() && taken.len() > 20, "{told:?}");
    assert!(home.path().join("volumes/00000002.vol").exists(), "a new volume went on");
    block_on(async {
        let engine = reopen(home.path());
        assert_eq!(engine.usage().damaged, 0);
        for name in taken {
            assert_eq!(get(&engine, name).await.unwrap().unwrap().1.unwrap().len(), 30_000, "{name}");
        }
        for name in refused {
            assert!(get(&engine, name).await.unwrap().is_none(), "{name}");
        }
    });
}

async fn write_past_the_limit(dir: &Path) {
    let engine = reopen(dir);
    for n in 0..30 {
        let name = format!("k{n}");
        let outcome = match put_bytes(&engine, &name, 1, vec![n; 30_000]).await {
            Ok(_) => "taken",
            Err(_) => "refused",
        };
        println!("done {outcome} {name}");
    }
}

#[test]
fn a_full_disk_takes_deletes_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(8 << 20) else {
        eprintln!("not run: mounting is not allowed here");
        return;
    };
    let dir = disk.path().join("data");
    let ballast = disk.path().join("ballast");
    block_on(async {
        let options = Options { reserve_bytes: 256 << 10, small_limit: 100_000, ..Options::default() };
        let engine = Engine::open(&dir, options.clone()).unwrap();
        fs::write(&ballast, vec![1; 2 << 20]).unwrap();
        // Small ones and whole files, until neither finds room.
        let mut stored = Vec::new();
        let mut refused = 0;
        for n in 0.. {
            let name = format!("k{n}");
            let size = if n % 7 == 0 { 300_000 } else { 40_000 };
            match put_bytes(&engine, &name, 1, vec![n as u8; size]).await {
                Ok(_) => stored.push((name, vec![n as u8; size])),
                Err(StorageError::Full) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            if refused > 20 {
                break;
            }
        }
        assert!(stored.len() > 20);
        wait_until("nothing half is left", DEADLINE, || fs::read_dir(dir.join("tmp")).unwrap().count() == 0);
        // What is left of the disk is taken too: only the reserve can help now.
        let mut rest = fs::File::create(disk.path().join("rest")).unwrap();
        while rest.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
        let error = put_bytes(&engine, "late", 1, vec![1; 50_000]).await.unwrap_err();
        assert!(matches!(error, StorageError::Full), "{error}");
        for (name, _) in &stored {
            delete(&engine, name, 2).await.unwrap();
        }
        let kept = stored.len() as u64;
        assert_eq!((engine.usage().blobs, engine.usage().tombstones), (0, kept));
        // There is space again: blobs are taken again, without a restart.
        fs::remove_file(&ballast).unwrap();
        put_bytes(&engine, "after", 1, vec![1; 40_000]).await.unwrap();
        put_bytes(&engine, "after/big", 1, vec![1; 400_000]).await.unwrap();
        drop(engine);
        let engine = Engine::open(&dir, options).unwrap();
        assert_eq!((engine.usage().blobs, engine.usage().tombstones), (2, kept));
        assert_eq!(engine.usage().damaged, 0);
        assert_eq!(get(&engine, "after").await.unwrap().unwrap().1.unwrap(), vec![1; 40_000]);
    });
}
