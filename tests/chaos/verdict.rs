//! Looks at everything when the faults are over and all is whole, and holds it against the record.

use std::{collections::BTreeMap, sync::Mutex, thread, time::Duration};

use serde_json::Value;

use crate::{
    checker::{Seen, of_state},
    plan::SHARDS,
    record::{Bytes, History, Record},
    rig::{Rig, shard_id},
    support::{
        cluster::ROOT,
        http::{Reply, Request},
        wait::{Deadline, wait_for},
        znodes::Znodes,
    },
    whole,
};

/// Readers that check at the same time.
const READERS: usize = 4;
/// nginx leaves a server that failed alone for some seconds, and finds out by a reader that it is back.
const NGINX_FORGIVES_WITHIN: Duration = Duration::from_secs(60);
/// For one answer at rest.
const SOON: Duration = Duration::from_secs(60);
/// Keys of a page of a listing.
const PAGE: usize = 5_000;

/// A line of a node's listing without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    version: String,
    length: u64,
    checksum: String,
    deleted: bool,
}

type Listing = BTreeMap<String, Line>;

/// Everything that is wrong, and how many blobs were looked at.
pub fn of_cluster(rig: &Rig, record: &Record) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    whole::wait_counted(rig);
    let histories = record.histories(&shards());
    for shard in 0..SHARDS {
        let nodes = &rig.members[shard];
        let listings: Vec<_> = nodes.iter().map(|node| listing(&rig.nodes[*node].addr)).collect();
        wrong.extend(differences(shard, nodes, &listings));
        let unknown = |key: &&String| !histories.contains_key(&(shard_id(shard), (*key).clone()));
        let nobodys = listings[0].keys().filter(unknown);
        wrong.extend(nobodys.map(|key| format!("shard {shard} holds {key}, which nobody uploaded")));
        wrong.extend(of_used_bytes(rig, shard, &listings[0]));
    }
    let histories: Vec<_> = histories.iter().collect();
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for part in histories.chunks(histories.len().div_ceil(READERS).max(1)) {
            let found = &found;
            scope.spawn(move || {
                for ((shard, key), history) in part {
                    let wrong = of_key(rig, shard, key, history);
                    found.lock().expect("no reader panics").extend(wrong);
                }
            });
        }
    });
    wrong.extend(found.into_inner().expect("no reader panics"));
    (wrong, histories.len())
}

/// The ids of all shards.
pub fn shards() -> Vec<String> {
    (0..SHARDS).map(shard_id).collect()
}

fn differences(shard: usize, nodes: &[usize], listings: &[Listing]) -> Vec<String> {
    let mut keys: Vec<&String> = listings.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &&String| listings.iter().any(|listing| listing.get(*key) != listings[0].get(*key));
    let differing = keys.into_iter().filter(differs);
    let say = |key: &String| {
        let held = nodes
            .iter()
            .zip(listings)
            .map(|(node, listing)| format!("\n  node {}: {:?}", node + 1, listing.get(key)));
        format!("shard {}: the servers differ about {key}{}", shard + 1, held.collect::<String>())
    };
    differing.map(say).collect()
}

/// Used bytes are what is stored, once they were recounted.
fn of_used_bytes(rig: &Rig, shard: usize, listing: &Listing) -> Option<String> {
    rig.operate("recount", &["--shard", &shard_id(shard)]);
    let size =
        Znodes::connect(&rig.zookeepers.addrs()).get(&format!("{ROOT}/shard-size-{}", shard_id(shard)));
    let size: Value = serde_json::from_str(&size.expect("it has a size")).expect("it is JSON");
    let stored: u64 = listing.values().map(|line| line.length).sum();
    let right = size["current"].as_u64() == Some(stored);
    (!right).then(|| format!("shard {} holds {stored} bytes, recounted: {size}", shard + 1))
}

/// One key: through nginx and on each server.
fn of_key(rig: &Rig, shard: &str, key: &str, history: &History<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let number: usize = shard.parse().expect("shards are numbered");
    for node in &rig.members[number - 1] {
        let seen = seen(&rig.nodes[*node].addr, &format!("/{key}"));
        if let Err(why) = of_state(history, &seen) {
            wrong.push(format!("{shard}:{key} on node {}: {why}", node + 1));
        }
    }
    if history.done.is_empty() {
        return wrong;
    }
    let deadline = Deadline::within(NGINX_FORGIVES_WITHIN);
    let target = format!("/{shard}:{key}");
    while let Err(why) = of_state(history, &seen(rig.front.addr(), &target)) {
        if deadline.is_over() || !wrong.is_empty() {
            wrong.push(format!("{shard}:{key} through nginx: {why}"));
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    wrong
}

fn seen(addr: &str, target: &str) -> Seen {
    let reply = wait_for(&format!("{addr} answers about {target}"), SOON, || {
        Request::get(addr, target).send_blocking().ok()
    });
    match reply.status {
        200 => {
            let version = reply.header("x-backpack-version").unwrap_or_default().to_owned();
            Seen::Blob { version, bytes: Bytes::of(&reply.body) }
        }
        404 => Seen::Nothing,
        410 => Seen::Deleted,
        status => Seen::Other(status),
    }
}

fn listing(addr: &str) -> Listing {
    let mut listing = Listing::new();
    loop {
        let after =
            listing.last_key_value().map_or_else(String::new, |(key, _)| format!("&after={}", encoded(key)));
        let page = Request::get(addr, &format!("/-/list?limit={PAGE}{after}"));
        let page: Reply = wait_for("a node lists", SOON, || page.send_blocking().ok());
        assert_eq!(page.status, 200, "{}", page.text());
        let lines = page.text();
        let before = listing.len();
        listing.extend(lines.lines().map(line));
        if listing.len() < before + PAGE {
            return listing;
        }
    }
}

fn line(text: &str) -> (String, Line) {
    let line: Value = serde_json::from_str(text).expect("a listing is JSON lines");
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let content = Line {
        version: text("version"),
        length: line["length"].as_u64().unwrap_or_default(),
        checksum: text("checksum"),
        deleted: line["deleted"] == true,
    };
    (text("key"), content)
}

/// For the value of a parameter.
fn encoded(key: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'/' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    key.bytes().map(encode).collect()
}

/// Blobs that nodes hold, for the summary.
pub fn blobs(rig: &Rig) -> u64 {
    let held = rig.nodes.iter().filter_map(|node| whole::stats(&node.addr)?["blobs"].as_u64());
    held.sum()
}
