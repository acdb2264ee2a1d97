//! `enable-shard`: lets uploads into a shard.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    report::Report,
};
use crate::{
    cluster::edit::{self, Outcome},
    model::{Shard, ShardId, size},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin enable-shard zk1:2181 /backpack 1")]
pub struct EnableShard {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the shard
    #[arg(value_name = "ID")]
    id: ShardId,
}

impl EnableShard {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let outcome = edit::set_read_only(&*context.store, &self.id, false).await?;
        let map = context.map().await?;
        Ok(report(&self.id, map.shards.get(&self.id).map(AsRef::as_ref), outcome))
    }
}

fn report(id: &ShardId, shard: Option<&Shard>, outcome: Outcome) -> Report {
    let mut more = Vec::new();
    if outcome == Outcome::Unchanged {
        more.push("It was enabled already: nothing changed.".to_owned());
    }
    match shard.map(|shard| shard.size) {
        Some(None) => more.push(format!(
            "It takes no uploads all the same: nobody knows how full it is. Run add-shard for {id} again, then recount."
        )),
        Some(Some(full)) if full.free() == 0 => more.push(format!(
            "It takes no uploads all the same: it is full, with {} of {}.",
            size::format(full.used),
            size::format(full.capacity)
        )),
        _ => {}
    }
    let json = json!({"shard": id, "read_only": false, "changed": outcome == Outcome::Changed});
    Report::edit(format!("Enabled shard {id} for writing"), more, json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PoolName, map::ShardSize};

    #[test]
    fn says_the_original_sentence_and_what_stands_in_the_way() {
        let id: ShardId = "1".parse().unwrap();
        let said = |size, outcome| {
            let shard = Shard {
                id: id.clone(),
                servers: vec![],
                stages: Default::default(),
                read_only: false,
                pool: PoolName::default(),
                size,
            };
            report(&id, Some(&shard), outcome).text
        };
        let room = Some(ShardSize { capacity: 2, used: 1 });
        assert_eq!(said(room, Outcome::Changed), "Enabled shard 1 for writing");
        assert!(said(room, Outcome::Unchanged).contains("already"));
        assert!(said(None, Outcome::Changed).contains("how full"));
        assert!(
            said(Some(ShardSize { capacity: 2, used: 2 }), Outcome::Changed)
                .contains("it is full, with 2b of 2b")
        );
    }
}
