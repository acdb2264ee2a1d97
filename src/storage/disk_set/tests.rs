use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::open;
use crate::{
    model::{Meta, Version},
    storage::{BlobInfo, Engine, Found, NewBlob, OpenError, Options, Storage, StorageError, SyncMode},
};

const KEYS: u64 = 200;

/// A key's version; `false`: deleted.
type Model = BTreeMap<String, (u64, bool)>;

struct Disks {
    home: tempfile::TempDir,
    dirs: Vec<PathBuf>,
}

impl Disks {
    fn new(count: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dirs = (0..count).map(|n| home.path().join(format!("disk{n}"))).collect();
        Self { home, dirs }
    }

    fn add(&mut self) {
        self.dirs.push(self.home.path().join(format!("disk{}", self.dirs.len())));
    }

    fn try_open(&self, forget_lost: bool) -> Result<Arc<dyn Storage>, OpenError> {
        open(&self.dirs, &options(), forget_lost)
    }

    fn open(&self) -> Arc<dyn Storage> {
        self.try_open(false).unwrap()
    }

    fn reason(&self) -> String {
        self.try_open(false).err().expect("it is refused").to_string()
    }

    /// As a disk that is not mounted: its directory is empty.
    fn unmount(&self, n: usize) {
        fs::rename(&self.dirs[n], self.aside(n)).unwrap();
        fs::create_dir(&self.dirs[n]).unwrap();
    }

    fn mount(&self, n: usize) {
        // Fails if anything was put there.
        fs::remove_dir(&self.dirs[n]).unwrap();
        fs::rename(self.aside(n), &self.dirs[n]).unwrap();
    }

    fn aside(&self, n: usize) -> PathBuf {
        self.home.path().join(format!("aside{n}"))
    }
}

fn options() -> Options {
    Options { sync: SyncMode::Never, ..Options::default() }
}

async fn put(storage: &dyn Storage, name: &str, version: u64) -> Result<(), StorageError> {
    let body = Bytes::from(format!("{name} {version}"));
    let (key, version) = (name.parse().unwrap(), Version::from_parts(version, 1));
    let new = NewBlob { key, version, meta: Meta::default(), length: Some(body.len() as u64) };
    let mut writer = storage.create(new).await?;
    writer.write(body).await?;
    writer.commit().await.map(drop)
}

async fn get(storage: &dyn Storage, name: &str) -> Result<Option<(u64, bool)>, StorageError> {
    let at_hand = storage.at_hand(&name.parse().unwrap());
    let at_hand = at_hand
        .map(|blob| (blob.info().version.unix_ms(), *blob.data() == name_and_version(name, blob.info())));
    let held = held(storage, name).await?;
    // Where the file system can tell what is in memory.
    assert!(at_hand.is_none() || at_hand == held, "{name}: {at_hand:?} {held:?}");
    Ok(held)
}

fn name_and_version(name: &str, info: &BlobInfo) -> String {
    format!("{name} {}", info.version.unix_ms())
}

async fn held(storage: &dyn Storage, name: &str) -> Result<Option<(u64, bool)>, StorageError> {
    Ok(match storage.open(&name.parse().unwrap()).await? {
        None => None,
        Some(Found::Tombstone(version)) => Some((version.unix_ms(), false)),
        Some(Found::Blob(blob)) => {
            let info = blob.info();
            let body = blob.read(0, info.length).await?;
            assert_eq!(body, name_and_version(name, info));
            Some((info.version.unix_ms(), true))
        }
    })
}

async fn fill(storage: &dyn Storage, model: &mut Model, names: std::ops::Range<u64>, version: u64) {
    for n in names {
        let name = format!("k{n:04}");
        put(storage, &name, version).await.unwrap();
        model.insert(name, (version, true));
    }
}

/// Every key is there once, in every way one can ask.
async fn check(storage: &dyn Storage, model: &Model) {
    for (name, held) in model {
        assert_eq!(get(storage, name).await.unwrap(), Some(*held), "{name}");
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list("k", after.as_deref(), 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.key.to_string());
        listed.extend(
            page.into_iter().map(|line| (line.key.to_string(), (line.version.unix_ms(), !line.deleted))),
        );
    }
    assert_eq!(listed, model.clone().into_iter().collect::<Vec<_>>());
    let (usage, blobs) = (storage.usage(), model.values().filter(|(_, there)| *there).count() as u64);
    assert_eq!((usage.blobs, usage.tombstones), (blobs, model.len() as u64 - blobs));
}

fn holds_volumes(dir: &Path) -> bool {
    fs::read_dir(dir.join("volumes")).unwrap().next().is_some()
}

#[tokio::test]
async fn keys_are_spread_and_found_again() {
    let (disks, mut model) = (Disks::new(3), Model::new());
    let storage = disks.open();
    fill(&*storage, &mut model, 0..KEYS, 1).await;
    fill(&*storage, &mut model, 0..KEYS / 2, 2).await;
    for n in 0..KEYS / 4 {
        let name = format!("k{n:04}");
        storage.delete(&name.parse().unwrap(), Version::from_parts(3, 1)).await.unwrap();
        model.insert(name, (3, false));
    }
    check(&*storage, &model).await;
    storage.close().await.unwrap();
    drop(storage);
    assert!(disks.dirs.iter().all(|dir| holds_volumes(dir)));
    check(&*disks.open(), &model).await;
}

#[tokio::test]
async fn a_storage_grows_and_every_key_stays_where_it_is() {
    let (mut disks, mut model) = (Disks::new(1), Model::new());
    for round in 0..4 {
        let storage = disks.open();
        check(&*storage, &model).await;
        // Keys of every round before are written again, and some are deleted, or deleted and put anew.
        let version = 10 * round + 1;
        fill(&*storage, &mut model, 0..KEYS * (round + 1), version).await;
        for n in 0..KEYS {
            let name = format!("k{n:04}");
            storage.delete(&name.parse().unwrap(), Version::from_parts(version + 1, 1)).await.unwrap();
            model.insert(name, (version + 1, false));
        }
        fill(&*storage, &mut model, 0..KEYS / 2, version + 2).await;
        check(&*storage, &model).await;
        drop(storage);
        disks.add();
    }
    assert!(disks.dirs[..4].iter().all(|dir| holds_volumes(dir)));
}

#[tokio::test]
async fn a_lost_disk_loses_only_its_blobs_and_brings_them_back() {
    let (disks, mut model) = (Disks::new(3), Model::new());
    fill(&*disks.open(), &mut model, 0..KEYS, 1).await;
    disks.unmount(1);
    let storage = disks.open();
    assert_eq!((storage.usage().failed_disks, storage.usage().read_only), (1, None));
    let (mut lost, mut written) = (0, 0);
    for n in 0..2 * KEYS {
        let name = format!("k{n:04}");
        match get(&*storage, &name).await {
            Err(StorageError::Lost(dir)) => {
                assert_eq!(dir, disks.dirs[1].display().to_string());
                // It may hold another version: nobody may write beside it.
                assert!(matches!(put(&*storage, &name, 2).await, Err(StorageError::ReadOnly(_))));
                let deleted = storage.delete(&name.parse().unwrap(), Version::from_parts(2, 1)).await;
                assert!(matches!(deleted, Err(StorageError::ReadOnly(_))));
                lost += 1;
            }
            found => {
                assert_eq!(found.unwrap(), model.get(&name).copied());
                put(&*storage, &name, 2).await.unwrap();
                model.insert(name, (2, true));
                written += 1;
            }
        }
    }
    assert!(lost > KEYS / 4 && written > KEYS / 2, "{lost} lost, {written} written");
    assert!(matches!(storage.list("", None, 10).await, Err(StorageError::Lost(_))), "it would lack keys");
    storage.close().await.unwrap();
    drop(storage);
    disks.mount(1);
    let storage = disks.open();
    check(&*storage, &model).await;
    assert_eq!(storage.usage().failed_disks, 0);
}

#[tokio::test]
async fn a_disk_that_is_gone_for_good_is_forgotten_only_when_told() {
    let (mut disks, mut model) = (Disks::new(2), Model::new());
    fill(&*disks.open(), &mut model, 0..KEYS, 1).await;
    disks.unmount(0);
    disks.add();
    assert!(disks.reason().contains("no disk can be added while"), "{}", disks.reason());
    assert_eq!(fs::read_dir(&disks.dirs[0]).unwrap().count(), 0);
    assert!(!disks.dirs[2].exists());

    // The empty directory is a new disk now, too.
    let storage = disks.try_open(true).unwrap();
    let mut gone = 0;
    for n in 0..KEYS {
        let name = format!("k{n:04}");
        let found = get(&*storage, &name).await.unwrap();
        gone += u64::from(found.is_none());
        if found.is_none() {
            put(&*storage, &name, 1).await.unwrap();
        }
    }
    assert!((1..KEYS).contains(&gone), "{gone}");
    check(&*storage, &model).await;
    drop(storage);
    check(&*disks.open(), &model).await;

    let back = disks.aside(0);
    disks.dirs.push(back);
    assert!(disks.reason().contains("holds blobs that are not of this storage"), "{}", disks.reason());
}

#[tokio::test]
async fn directories_that_do_not_make_one_storage_are_refused() {
    let mut disks = Disks::new(2);
    for dir in &disks.dirs {
        put(&*Engine::open(dir, options()).unwrap(), "key", 1).await.unwrap();
    }
    assert!(disks.reason().contains("holds blobs that are not of this storage"), "{}", disks.reason());

    let mut disks2 = Disks::new(2);
    drop(disks2.open());
    let second = disks2.dirs.pop().unwrap();
    assert!(disks2.reason().contains(&format!("the disk that was at {} is missing", second.display())));
    disks2.dirs.push(disks2.dirs[0].clone());
    assert!(disks2.reason().contains("is given twice"), "{}", disks2.reason());

    disks.dirs = vec![disks2.dirs[0].clone(), second.clone()];
    let held = disks.open();
    assert!(matches!(disks.try_open(false), Err(OpenError::Locked(_))));
    drop(held);
    // Both are empty mounts, and a third directory is new: nothing says that it is.
    for n in [0, 1] {
        disks.unmount(n);
    }
    assert!(disks.try_open(false).is_ok(), "with no disk that was there nothing tells them from new ones");
}

#[tokio::test]
async fn a_start_that_was_cut_short_is_taken_up_again() {
    let (disks, mut model) = (Disks::new(2), Model::new());
    // Made, but the plan was not written, or to one of them alone.
    for dir in &disks.dirs {
        drop(Engine::open(dir, options()).unwrap());
    }
    drop(disks.open());
    fs::remove_file(disks.dirs[1].join("DISKS")).unwrap();
    let storage = disks.open();
    fill(&*storage, &mut model, 0..KEYS, 1).await;
    drop(storage);
    fs::remove_file(disks.dirs[0].join("DISKS")).unwrap();
    check(&*disks.open(), &model).await;
    assert!(disks.dirs.iter().all(|dir| dir.join("DISKS").exists()));
}
