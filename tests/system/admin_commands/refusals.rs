//! What makes no sense is refused with a sentence, and changes nothing.

use super::{ADMIN, Cluster, call};

#[test]
fn refused_edits_leave_the_map_as_it_was() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    cluster.ok("set-pool", "photos --host photos.example.org");
    let before = cluster.documents();
    for (command, rest, part) in [
        ("add-server", "7 127.0.0.1:10001", "127.0.0.1:10001 is server 1 already"),
        (
            "add-shard",
            "4 1,9 1gb",
            "unknown server 9: add it first with add-server (known are: 1, 2, 3, 4, 5, 6)",
        ),
        ("add-shard", "4 1,1 1gb", "none of them twice"),
        ("add-shard", "4 1,2 1gb", "server 1 already belongs to shard 1"),
        ("add-shard", "1 1,2 1gb", "shard 1 exists with the servers 1, 4"),
        ("enable-shard", "9", "unknown shard 9 (known are: 1, 2, 3)"),
        ("disable-shard", "9", "unknown shard 9"),
        ("set-pool", "other --host Photos.example.org", "go to pool photos already"),
        ("recount", "--shard 9", "unknown shard 9"),
    ] {
        let complaint = cluster.refused(1, command, rest);
        assert!(
            complaint.starts_with("error: ") && complaint.contains(part),
            "{command} {rest}: {complaint}"
        );
    }
    assert_eq!(cluster.documents(), before);
}

#[test]
fn misuse_is_told_from_failure() {
    let cluster = Cluster::new();
    for (command, rest, part) in [
        ("add-server", "1", "<URL>"),
        ("add-server", "1 https://one", "plain HTTP"),
        ("add-server", "1 http://one/path", "without path"),
        ("add-server", "1 http://user:sesame@one", "no user or password"),
        ("add-server", "a/b one", "must not contain '/'"),
        ("add-shard", "1 1,4 ten", "is not a size"),
        ("add-shard", "1 1,4 0gb", "room for something"),
        ("add-shard", "1 1,4 1gb too much", "unexpected argument"),
        ("coordinator-init", "q redis://:sesame@one:6379", "BACKPACK_REDIS_PASSWORD"),
        ("coordinator-init", "q one:x", "no port"),
        ("coordinator-init", "q embedded", "embedded map only"),
        ("set-pool", "photos", "say what to set"),
        ("queue discard", "", "--all"),
        ("queue redrive", "", "--all"),
        ("nginx-config", "--watch", "--output"),
        ("nonsense", "", "unrecognized subcommand"),
    ] {
        let complaint = cluster.refused(2, command, rest);
        assert!(complaint.contains(part), "{command} {rest}: {complaint}");
        assert!(!complaint.contains("sesame"), "{complaint}");
    }
    assert!(call(ADMIN, "print-stats zk:2181 backpack", &[]).stderr.contains("for example /backpack"));
    assert_eq!(call(ADMIN, "print-stats zk:port /backpack", &[]).code, 2);
}

#[test]
fn a_cluster_that_was_never_initialised_is_not_made_by_accident() {
    let cluster = Cluster::new();
    for (command, rest) in [
        ("print-stats", ""),
        ("dump-shards", ""),
        ("status", ""),
        ("queue stats", ""),
        ("add-server", "1 one"),
        ("add-shard", "1 1 1gb"),
        ("enable-shard", "1"),
        ("set-queue", "q one"),
        ("set-pool", "p --write all"),
        ("recount", ""),
        ("nginx-config", ""),
    ] {
        let complaint = cluster.refused(1, command, rest);
        assert!(complaint.contains("run coordinator-init first"), "{command}: {complaint}");
    }
    assert!(cluster.documents().is_empty());
    let nowhere = Cluster::at("embedded:/nowhere/at/all", "/");
    assert!(nowhere.refused(1, "print-stats", "").contains("no data folder /nowhere/at/all"));
}

#[test]
fn help_and_completions_are_there() {
    let help = call(ADMIN, "add-shard --help", &[]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Example:\n  backpack-admin add-shard"), "{}", help.stdout);
    let script = call(ADMIN, "completions bash", &[]);
    assert!(script.code == 0 && script.stdout.contains("coordinator-init"));
    assert_eq!(call(ADMIN, "--version", &[]).code, 0);
}
