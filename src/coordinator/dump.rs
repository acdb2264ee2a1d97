//! `/-/map`: the map this coordinator works with, as JSON.

use serde_json::{Value, json};

use crate::model::{ClusterMap, Shard};

pub(super) fn map(map: &ClusterMap, used: impl Fn(&Shard) -> u64) -> Value {
    let servers: serde_json::Map<_, _> = map
        .servers
        .values()
        .map(|server| {
            let live = map.live.contains(&server.id);
            (server.id.to_string(), json!({ "url": server.to_string(), "announced": live }))
        })
        .collect();
    let shards: serde_json::Map<_, _> = map
        .shards
        .values()
        .map(|shard| {
            let value = json!({
                "servers": shard.servers,
                "stages": shard.stages,
                "pool": shard.pool,
                "read_only": shard.read_only,
                "writable": shard.is_writable(),
                "capacity": shard.size.map(|size| size.capacity),
                "used": used(shard),
            });
            (shard.id.to_string(), value)
        })
        .collect();
    let queue = map.queue.as_ref().map(|queue| {
        let servers: Vec<String> = queue.servers.iter().map(ToString::to_string).collect();
        json!({ "key": queue.key, "servers": servers })
    });
    json!({ "servers": servers, "shards": shards, "pools": map.pools, "queue": queue })
}
