//! Directories that earlier versions wrote.

use std::{fs, path::Path};

use backpack::{
    model::Version,
    storage::{Found, Storage},
};

use super::rig::*;

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
