//! Tests of the scrub: what it finds and lists, how far it is, and that it takes nothing for damage that is none.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Before, Damaged, Engine, Options, ScrubUsage, Storage, StorageError, Wrong,
    compact_tests::{
        SMALL, block_on, check, compact, copy, delete, get, names_of, options, put, rewrite_some,
        some_volumes,
    },
    rewrite::Stop,
    scrub,
    scrub_state::Cursor,
    volume::SUPERBLOCK_BYTES,
};

const WITHIN: Duration = Duration::from_secs(120);

/// Goes on with the round until `steps` pieces were read; whether it came to its end.
fn scrub_some(engine: &Engine, mut steps: usize) -> bool {
    let mut go_on = |_| {
        steps = steps.saturating_sub(1);
        steps > 0
    };
    match scrub::round(&engine.shared, &mut go_on) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
            false
        }
    }
}

/// A whole round.
fn scrub_all(engine: &Engine) -> ScrubUsage {
    scrub::begin(&engine.shared, true);
    assert!(scrub_some(engine, usize::MAX));
    engine.usage().scrub
}

async fn damaged(engine: &Engine) -> Vec<Damaged> {
    engine.damaged(None, 1000).await.unwrap()
}

/// Keys of what is damaged, and what is wrong.
async fn listed(engine: &Engine) -> Vec<(String, Wrong)> {
    let all = damaged(engine).await;
    all.into_iter().map(|one| (one.key.map_or("?".into(), |key| key.to_string()), one.what)).collect()
}

fn volume(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("volumes/{number:08}.vol"))
}

/// Flips a bit, in place.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Where the record of a key begins, and how long it is at most.
fn place(engine: &Engine, name: &str) -> (u32, u64, u64) {
    let entry = engine.shared.index.candidates(engine.shared.hash(name.as_bytes()));
    let entry = *entry.iter().next().unwrap();
    (entry.place.volume(), entry.place.offset(), entry.record_bound())
}

/// The file of a blob.
fn file(engine: &Engine, name: &str) -> PathBuf {
    let hash = engine.shared.hash(name.as_bytes());
    let entry = *engine.shared.index.candidates(hash).iter().next().unwrap();
    engine.shared.layout.blob(engine.shared.index.file(hash, entry.place).unwrap().id)
}

async fn is_damaged(engine: &Engine, name: &str) -> bool {
    matches!(get(engine, name).await, Err(StorageError::Damaged(_)))
}

/// Blobs of one block and of several, whole files, a delete; in some volumes.
async fn some_blobs(dir: &Path) -> Arc<Engine> {
    let options = Options { small_limit: 300_000, volume_bytes: 400_000, ..options() };
    let engine = Engine::open(dir, options).unwrap();
    for n in 0..20 {
        put(&engine, &format!("small/{n}"), 1, 1000 + n).await.unwrap();
        put(&engine, &format!("blocks/{n}"), 1, 100_000 + n).await.unwrap();
        put(&engine, &format!("whole/{n}"), 1, 400_000 + n).await.unwrap();
    }
    put(&engine, "deleted", 1, 100).await.unwrap();
    delete(&engine, "deleted", 2).await.unwrap();
    engine
}

#[test]
fn a_round_finds_what_is_damaged_and_repairs_clear_it() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = some_blobs(home.path()).await;
        let sound = scrub_all(&engine);
        assert_eq!((sound.found, engine.usage().damaged), (0, 0));
        assert_eq!(listed(&engine).await, []);

        let in_volume = |name: &str, at: u64| {
            let (number, offset, _) = place(&engine, name);
            flip(&volume(home.path(), number), offset + at);
        };
        in_volume("small/3", 500);
        in_volume("blocks/4", 80_000);
        // The heads: a byte of the checksum, of the key, of the version.
        in_volume("small/5", 25);
        in_volume("small/6", 42);
        in_volume("blocks/7", 10);
        in_volume("whole/8", 10);
        flip(&file(&engine, "whole/9"), 70_000);
        flip(&file(&engine, "whole/10"), 400_000 + 10 + 5);
        fs::remove_file(file(&engine, "whole/11")).unwrap();
        fs::File::options().write(true).open(file(&engine, "whole/12")).unwrap().set_len(7).unwrap();
        let expected = [
            ("?", Wrong::Head),
            ("blocks/4", Wrong::Block),
            ("blocks/7", Wrong::Head),
            ("small/3", Wrong::Checksum),
            ("small/5", Wrong::Head),
            ("whole/10", Wrong::Block),
            ("whole/11", Wrong::FileGone),
            ("whole/12", Wrong::FileLength),
            ("whole/8", Wrong::Head),
            ("whole/9", Wrong::Block),
        ];
        let expected = expected.map(|(name, wrong)| (name.to_owned(), wrong));
        for _ in 0..2 {
            let round = scrub_all(&engine);
            assert_eq!((round.found, round.verified_bytes), (10, sound.verified_bytes));
            let mut found = listed(&engine).await;
            found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(found, expected);
            assert_eq!(engine.usage().damaged, 10, "found twice, counted once");
        }
        for one in damaged(&engine).await {
            assert_eq!(one.version.is_some(), one.what != Wrong::Head, "{one:?}");
            assert!(one.file.is_none_or(|file| file.starts_with("blobs/")) && one.found_ms > 0);
        }
        let names =
            ["small/3", "blocks/4", "small/5", "small/6", "blocks/7", "whole/8", "whole/9", "whole/10"];
        let names = names.into_iter().chain(["whole/11", "whole/12"]);
        for name in names.clone() {
            assert!(is_damaged(&engine, name).await, "{name}");
        }
        // The same version again, a newer one, or a delete.
        for (at, name) in names.enumerate() {
            let before = match at % 3 {
                0 => put(&engine, name, 1, 123).await.unwrap(),
                1 => put(&engine, name, 2, 123).await.unwrap(),
                _ => delete(&engine, name, 2).await.unwrap(),
            };
            let length = name.split_once('/').unwrap().1.parse::<u64>().unwrap();
            let length = length
                + if name.starts_with("s") {
                    1000
                } else if name.starts_with("b") {
                    100_000
                } else {
                    400_000
                };
            assert_eq!(before, Before::Older { length }, "{name}");
            assert_eq!(engine.usage().damaged, 9 - at as u64, "{name}");
            assert!(get(&engine, name).await.is_ok(), "{name}");
        }
        assert_eq!((scrub_all(&engine).found, listed(&engine).await), (0, vec![]));
        // Heads that nobody needs do not hold back compaction, nor does it take them for lost.
        compact(&engine).await;
        assert_eq!((scrub_all(&engine).found, engine.usage().damaged), (0, 0));
        drop(engine);
        assert_eq!(some_blobs(home.path()).await.usage().damaged, 0);
    });
}

#[test]
fn the_round_is_at_its_end_exactly_when_everything_was_read() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = some_blobs(home.path()).await;
        let volumes: u64 = engine.shared.volumes.all().iter().map(|volume| volume.end()).sum();
        let all = volumes + engine.shared.totals.numbers().file_bytes;
        scrub::begin(&engine.shared, true);
        let (mut last, mut steps) = (0, 0);
        while !scrub_some(&engine, 3) {
            let usage = engine.usage().scrub;
            assert!(usage.running && usage.total_bytes == all && usage.verified_bytes < all, "{usage:?}");
            assert!(usage.verified_bytes >= last && usage.last_ended_ms.is_none(), "{usage:?}");
            (last, steps) = (usage.verified_bytes, steps + 1);
        }
        assert!(steps > 20, "{steps}");
        let usage = engine.usage().scrub;
        assert!(!usage.running && usage.last_ended_ms >= usage.began_ms, "{usage:?}");
        assert_eq!((usage.verified_bytes, usage.total_bytes), (all, all));
    });
}

/// The bytes that were read to go on to the end.
fn read_to_the_end(engine: &Engine) -> u64 {
    let mut read = 0;
    let mut go_on = |bytes| {
        read += bytes;
        true
    };
    scrub::round(&engine.shared, &mut go_on).unwrap();
    read
}

#[test]
fn a_restart_goes_on_where_the_round_was_and_knows_what_was_found() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
        drop(some_blobs(&live).await);
        let engine = some_blobs(&live).await;
        let (number, offset, _) = place(&engine, "small/0");
        flip(&volume(&live, number), offset + 10);
        let (number, offset, _) = place(&engine, "small/1");
        flip(&volume(&live, number), offset + 500);
        let whole = scrub_all(&engine).verified_bytes;
        let open = |dir: &Path| {
            let engine =
                Engine::open(dir, Options { small_limit: 300_000, volume_bytes: 400_000, ..options() });
            let engine = engine.unwrap();
            assert!(engine.usage().scrub.began_ms.is_none() && engine.usage().damaged == 0);
            scrub::load(&engine.shared);
            engine
        };
        for steps in [2, 5, 12, 20] {
            scrub::begin(&engine.shared, true);
            assert!(!scrub_some(&engine, steps));
            let before = engine.usage().scrub;
            scrub::save(&engine.shared);
            copy(&live, &crashed);
            let reopened = open(&crashed);
            assert_eq!(ScrubUsage { read_bytes: 0, ..before }, reopened.usage().scrub, "{steps} steps");
            assert_eq!(
                listed(&reopened).await,
                [("small/0".into(), Wrong::Head), ("small/1".into(), Wrong::Checksum)]
            );
            assert!(is_damaged(&reopened, "small/0").await && is_damaged(&reopened, "small/1").await);
            // Pieces begin with whole pages, so a bit more is read than is left.
            let read = read_to_the_end(&reopened);
            assert!(read <= whole - before.verified_bytes + 4096 * 60, "{read} of {whole} at {before:?}");
            let after = reopened.usage().scrub;
            assert_eq!((after.verified_bytes, after.total_bytes), (whole, whole), "{steps} steps");
            // What is sound again is not damaged any more: a volume that was restored, say.
            for (name, at) in [("small/0", 10), ("small/1", 500)] {
                let (number, offset, _) = place(&reopened, name);
                flip(&volume(&crashed, number), offset + at);
            }
            scrub::look_again(&reopened.shared, &mut |_| true).unwrap();
            assert_eq!(listed(&reopened).await, []);
            assert!(!is_damaged(&reopened, "small/1").await);
            drop(reopened);
            fs::remove_dir_all(&crashed).unwrap();
        }
        // A volume that is not what it was: it is read from its beginning.
        copy(&live, &crashed);
        let saved = fs::read_to_string(crashed.join("SCRUB")).unwrap();
        for wrong in ["", "{}\n0000000000000000\n", &saved[1..]] {
            fs::write(crashed.join("SCRUB"), wrong).unwrap();
            assert_eq!(open(&crashed).usage().scrub, ScrubUsage::default(), "{wrong}");
        }
    });
}

#[test]
fn a_place_in_a_volume_that_was_cut_since_is_not_believed() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, cut) = (home.path().join("live"), home.path().join("cut"));
        let engine = Engine::open(&live, options()).unwrap();
        put(&engine, "first", 1, 1000).await.unwrap();
        copy(&live, &cut);
        put(&engine, "second", 1, 777).await.unwrap();
        scrub::begin(&engine.shared, true);
        let (_, offset, length) = place(&engine, "second");
        let end = engine.shared.volumes.last().unwrap().end();
        assert!(offset + length >= end);
        engine.shared.scrub.reached(Cursor::Volume { number: 1, offset: end }, end);
        scrub::save(&engine.shared);
        drop(engine);
        fs::copy(live.join("SCRUB"), cut.join("SCRUB")).unwrap();
        let engine = Engine::open(&cut, options()).unwrap();
        for n in 0..5 {
            put(&engine, &format!("other/{n}"), 1, 300).await.unwrap();
        }
        scrub::load(&engine.shared);
        assert!(scrub_some(&engine, usize::MAX));
        let usage = engine.usage();
        assert_eq!((usage.scrub.found, usage.damaged), (0, 0));
        assert_eq!(usage.scrub.verified_bytes, engine.shared.volumes.last().unwrap().end());
    });
}

#[test]
fn a_superblock_is_found_and_written_again() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        let model = some_volumes(&engine).await;
        let path = volume(home.path(), 3);
        let before = fs::read(&path).unwrap();
        flip(&path, 45);
        assert_eq!(scrub_all(&engine).found, 1);
        assert_eq!(engine.usage().damaged, 0, "nothing is lost");
        let mut after = fs::read(&path).unwrap();
        // When it was made is not known any more, and so neither is the checksum.
        for part in [12..16, 48..56] {
            after[part.clone()].copy_from_slice(&before[part]);
        }
        assert!(after == before);
        rewrite_some(&engine, 3, usize::MAX).await.unwrap();
        rewrite_some(&engine, 2, usize::MAX).await.unwrap();
        check(&engine, &model, &names_of(&model), false).await;
    });
}

#[test]
fn a_superblock_that_alone_knows_what_was_lost_is_listed() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        some_volumes(&engine).await;
        drop(engine);
        // Volume 2 lost its end, as the superblock of volume 3 says.
        let second = fs::File::options().write(true).open(volume(home.path(), 2)).unwrap();
        second.set_len(second.metadata().unwrap().len() - 10).unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        assert_eq!(engine.usage().damaged, 1);
        flip(&volume(home.path(), 3), 45);
        for _ in 0..2 {
            scrub_all(&engine);
            let found = damaged(&engine).await;
            let found: Vec<_> = found.iter().map(|one| (one.place.to_string(), one.what)).collect();
            assert_eq!(found.len(), 2, "{found:?}");
            assert_eq!(found[1], (format!("0/3:0-{SUPERBLOCK_BYTES}"), Wrong::Superblock));
            assert_eq!(found[0].1, Wrong::NoRecord);
        }
        let stopped = rewrite_some(&engine, 2, usize::MAX).await;
        assert!(matches!(stopped, Err(Stop::LeaveAlone(_))), "{stopped:?}");
    });
}

#[test]
fn what_moves_or_is_replaced_meanwhile_is_no_damage() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let engine = Engine::open(home.path(), options()).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let scrubbing = std::thread::spawn({
            let (engine, done) = (engine.clone(), done.clone());
            move || {
                let mut rounds = 0;
                while !done.load(Ordering::SeqCst) {
                    assert_eq!(scrub_all(&engine).found, 0);
                    rounds += 1;
                }
                rounds
            }
        });
        let started = Instant::now();
        for n in 1.. {
            for key in 0..30 {
                let length = if key % 5 == 0 { 20_000 } else { SMALL as usize / 2 };
                if (key + n) % 7 == 0 {
                    delete(&engine, &format!("k{key}"), n).await.unwrap();
                } else {
                    put(&engine, &format!("k{key}"), n, length).await.unwrap();
                }
            }
            compact(&engine).await;
            let enough = engine.usage().reclaimed_bytes > 100 * engine.usage().disk_bytes;
            if n >= 60 && enough || started.elapsed() > WITHIN {
                break;
            }
        }
        done.store(true, Ordering::SeqCst);
        let rounds = scrubbing.join().unwrap();
        assert!(rounds > 3, "{rounds} rounds");
        assert_eq!((engine.usage().damaged, listed(&engine).await), (0, vec![]));
    });
}

#[test]
fn a_scrub_that_is_paused_reads_nothing_and_one_that_is_started_begins_at_once() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        drop(some_blobs(home.path()).await);
        let options = Options { scrub_bytes_per_second: 1 << 30, ..options() };
        let engine = Engine::open(home.path(), options.clone()).unwrap();
        let wait = |what: &str, is: &dyn Fn(ScrubUsage) -> bool| {
            let started = Instant::now();
            while !is(engine.usage().scrub) {
                assert!(started.elapsed() < WITHIN, "{what}: {:?}", engine.usage().scrub);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait("the first round begins by itself", &|usage| usage.last_ended_ms.is_some());
        let first = engine.usage().scrub;
        assert!(first.read_bytes >= first.total_bytes && first.found == 0, "{first:?}");
        engine.pause_scrub(true);
        engine.start_scrub();
        let (number, offset, _) = place(&engine, "small/3");
        flip(&volume(home.path(), number), offset + 500);
        // It would begin within a second.
        let paused_at = Instant::now();
        while paused_at.elapsed() < Duration::from_secs(2) {
            assert!(get(&engine, "blocks/1").await.unwrap().is_some());
        }
        let paused = engine.usage().scrub;
        assert_eq!(paused, ScrubUsage { paused: true, ..first });
        engine.pause_scrub(false);
        wait("a round that was asked for", &|usage| usage.last_ended_ms > first.last_ended_ms);
        assert_eq!(engine.usage().scrub.found, 1);
        engine.close().await.unwrap();
        drop(engine);
        let engine = Engine::open(home.path(), options).unwrap();
        assert!(engine.usage().scrub.last_ended_ms.is_some(), "the next round is due in a month");
        assert_eq!(listed(&engine).await, [("small/3".into(), Wrong::Checksum)]);
    });
}
