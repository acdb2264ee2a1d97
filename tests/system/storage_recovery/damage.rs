//! Damage: found, never served, and nothing but what is damaged is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use backpack::storage::{Before, Engine, Found, OpenError, Options, Storage, StorageError};
use proptest::prelude::*;

use super::rig::*;

#[test]
fn damage_in_the_middle_costs_one_blob_and_is_reported() {
    block_on(async {
        for (clean, saved) in [(true, true), (true, false), (false, false)] {
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
            if clean && !saved {
                forget_index(dir);
            }
            // The data of one blob, the head of another.
            let mut bytes = fs::read(last_volume(dir)).unwrap();
            bytes[ends[5] - 1] ^= 1;
            bytes[ends[9] + 9] ^= 1;
            fs::write(last_volume(dir), &bytes).unwrap();
            let engine = reopen(dir);
            for n in 0..20 {
                match (n, get(&engine, &format!("k{n:02}")).await) {
                    (5, held) => assert!(matches!(held, Err(StorageError::Damaged(_))), "{held:?}"),
                    // Only the saved index knows whose the head was.
                    (10, held) if saved => assert!(matches!(held, Err(StorageError::Damaged(_))), "{held:?}"),
                    (10, held) => assert_eq!(held.unwrap(), None, "whose it was cannot be known"),
                    (n, held) => assert_eq!(held.unwrap().unwrap().1.unwrap(), vec![n; 500]),
                }
            }
            assert_eq!(engine.usage().damaged, 2);
            // The same version repairs it.
            let repaired = put_bytes(&engine, "k05", 1, vec![5; 500]).await.unwrap();
            assert_eq!(repaired, Before::Older { length: 500 });
            assert_eq!(engine.usage().damaged, 1);
            let repaired = put_bytes(&engine, "k10", 1, vec![10; 500]).await.unwrap();
            assert_eq!(repaired, if saved { Before::Older { length: 500 } } else { Before::Nothing });
            let damaged = if saved { 0 } else { 1 };
            assert_eq!((engine.usage().blobs, engine.usage().damaged), (20, damaged));
            drop(engine);
            let engine = reopen(dir);
            for n in [5, 10] {
                let held = get(&engine, &format!("k{n:02}")).await.unwrap();
                assert_eq!(held.unwrap().1.unwrap(), vec![n; 500]);
            }
            assert_eq!((engine.usage().blobs, engine.usage().damaged), (20, damaged));
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
        let Some(Found::Blob(blob)) = engine.open(&"flipped".parse().unwrap()).await.unwrap() else {
            panic!()
        };
        assert_eq!(blob.read(0, 100_000).await.unwrap(), big[..100_000], "the blocks before are whole");
        for name in ["flipped", "short", "gone"] {
            assert!(matches!(get(&engine, name).await, Err(StorageError::Damaged(_))), "{name}");
        }
        assert_eq!(engine.usage().damaged, 3);
        let again = engine.open(&"flipped".parse().unwrap()).await;
        assert!(matches!(again, Err(StorageError::Damaged(_))), "known, it is withdrawn as a whole");
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
        forget_index(home.path());
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
        saved in any::<bool>(),
    ) {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
            let engine = reopen(&live);
            let all = write_some(&engine, &live).await;
            let dir = if clean {
                drop(engine);
                if !saved {
                    forget_index(&live);
                }
                &live
            } else {
                copy(&live, &crashed);
                &crashed
            };
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
