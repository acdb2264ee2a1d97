//! `move-shard`: takes a shard from one server to another.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    misuse::Misuse,
    moving::{FillArgs, Mover},
    report::Report,
};
use crate::model::{ServerId, ShardId};

const EXAMPLE: &str = "\
Example:
  backpack-admin move-shard zk1:2181 /backpack 1 --from 4 --to 7

The new server is filled while uploads and reads go on, and is read once all was compared. Then the old one leaves the shard; it keeps
its blobs. It can be stopped at any time, and goes on where it was when it is run again. nginx has to follow the map (nginx-config
--watch).";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct MoveShard {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the shard
    #[arg(value_name = "SHARD")]
    shard: ShardId,
    /// The server that leaves it
    #[arg(long, env = "BACKPACK_MOVE_FROM", value_name = "ID")]
    from: ServerId,
    /// The server that takes its place: empty, in the map, and of no shard
    #[arg(long, env = "BACKPACK_MOVE_TO", value_name = "ID")]
    to: ServerId,
    #[command(flatten)]
    fill: FillArgs,
}

impl MoveShard {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        if self.from == self.to {
            return Err(Misuse("--from and --to are the same server".to_owned()).into());
        }
        let context = Context::connect(&self.cluster).await?;
        let mover = Mover::new(&context, &self.fill);
        let moved = mover.move_shard(&self.shard, &self.from, Some(&self.to)).await?;
        let sentence = moved.sentence(&self.shard, &self.from, &*context.map().await?);
        let json = json!({
            "shard": self.shard, "from": self.from, "to": self.to,
            "changed": !moved.was_done, "filled": moved.filled.json(),
        });
        Ok(Report::new(sentence, json))
    }
}
