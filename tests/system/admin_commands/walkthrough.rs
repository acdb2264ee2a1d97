//! The set-up of the README, word for word, and that doing it twice changes nothing.

use serde_json::json;

use super::Cluster;

#[test]
fn the_readme_is_walked_through_word_for_word() {
    let cluster = Cluster::new();
    assert_eq!(
        cluster.ok("coordinator-init", "backpack-queue 127.0.0.1:23001,127.0.0.1:23002"),
        "Servers map initialized\nShards map initialized\nQueue initialized\n"
    );
    for id in 1..=6 {
        let url = format!("http://127.0.0.1:1000{id}");
        assert_eq!(cluster.ok("add-server", &format!("{id} {url}")), format!("Added {url} as {id}\n"));
    }
    for (shard, servers) in [(1, "1,4"), (2, "2,5"), (3, "3,6")] {
        let said = cluster.ok("add-shard", &format!("{shard} {servers} 100gb"));
        let sentence = format!("Made shard {shard} of size 100gb that consist of nodes {servers}\n");
        assert!(said.starts_with(&sentence), "{said}");
        assert!(said.contains(&format!("enable-shard {} {} {shard}\n", cluster.zk, cluster.root)), "{said}");
    }
    assert_eq!(cluster.ok("enable-shard", "1"), "Enabled shard 1 for writing\n");
    assert_eq!(
        cluster.ok("print-stats", ""),
        "Shards:\n1 [1, 4]: 0b / 100gb (0%) rw\n2 [2, 5]: 0b / 100gb (0%) r\n3 [3, 6]: 0b / 100gb (0%) r\n\
         Overall: 0b / 300gb (0%)\n"
    );
    assert!(cluster.ok("disable-shard", "1").starts_with("Shard 1 is read-only now\nNo shard takes uploads"));
    let said = cluster.ok("set-queue", "backpack-queue 127.0.0.1:23001,127.0.0.1:23002,127.0.0.1:23003");
    assert_eq!(said, "Queue info updated!\n");
}

#[test]
fn the_maps_are_as_the_original_has_them() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:23001,127.0.0.1:23002");
    let documents = cluster.documents();
    let text = |path: &str| documents[path].0.as_str();
    assert_eq!(
        text("/queue"),
        r#"{"key":"backpack-queue","servers":[{"host":"127.0.0.1","port":"23001"},{"host":"127.0.0.1","port":"23002"}]}"#
    );
    assert!(text("/servers-map").starts_with(r#"{"1":{"host":"127.0.0.1","port":"10001"},"2":"#));
    assert_eq!(
        text("/shards-map"),
        r#"{"1":{"nodes":["1","4"]},"2":{"read_only":true,"nodes":["2","5"]},"3":{"read_only":true,"nodes":["3","6"]}}"#
    );
    assert_eq!(text("/shard-size-1"), r#"{"capacity":107374182400,"current":0}"#);
}

#[test]
fn dump_shards_prints_json_indented_by_four() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    let said = cluster.ok("dump-shards", "");
    let first = "{\n    \"1\": {\n        \"enabled\": true,\n        \"nodes\": {\n            \"1\": {\n                \
                 \"host\": \"127.0.0.1\",\n                \"port\": \"10001\"\n            },\n            \"4\": {\n";
    assert!(said.starts_with(first), "{said}");
    let shards: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shards["3"]["enabled"], false);
    assert_eq!(shards["3"]["nodes"]["6"], json!({"host": "127.0.0.1", "port": "10006"}));
    assert_eq!(cluster.json("dump-shards", ""), shards);
}

#[test]
fn doing_it_twice_changes_nothing_and_says_so() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    cluster.ok("set-pool", "photos --write quorum --host photos.example.org");
    let before = cluster.documents();
    assert_eq!(
        cluster.ok("coordinator-init", "backpack-queue 127.0.0.1:1"),
        "Servers map already initialized\nShards map already initialized\nQueue already initialized\n"
    );
    for (command, rest) in [
        ("add-server", "1 127.0.0.1:10001"),
        ("add-shard", "1 1,4 100gb"),
        ("enable-shard", "1"),
        ("disable-shard", "2"),
        ("set-queue", "backpack-queue 127.0.0.1:1"),
        ("set-pool", "photos --write quorum"),
    ] {
        let said = cluster.ok(command, rest);
        assert!(said.contains("nothing changed"), "{command}: {said}");
        assert_eq!(cluster.json(command, rest)["changed"], false, "{command}");
    }
    let other = cluster.ok("coordinator-init", "another-queue 127.0.0.1:2");
    assert!(other.ends_with("The queue stays backpack-queue on 127.0.0.1:1: change it with set-queue.\n"));
    assert_eq!(cluster.documents(), before);
}

#[test]
fn edits_say_what_they_changed() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    assert!(cluster.ok("add-server", "1 one").contains("It was http://127.0.0.1:10001 before"));
    assert_eq!(cluster.document("/servers-map")["1"], json!({"host": "one", "port": "80"}));
    let json = cluster.json("add-server", "7 http://[::1]:10007");
    assert_eq!(json, json!({"server": {"id": "7", "host": "::1", "port": 10007}, "changed": true}));
    let said = cluster.ok("add-shard", "3 3,7 5tb --force --pool photos");
    assert!(said.contains("Its servers were 3,6 before"), "{said}");
    assert!(said.contains("It keeps its capacity of 100gb."), "{said}");
    assert_eq!(cluster.document("/shards-map")["3"]["pool"], "photos");
    assert_eq!(cluster.document("/shard-size-3")["capacity"], 107_374_182_400u64);
    let left = cluster.ok("set-queue", "backpack-queue rediss://127.0.0.1:2");
    assert!(left.contains("no longer seen"), "{left}");
    assert_eq!(cluster.document("/queue")["servers"][0]["tls"], true);
    let pool = cluster.ok("set-pool", "photos --write all --host a --host b");
    assert_eq!(pool, "Pool photos: write all, hosts a, b\n");
    assert_eq!(cluster.document("/pools")["photos"], json!({"write": "all", "hosts": ["a", "b"]}));
    assert!(cluster.ok("set-pool", "photos --no-hosts").starts_with("Pool photos: write all, hosts none\n"));
}
