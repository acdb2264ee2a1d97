//! What a crash leaves at the end of the last volume.

use std::{fs, io::Write, path::Path};

use backpack::storage::{Storage, StorageError};

use super::rig::*;

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

/// What stays behind the end may name the file of a later blob.
#[test]
fn what_was_never_acknowledged_is_cut_off() {
    block_on(async {
        let home = tempfile::tempdir().unwrap();
        let (live, crashed) = (home.path().join("live"), home.path().join("crashed"));
        let engine = reopen(&live);
        let all = write_some(&engine, &live).await;
        copy(&live, &crashed);
        let (length, volume) = (all.last().unwrap().volume_length, last_volume(&crashed));
        let mut tail = fs::File::options().append(true).open(&volume).unwrap();
        tail.write_all(&[7; 1000]).unwrap();
        drop(reopen(&crashed));
        assert_eq!(fs::metadata(&volume).unwrap().len(), length);
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
