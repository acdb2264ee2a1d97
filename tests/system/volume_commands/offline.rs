//! A new index, and space given back, while the node does not run.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    wait::{START_WITHIN, wait_until},
};

use super::rig::*;

fn said_of_list(dir: &Path) -> Value {
    ok("list", dir, &["--json"]).lines().remove(0)
}

fn compacted(dir: &Path, more: &[&str]) -> Value {
    ok("compact", dir, &[&["--json", "--dead-ratio", "0.05"], more].concat()).lines().remove(0)
}

#[test]
fn a_missing_or_wrong_index_is_made_anew() {
    let node = Node::loaded();
    node.process.kill();
    let dir = node.dir();
    let before = said_of_list(&dir);
    assert_eq!(before["saved_index"], "none");
    let said = ok("rebuild-index", &dir, &["--json"]).lines().remove(0);
    let bytes = fs::metadata(dir.join("INDEX")).unwrap().len();
    assert_eq!(said, json!({"blobs": 24, "tombstones": 1, "index_bytes": bytes, "damaged": 0}));
    assert_eq!(said_of_list(&dir)["saved_index"], "used");
    let mut index = fs::read(dir.join("INDEX")).unwrap();
    index[200] ^= 1;
    fs::write(dir.join("INDEX"), index).unwrap();
    assert_eq!(said_of_list(&dir)["saved_index"], "wrong");
    assert!(
        ok("rebuild-index", &dir, &[]).stdout.starts_with("Saved an index of 24 blobs and 1 tombstones, ")
    );
    let after = said_of_list(&dir);
    assert_eq!((&after["saved_index"], &after["totals"]), (&json!("used"), &before["totals"]));
    node.process.restart();
    node.process.wait_ready(&node.addr);
    node.check();
}

#[test]
fn space_is_given_back_and_nothing_is_lost() {
    let (home, dir) = Node::loaded().stop();
    let before = said_of_list(&dir);
    let said = compacted(&dir, &[]);
    let after = said_of_list(&dir);
    let bytes = |said: &Value| said["totals"]["bytes"].as_u64().unwrap();
    assert_eq!(said["given_back_bytes"], bytes(&before) - bytes(&after), "{said}: {before} {after}");
    assert!(said["given_back_bytes"].as_u64() > Some(200_000) && said["removed_volumes"].as_u64() > Some(2));
    assert_eq!((&said["left_alone"], &said["stopped"]), (&json!({}), &json!(false)));
    assert_eq!(after["totals"]["records"], before["totals"]["records"], "the tombstone too");
    assert_eq!(
        (&after["saved_index"], &after["totals"]["dead_bytes"]),
        (&json!("used"), &said["dead_bytes"])
    );
    assert_eq!(verified(&ok("verify", &dir, &["--json"]))["files"], 1);
    assert_eq!(compacted(&dir, &[])["removed_volumes"], 0, "nothing is worth it any more");
    assert!(ok("compact", &dir, &[]).stdout.starts_with("Given back: 0b (0 volumes of 0b removed"));
    Node::start_again(home, &[]).check();
}

#[test]
fn one_that_is_stopped_or_killed_loses_nothing_and_is_gone_on_with() {
    let (home, dir) = Node::loaded().stop();
    let bytes = || volumes(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let before = bytes();
    // So slow that it is not done before it is ended.
    let slow = || {
        let args =
            ["volume", "compact", dir.to_str().unwrap(), "--dead-ratio", "0.05", "--bytes-per-second", "2kb"];
        let process = Daemon::start(ADMIN, args);
        let started = bytes();
        wait_until("something is moved or removed", START_WITHIN, || bytes() != started);
        process
    };
    slow().kill();
    ok("verify", &dir, &[]);
    let process = slow();
    assert_eq!(process.terminate(START_WITHIN).code(), Some(1));
    let said = process.log();
    assert!(
        said.contains("Given back: ") && said.contains("stopped before the end; the same command"),
        "{said}"
    );
    ok("verify", &dir, &[]);
    assert!(compacted(&dir, &[])["removed_volumes"].as_u64() > Some(0));
    assert!(bytes() < before);
    Node::start_again(home, &[]).check();
}

#[test]
fn volumes_with_damage_are_left_alone_and_named() {
    let (_home, dir) = Node::loaded().stop();
    let live = &records_of(&dir, "small/3")[2];
    let path = dir.join(format!("volumes/{:08}.vol", live["volume"].as_u64().unwrap()));
    let mut bytes = fs::read(&path).unwrap();
    bytes[live["offset"].as_u64().unwrap() as usize + 1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = compacted(&dir, &[]);
    let reason = said["left_alone"][live["volume"].to_string()].as_str().unwrap_or_default();
    assert!(reason.contains("the bytes do not match their checksum"), "{said}");
    assert!(path.exists());
    assert_eq!(volume("verify", &dir, &[]).code, 3);
}

#[test]
fn deletes_are_forgotten_only_where_it_is_asked_for() {
    let node = Node::start(&["--compact-bytes-per-second", "0"]);
    for n in 0..60 {
        node.put(&format!("/{n}"), body(n, 0, 5_000));
        // Deletes of long ago, of what was never there.
        let version = format!("0000000000{n:016}");
        let request = crate::support::http::Request::new("DELETE", &node.addr, &format!("/never/{n}"));
        let reply = request.header("X-Backpack-Version", &version).send_blocking().unwrap();
        assert_eq!(reply.status, 204);
        node.put(&format!("/{n}"), body(n, 1, 5_000));
    }
    let (home, dir) = node.stop();
    let (kept, forgotten) = (home.path().join("kept"), home.path().join("forgotten"));
    copy(&dir, &kept);
    copy(&dir, &forgotten);
    let tombstones = |dir: &Path| said_of_list(dir)["totals"]["tombstones"].as_u64();
    assert!(compacted(&kept, &[])["removed_volumes"].as_u64() > Some(1));
    assert_eq!(tombstones(&kept), Some(60));
    assert!(compacted(&forgotten, &["--tombstone-days", "30"])["removed_volumes"].as_u64() > Some(1));
    assert!(tombstones(&forgotten) < Some(40), "but for those in the last volume");
}

#[test]
fn a_running_node_is_not_touched() {
    let node = Node::loaded();
    let before = contents(&node.dir());
    for (command, hint) in
        [("rebuild-index", "stop the node first"), ("compact", "a node that runs compacts by itself")]
    {
        let said = volume(command, &node.dir(), &[]);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(
            said.stderr.contains("is in use by another process: ") && said.stderr.contains(hint),
            "{said:?}"
        );
    }
    assert!(contents(&node.dir()) == before);
    node.check();
}

#[test]
fn settings_that_make_no_sense_are_misuse() {
    let (_home, dir) = Node::loaded().stop();
    let before = contents(&dir);
    for settings in [["--dead-ratio", "0"], ["--dead-ratio", "1.5"], ["--bytes-per-second", "0"]] {
        let said = volume("compact", &dir, &settings);
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
    }
    assert!(contents(&dir) == before);
}
