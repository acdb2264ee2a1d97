//! A disk that is full, and then not any more.

use std::{fs, io::Write};

use backpack::storage::{Engine, Options, Storage, StorageError};

use crate::support::{small_disk::SmallDisk, wait::wait_until};

use super::rig::*;

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
