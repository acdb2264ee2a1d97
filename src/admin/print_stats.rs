//! `print-stats`: how full the shards are.

use serde_json::{Value, json};

use super::{
    context::{ClusterArgs, Context},
    order,
    percent::percent,
    report::Report,
    server_list::join,
};
use crate::model::{ClusterMap, Shard, map::ShardSize, size};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin print-stats zk1:2181 /backpack")]
pub struct PrintStats {
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl PrintStats {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let map = Context::connect(&self.cluster).await?.map().await?;
        Ok(report(&map))
    }
}

/// The text as the original prints it, and the figures for programs.
pub fn report(map: &ClusterMap) -> Report {
    let shards = order::shards(map);
    let total = overall(map);
    let mut lines = vec!["Shards:".to_owned()];
    lines.extend(shards.iter().map(|shard| line(shard)));
    lines.push(format!("Overall: {}", fullness(total)));
    let json = json!({
        "shards": shards.iter().map(|shard| shard_json(shard)).collect::<Vec<_>>(),
        "overall": size_json(total),
    });
    Report::new(lines.join("\n"), json)
}

/// What all shards hold and may hold; a shard of unknown size counts for nothing.
pub fn overall(map: &ClusterMap) -> ShardSize {
    let sizes = map.shards.values().filter_map(|shard| shard.size);
    sizes.fold(ShardSize::default(), |sum, size| ShardSize {
        capacity: sum.capacity.saturating_add(size.capacity),
        used: sum.used.saturating_add(size.used),
    })
}

fn line(shard: &Shard) -> String {
    let servers = join(&shard.servers, ", ");
    let size = shard.size.map_or_else(|| "size unknown".to_owned(), fullness);
    format!("{} [{servers}]: {size} {}", shard.id, if shard.read_only { "r" } else { "rw" })
}

/// `0b / 100gb (0%)`.
pub fn fullness(size: ShardSize) -> String {
    format!("{} / {} ({}%)", size::format(size.used), size::format(size.capacity), percent(size))
}

fn shard_json(shard: &Shard) -> Value {
    json!({
        "id": shard.id,
        "servers": shard.servers,
        "pool": shard.pool,
        "read_only": shard.read_only,
        "writable": shard.is_writable(),
        "size": shard.size.map(size_json),
    })
}

fn size_json(size: ShardSize) -> Value {
    json!({"used": size.used, "capacity": size.capacity, "percent": percent(size)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::map;

    #[test]
    fn it_is_what_the_original_prints() {
        assert_eq!(
            report(&map()).text,
            "Shards:\n1 [1, 4]: 1.5mb / 100gb (0%) rw\n2 [2, 9]: size unknown r\n10 [3]: 50gb / 100gb (50%) rw\n\
             Overall: 50gb / 200gb (25%)"
        );
        assert_eq!(report(&ClusterMap::default()).text, "Shards:\nOverall: 0b / 0b (100%)");
    }

    #[test]
    fn programs_get_bytes() {
        let json = report(&map()).json;
        assert_eq!(json["shards"][0]["size"]["capacity"], 100u64 << 30);
        assert_eq!(json["shards"][1]["size"], Value::Null);
        assert_eq!(json["shards"][2]["writable"], true);
    }
}
