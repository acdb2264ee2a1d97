//! The documents as the original writes them, as people damage them, and as we edit them.

use proptest::prelude::*;

use super::*;
use crate::model::{Pool, PoolName, QueueInfo, QueueServer, Server, ServerId, WriteLevel, map::ShardSize};

fn parse(text: &str) -> Document {
    Document::parse(text.as_bytes()).unwrap()
}

fn ids(texts: &[&str]) -> Vec<ServerId> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn server(id: &str, host: &str, port: u16) -> Server {
    Server { id: id.parse().unwrap(), host: host.into(), port }
}

#[track_caller]
fn edited(before: &str, edit: impl FnOnce(&mut Document), after: &str) {
    let mut document = parse(before);
    edit(&mut document);
    assert_eq!(document.to_bytes(), after);
}

#[test]
fn reads_what_the_original_writes() {
    let servers = parse(
        r#"{"1":{"host":"127.0.0.1","port":"10001"},"photos-a":{"host":"node.example","port":10002},"6":{"host":"::1","port":"80"}}"#,
    )
    .servers();
    assert_eq!(servers.complaints, [""; 0]);
    let found: Vec<_> = servers.value.values().map(|server| (**server).clone()).collect();
    assert_eq!(
        found,
        [server("1", "127.0.0.1", 10001), server("6", "::1", 80), server("photos-a", "node.example", 10002)]
    );

    let shards = parse(
        r#"{"1":{"nodes":["1","4"]},"2":{"read_only":true,"nodes":["2",5]},"3":{"nodes":["3"],"pool":"fast","read_only":false}}"#,
    )
    .shards();
    assert_eq!(shards.complaints, [""; 0]);
    let found: Vec<_> = shards
        .value
        .into_iter()
        .map(|(id, entry)| (id.to_string(), entry.servers, entry.read_only, entry.pool.to_string()))
        .collect();
    assert_eq!(
        found,
        [
            ("1".into(), ids(&["1", "4"]), false, "default".into()),
            ("2".into(), ids(&["2", "5"]), true, "default".into()),
            ("3".into(), ids(&["3"]), false, "fast".into()),
        ]
    );

    let size = parse(r#"{"capacity":107374182400,"current":17}"#).size();
    assert_eq!(size.value, Some(ShardSize { capacity: 107_374_182_400, used: 17 }));

    let queue = parse(
        r#"{"key":"backpack-queue","servers":[{"host":"127.0.0.1","port":"23001"},{"host":"r","port":6380,"tls":true}]}"#,
    )
    .queue()
    .unwrap();
    assert_eq!(queue.value.key, "backpack-queue");
    let servers: Vec<_> = queue.value.servers.iter().map(QueueServer::to_string).collect();
    assert_eq!(servers, ["127.0.0.1:23001", "rediss://r:6380"]);

    let embedded = parse(r#"{"key":"q","servers":[]}"#).queue().unwrap().value;
    assert!(embedded.servers.is_empty());

    let pools = parse(r#"{"default":{"write":"one","hosts":[]},"safe":{"write":"all"},"plain":{}}"#).pools();
    assert_eq!(pools.complaints, [""; 0]);
    let level = |name: &str| pools.value[&name.parse::<PoolName>().unwrap()].write;
    assert_eq!(
        (level("default"), level("safe"), level("plain")),
        (WriteLevel::One, WriteLevel::All, WriteLevel::One)
    );
}

#[test]
fn bad_entries_are_told_and_good_ones_stay() {
    let servers = parse(
        r#"{"1":{"host":"a","port":"1"},"2":{"host":null,"port":null},"3":{"host":"a","port":"x"},"4":7,"a/b":{"host":"a","port":1},
            "5":{"host":"http://a","port":1},"6":{"host":"a","port":0},"7":{"host":"a","port":65536},"8":{"host":"[::1]","port":2},"9":null}"#,
    )
    .servers();
    let found: Vec<_> = servers.value.values().map(|server| server.authority()).collect();
    assert_eq!(found, ["a:1", "[::1]:2"]);
    assert_eq!(servers.complaints.len(), 8, "{:?}", servers.complaints);
    assert_eq!(servers.complaints[0], r#"server "2": null is no host name"#);
    assert_eq!(servers.complaints[1], r#"server "3": "x" is no port"#);

    let shards = parse(
        r#"{"1":{"nodes":["1"]},"2":{},"3":{"nodes":[]},"4":{"nodes":["1","1","a b",null]},"5":{"nodes":["1"],"read_only":"yes"},
            "6":{"nodes":["1"],"pool":"no/name"},"7":[],"8":{"nodes":"1"}}"#,
    )
    .shards();
    let found: Vec<_> = shards
        .value
        .iter()
        .map(|(id, entry)| (id.as_str(), entry.servers.len(), entry.read_only, entry.pool.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("1", 1, false, "default"),
            ("4", 1, false, "default"),
            ("5", 1, true, "default"),
            ("6", 1, true, "default")
        ]
    );
    assert_eq!(shards.complaints.len(), 9, "{:?}", shards.complaints);

    let pools = parse(r#"{"a":{"write":"two"},"b":{"write":"all","hosts":"x"},"c":3}"#).pools();
    let found: Vec<_> = pools.value.values().map(|pool| pool.write).collect();
    assert_eq!(found, [WriteLevel::All, WriteLevel::All]);
    assert_eq!(pools.complaints.len(), 3, "{:?}", pools.complaints);
}

#[test]
fn numbers_that_make_no_sense_make_the_size_unknown() {
    for (text, size) in [
        (r#"{"capacity":10,"current":0}"#, Some((10, 0))),
        (r#"{"capacity":1181116006.4,"current":10.9}"#, Some((1_181_116_006, 10))),
        (r#"{"capacity":18446744073709551615,"current":0}"#, Some((u64::MAX, 0))),
        (r#"{"capacity":10,"current":null}"#, None),
        (r#"{"capacity":10}"#, None),
        (r#"{"capacity":10,"current":-1}"#, None),
        (r#"{"capacity":10,"current":-0.5}"#, None),
        (r#"{"capacity":-10,"current":1}"#, None),
        (r#"{"capacity":1e300,"current":1}"#, None),
        (r#"{"capacity":"10","current":1}"#, None),
        (r#"{"capacity":10,"current":"NaN"}"#, None),
        (r#"{}"#, None),
    ] {
        let read = parse(text).size();
        assert_eq!(read.value, size.map(|(capacity, used)| ShardSize { capacity, used }), "{text}");
        assert_eq!(read.complaints.is_empty(), size.is_some(), "{text}: {:?}", read.complaints);
    }
}

#[test]
fn what_is_no_document_is_an_error() {
    for text in ["", "[]", "null", "7", r#""x""#, "{", r#"{"a":NaN}"#, "\u{0}"] {
        assert!(Document::parse(text.as_bytes()).is_err(), "{text:?}");
    }
    for text in [
        "{}",
        r#"{"key":"q"}"#,
        r#"{"servers":[]}"#,
        r#"{"key":"","servers":[]}"#,
        r#"{"key":7,"servers":[]}"#,
        // Not the embedded queue, which an empty list would mean.
        r#"{"key":"q","servers":[{"host":"a"}]}"#,
        r#"{"key":"q","servers":{}}"#,
    ] {
        assert!(parse(text).queue().is_err(), "{text}");
    }
    let partly = parse(r#"{"key":"q","servers":[{"host":"a"},{"host":"a","port":1}]}"#).queue().unwrap();
    assert_eq!((partly.value.servers.len(), partly.complaints.len()), (1, 1));
}

#[test]
fn edits_write_what_the_original_reads_and_keep_what_they_do_not_know() {
    edited(
        r#"{"2":{"port":"1","rack":7,"host":"a"},"x":null}"#,
        |document| {
            document.put_server(&server("1", "::1", 10001));
            document.put_server(&server("2", "b", 2));
        },
        r#"{"2":{"port":"2","rack":7,"host":"b"},"x":null,"1":{"host":"::1","port":"10001"}}"#,
    );
    let one = "1".parse().unwrap();
    edited(
        "{}",
        |document| document.put_shard(&one, &ids(&["1", "4"]), None),
        r#"{"1":{"read_only":true,"nodes":["1","4"]}}"#,
    );
    edited(
        r#"{"1":{"nodes":["1"],"note":"mine","pool":"a"}}"#,
        |document| document.put_shard(&one, &ids(&["2"]), None),
        r#"{"1":{"nodes":["2"],"note":"mine","pool":"a"}}"#,
    );
    edited(
        r#"{"1":{"nodes":["1"],"note":"mine","pool":"a"}}"#,
        |document| document.put_shard(&one, &ids(&["1"]), Some(&PoolName::default())),
        r#"{"1":{"nodes":["1"],"note":"mine"}}"#,
    );
    edited(
        r#"{"1":{"nodes":["1"],"note":"mine"}}"#,
        |document| document.set_read_only(&one, true),
        r#"{"1":{"read_only":true,"nodes":["1"],"note":"mine"}}"#,
    );
    edited(
        r#"{"1":{"nodes":["1"],"read_only":true,"note":"mine"}}"#,
        |document| document.set_read_only(&one, false),
        r#"{"1":{"nodes":["1"],"note":"mine"}}"#,
    );
    let queue_server = |host: &str, tls| QueueServer { host: host.into(), port: 6379, tls };
    edited(
        r#"{"servers":[{"host":"a","port":6379,"weight":2},{"host":"b","port":"1"}],"key":"old","more":1}"#,
        |document| {
            let servers = vec![queue_server("a", false), queue_server("c", true)];
            document.set_queue(&QueueInfo { key: "new".into(), servers });
        },
        r#"{"servers":[{"host":"a","port":6379,"weight":2},{"host":"c","port":"6379","tls":true}],"key":"new","more":1}"#,
    );
    edited(
        r#"{"old":{},"safe":{"color":"red","write":"one"}}"#,
        |document| {
            let safe = Pool { write: WriteLevel::All, hosts: vec!["a.example".into()] };
            document.put_pool(&"safe".parse().unwrap(), &safe);
        },
        r#"{"old":{},"safe":{"color":"red","write":"all","hosts":["a.example"]}}"#,
    );
}

#[test]
fn size_documents_are_found_by_their_path() {
    let shard: ShardId = "photos-a".parse().unwrap();
    assert_eq!(size_path(&shard), "/shard-size-photos-a");
    assert_eq!(shard_of_size_path("/shard-size-photos-a"), Some(shard));
    for path in ["/shard-size-", "/shard-size-a/b", "/shards-map", "/x/shard-size-1"] {
        assert_eq!(shard_of_size_path(path), None, "{path}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9./: ]{0,6}".prop_map(Value::from),
    ];
    let name = prop_oneof!["[a-z0-9/ ]{0,3}", Just("nodes".to_owned()), Just("host".to_owned())];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..4)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_makes_reading_fail(value in any_json()) {
        if let Ok(document) = Document::parse(value.to_string().as_bytes()) {
            let _ = (document.servers(), document.shards(), document.size(), document.queue(), document.pools());
        }
    }

    #[test]
    fn an_edit_changes_nothing_else(value in any_json()) {
        if let Ok(before) = Document::parse(value.to_string().as_bytes()) {
            let mut after = before.clone();
            after.put_server(&server("new", "a", 1));
            prop_assert_eq!(after.0.shift_remove("new").is_some(), true);
            let mut before = before;
            before.0.shift_remove("new");
            prop_assert_eq!(after.to_bytes(), before.to_bytes());
        }
    }
}
