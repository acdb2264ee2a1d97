//! Any bytes in any file of a directory: a start comes to an end, without panic, and serves what was written or nothing.

use std::{fs, path::Path};

use backpack::storage::{Engine, OpenError, Storage};
use fastrand::Rng;
use proptest::prelude::*;

use super::{
    flips::{Read, Written, files, fill, options, read, write},
    rig::*,
};

/// What is done to a file. Places and lengths are parts of its length, in thousandths.
#[derive(Debug, Clone)]
enum Wound {
    /// Bytes of no sense, instead of all.
    Replace(Vec<u8>),
    /// Bytes of no sense, there.
    Overwrite(u64, Vec<u8>),
    Cut(u64),
    Grow(u8, u16),
    /// From there, to there, so much: valid heads where they were not written.
    Copy(u64, u64, u64),
    /// Another file's bytes: that one, counted from this one.
    Swap(usize),
    Remove,
}

fn wounds() -> impl Strategy<Value = Vec<(prop::sample::Index, Wound)>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    let part = || 0_u64..=1000;
    let wound = prop_oneof![
        1 => bytes().prop_map(Wound::Replace),
        4 => (part(), bytes()).prop_map(|(at, bytes)| Wound::Overwrite(at, bytes)),
        2 => part().prop_map(Wound::Cut),
        2 => (any::<u8>(), any::<u16>()).prop_map(|(fill, count)| Wound::Grow(fill, count)),
        4 => (part(), part(), part()).prop_map(|(from, to, length)| Wound::Copy(from, to, length)),
        1 => (1_usize..9).prop_map(Wound::Swap),
        1 => Just(Wound::Remove),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), wound), 1..5)
}

fn hurt(dir: &Path, at: &prop::sample::Index, wound: &Wound) {
    let all = files(dir);
    let path = at.get(&all);
    let mut bytes = fs::read(path).unwrap();
    let part = |thousandths: u64| (bytes.len() as u64 * thousandths / 1000) as usize;
    match wound {
        Wound::Replace(other) => bytes = other.clone(),
        Wound::Overwrite(at, other) => {
            let at = part(*at);
            let end = (at + other.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&other[..end - at]);
        }
        Wound::Cut(at) => bytes.truncate(part(*at)),
        Wound::Grow(fill, count) => bytes.resize(bytes.len() + usize::from(*count), *fill),
        Wound::Copy(from, to, length) => {
            let (from, to) = (part(*from), part(*to));
            let length = part(*length).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + length, to);
        }
        Wound::Swap(other) => {
            let at = all.iter().position(|one| one == path).unwrap();
            bytes = fs::read(&all[(at + other) % all.len()]).unwrap();
        }
        Wound::Remove => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

/// A directory with everything in it, closed or as a crash leaves it, and what was written.
async fn made(dir: &Path, is_closed: bool) -> Written {
    let live = dir.with_extension("live");
    let engine = Engine::open(&live, options()).unwrap();
    let written = fill(&engine, &mut Rng::with_seed(4)).await;
    if is_closed {
        engine.close().await.unwrap();
        drop(engine);
    }
    copy(&live, dir);
    written
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_what_was_written_or_nothing(wounds in wounds(), is_closed: bool) {
        block_on(async {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("hurt");
            let mut written = made(&dir, is_closed).await;
            for (at, wound) in &wounds {
                hurt(&dir, at, wound);
            }
            let engine = match Engine::open(&dir, options()) {
                Ok(engine) => engine,
                Err(OpenError::Format { .. } | OpenError::NotOurs { .. }) => return,
                Err(error) => panic!("{error}"),
            };
            let names: Vec<String> = written.keys().cloned().collect();
            for name in &names {
                read(&engine, &written, name).await;
            }
            for listed in engine.list("", None, 1000).await.unwrap() {
                let versions = &written[listed.key.as_str()];
                let length = (!listed.deleted).then_some(listed.length as usize);
                assert!(versions.contains(&(listed.version.unix_ms(), length)), "{listed:?}");
            }
            for name in &names {
                write(&engine, &mut written, name, 1000, Some(50)).await;
            }
            engine.close().await.unwrap();
            drop(engine);
            let engine = Engine::open(&dir, options()).unwrap();
            for name in &names {
                assert_eq!(read(&engine, &written, name).await, Read::Version(1000));
            }
        });
    }
}
