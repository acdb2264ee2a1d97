//! Directories that are not the data directory of a node: refused in a sentence, and nothing is made in them.

use std::{fs, path::Path};

use crate::{support::daemon::Daemon, support::port::free_port};

use super::rig::*;

const COMMANDS: [&str; 5] = ["list", "dump", "verify", "rebuild-index", "compact"];

/// What the commands say of that directory; each must fail with 1.
#[track_caller]
fn refused(dir: &Path) -> String {
    let said: Vec<String> = COMMANDS
        .iter()
        .map(|command| {
            let said = volume(command, dir, &[]);
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{command}: {said:?}");
            said.stderr
        })
        .collect();
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    said[0].clone()
}

#[test]
fn empty_foreign_and_missing_directories_are_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let none = "holds no backpack storage\n";
    assert!(refused(home.path()).ends_with(none));
    fs::write(home.path().join("photo.jpg"), "x").unwrap();
    assert!(refused(home.path()).ends_with(none));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    assert!(refused(&home.path().join("nowhere")).contains("No such file or directory"));
    assert!(!home.path().join("nowhere").exists());
    assert!(refused(&home.path().join("photo.jpg")).contains("Not a directory"));
}

#[test]
fn a_directory_of_another_version_or_without_its_data_is_refused() {
    let (_home, dir) = Node::loaded().stop();
    let marker = fs::read_to_string(dir.join("FORMAT")).unwrap();
    fs::write(dir.join("FORMAT"), marker.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(refused(&dir).contains("format version 2"));
    fs::write(dir.join("FORMAT"), "{").unwrap();
    assert!(refused(&dir).contains("not a marker of ours"));
    fs::write(dir.join("FORMAT"), &marker).unwrap();
    fs::rename(dir.join("blobs"), dir.join("elsewhere")).unwrap();
    assert!(refused(&dir).contains("is a disk not mounted?"));
    fs::rename(dir.join("elsewhere"), dir.join("blobs")).unwrap();
    for command in ["dump", "verify"] {
        let said = volume(command, &dir, &["--volume", "99"]);
        assert_eq!((said.code, &*said.stdout), (1, ""));
        assert!(said.stderr.contains("there is no such volume"), "{said:?}");
    }
    ok("list", &dir, &[]);
}

#[test]
fn the_folder_of_a_one_machine_system_names_the_directories_of_its_nodes() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let addr = format!("127.0.0.1:{}", free_port());
    let system =
        Daemon::start(env!("CARGO_BIN_EXE_backpack"), ["--data", data.to_str().unwrap(), "--listen", &addr]);
    system.wait_ready(&addr);
    let said = refused(&data);
    let (one, two) = (data.join("node-1"), data.join("node-2"));
    let expected = format!("give one of {}, {}\n", one.display(), two.display());
    assert!(said.ends_with(&expected), "{said}");
    for node in [one, two] {
        ok("verify", &node, &[]);
    }
}
