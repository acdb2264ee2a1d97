//! `recount`: sets what each shard is said to hold to what its servers really hold.
//!
//! Bytes that a coordinator adds while this runs may be missed or counted twice; a second run sets that right.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    context::{ClusterArgs, Context},
    order,
    probe::{Answer, ask_all},
    report::Report,
};
use crate::{
    cluster::edit::{self, EditError},
    model::{ClusterMap, ServerId, Shard, ShardId, size},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin recount zk1:2181 /backpack --shard 1 --dry-run")]
pub struct Recount {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Only this shard; give it again for more
    #[arg(long, env = "BACKPACK_RECOUNT_SHARD", value_name = "ID", value_delimiter = ',')]
    shard: Vec<ShardId>,
    /// Say what would be set, and set nothing
    #[arg(long, env = "BACKPACK_RECOUNT_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
}

impl Recount {
    /// Does it. Fails where not one shard could be counted.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        let shards = order::chosen(&map, &self.shard)?;
        let servers = map
            .servers
            .values()
            .filter(|server| shards.iter().any(|shard| shard.servers.contains(&server.id)));
        let answers = ask_all(servers.cloned()).await;
        let mut counts = Vec::new();
        for shard in shards {
            let mut count = count(&map, shard, &answers);
            if let (Some(used), false) = (count.used, self.dry_run)
                && let Err(error) = edit::set_used(&*context.store, &shard.id, used).await
            {
                // Others can be counted all the same.
                let EditError::NoSize { .. } = error else { return Err(error.into()) };
                count = Count { used: None, notes: vec![error.to_string()], ..count };
            }
            counts.push(count);
        }
        let report = self.report(&counts);
        if !counts.is_empty() && counts.iter().all(|count| count.used.is_none()) {
            bail!("no shard could be counted\n{}", report.text);
        }
        Ok(report)
    }

    fn report(&self, counts: &[Count]) -> Report {
        let lines: Vec<String> = counts.iter().map(|count| count.line(self.dry_run)).collect();
        let json = json!({
            "dry_run": self.dry_run,
            "shards": counts.iter().map(Count::to_json).collect::<Vec<_>>(),
        });
        let text = if lines.is_empty() { "There is no shard to count.".to_owned() } else { lines.join("\n") };
        Report::new(text, json)
    }
}

/// What was found out about one shard.
struct Count {
    shard: ShardId,
    /// As the map has it; `None` if unknown.
    before: Option<u64>,
    /// As its servers have it: the most that one of them holds. `None` if none can say.
    used: Option<u64>,
    /// What each server holds, or why it cannot be said.
    notes: Vec<String>,
}

impl Count {
    fn line(&self, dry_run: bool) -> String {
        let notes = self.notes.join("; ");
        let Some(used) = self.used else { return format!("Shard {}: left alone ({notes})", self.shard) };
        let (now, verb) = (size::format(used), if dry_run { "would be set to" } else { "set to" });
        match self.before {
            Some(before) if before == used => format!("Shard {}: {now}, as before ({notes})", self.shard),
            Some(before) => {
                format!("Shard {}: {verb} {now}, was {} ({notes})", self.shard, size::format(before))
            }
            None => format!("Shard {}: {verb} {now}, was unknown ({notes})", self.shard),
        }
    }

    fn to_json(&self) -> Value {
        let changed = self.used.is_some() && self.used != self.before;
        json!({
            "shard": self.shard, "before": self.before, "used": self.used, "changed": changed, "notes": self.notes,
        })
    }
}

fn count(map: &ClusterMap, shard: &Shard, answers: &BTreeMap<ServerId, Answer>) -> Count {
    let mut used = None;
    let mut notes = Vec::new();
    for id in &shard.servers {
        match holds(map, id, answers.get(id)) {
            Ok(bytes) => {
                used = used.max(Some(bytes));
                notes.push(format!("server {id} holds {}", size::format(bytes)));
            }
            Err(why) => notes.push(format!("server {id} {why}")),
        }
    }
    Count { shard: shard.id.clone(), before: shard.size.map(|size| size.used), used, notes }
}

/// How much a server holds of its only shard, or why nobody can say.
fn holds(map: &ClusterMap, id: &ServerId, answer: Option<&Answer>) -> Result<u64, String> {
    let shards = map.shards_of(id).count();
    match answer {
        None => Err("is not in the map".to_owned()),
        Some(_) if shards > 1 => Err(format!("holds {shards} shards and cannot tell them apart")),
        Some(Answer::Node(stats)) => Ok(stats.blob_bytes),
        Some(Answer::Other) => Err("does not say how much it holds".to_owned()),
        Some(Answer::Down(why)) => Err(format!("does not answer: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{probe::NodeStats, tests::map};

    fn node(blob_bytes: u64) -> Answer {
        Answer::Node(NodeStats { blob_bytes, ..NodeStats::default() })
    }

    fn line(shard: &str, answers: &[(&str, Answer)]) -> String {
        let map = map();
        let shard = &map.shards[&shard.parse::<ShardId>().unwrap()];
        let answers = answers.iter().map(|(id, answer)| (id.parse().unwrap(), answer.clone())).collect();
        count(&map, shard, &answers).line(false)
    }

    #[test]
    fn the_server_that_holds_most_counts() {
        assert_eq!(
            line("1", &[("1", node(1024)), ("4", node(3 << 20))]),
            "Shard 1: set to 3mb, was 1.5mb (server 1 holds 1kb; server 4 holds 3mb)"
        );
        assert_eq!(
            line("1", &[("1", node(3 << 19)), ("4", Answer::Down("no progress".into()))]),
            "Shard 1: 1.5mb, as before (server 1 holds 1.5mb; server 4 does not answer: no progress)"
        );
    }

    #[test]
    fn a_shard_whose_servers_cannot_say_is_left_alone() {
        assert_eq!(
            line("2", &[("2", Answer::Other)]),
            "Shard 2: left alone (server 2 does not say how much it holds; server 9 is not in the map)"
        );
        assert!(line("2", &[("2", node(7))]).starts_with("Shard 2: set to 7b, was unknown"));
    }

    #[test]
    fn a_server_of_two_shards_cannot_say() {
        let mut map = map();
        let id: ServerId = "1".parse().unwrap();
        let other = map.shards.values_mut().last().unwrap();
        std::sync::Arc::make_mut(other).servers.push(id.clone());
        assert!(holds(&map, &id, Some(&node(7))).unwrap_err().contains("2 shards"));
    }
}
