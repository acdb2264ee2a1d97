//! `disable-shard`: ends uploads into a shard; its blobs stay readable.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    report::Report,
};
use crate::{
    cluster::edit::{self, Outcome},
    model::ShardId,
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin disable-shard zk1:2181 /backpack 1")]
pub struct DisableShard {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the shard
    #[arg(value_name = "ID")]
    id: ShardId,
}

impl DisableShard {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let outcome = edit::set_read_only(&*context.store, &self.id, true).await?;
        let map = context.map().await?;
        let any_writable = map.shards.values().any(|shard| shard.is_writable());
        Ok(report(&self.id, outcome, any_writable))
    }
}

fn report(id: &ShardId, outcome: Outcome, any_writable: bool) -> Report {
    let mut more = Vec::new();
    if outcome == Outcome::Unchanged {
        more.push("It was so already: nothing changed.".to_owned());
    }
    if !any_writable {
        more.push("No shard takes uploads now: they are refused until you enable one.".to_owned());
    }
    let json = json!({"shard": id, "read_only": true, "changed": outcome == Outcome::Changed});
    Report::edit(format!("Shard {id} is read-only now"), more, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_original_sentence_and_what_follows() {
        let id: ShardId = "2".parse().unwrap();
        assert_eq!(report(&id, Outcome::Changed, true).text, "Shard 2 is read-only now");
        assert!(report(&id, Outcome::Unchanged, true).text.contains("nothing changed"));
        assert!(report(&id, Outcome::Changed, false).text.contains("No shard takes uploads"));
    }
}
