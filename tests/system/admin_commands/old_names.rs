//! Links with the names of the original's programs are its programs.

use std::os::unix::fs::symlink;

use super::{ADMIN, Cluster, call};

#[test]
fn links_by_the_original_names_do_what_the_original_did() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let old = |name: &str, rest: &str| {
        let link = folder.path().join(format!("backpack-coordinator-{name}"));
        if !link.exists() {
            symlink(ADMIN, &link).unwrap();
        }
        call(link.to_str().unwrap(), &format!("{} {} {rest}", cluster.zk, cluster.root), &[])
    };
    for (name, rest, sentence) in [
        ("init", "q 127.0.0.1:1", "Servers map initialized"),
        ("add-server", "1 127.0.0.1:10003", "Added 127.0.0.1:10003 as 1"),
        ("add-shard", "1 1 1.5mb", "Made shard 1 of size 1.5mb that consist of nodes 1"),
        ("enable-shard", "1", "Enabled shard 1 for writing"),
        ("disable-shard", "1", "Shard 1 is read-only now"),
        ("set-queue", "q 127.0.0.1:2", "Queue info updated!"),
        ("print-stats", "", "Shards:"),
        ("dump-shards", "", "{"),
    ] {
        let said = old(name, rest);
        assert_eq!((said.code, said.stdout.lines().next()), (0, Some(sentence)), "{name}: {said:?}");
    }
    let usage = "Usage: backpack-coordinator-add-server <zk_servers> </zk/root> <id> <url>";
    let missing = old("add-server", "1");
    assert_eq!((missing.code, missing.stderr.trim_end()), (2, usage));
    let wrong = old("add-server", "1 https://one");
    assert!(wrong.code == 2 && wrong.stderr.starts_with(usage) && wrong.stderr.contains("plain HTTP"));
    assert_eq!(old("enable-shard", "9").code, 1);
}
