//! `drain-server`: moves all that a server holds to others and takes it out of the map.

use std::collections::BTreeSet;

use anyhow::bail;
use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    moving::{FillArgs, Mover, spare, target},
    report::Report,
};
use crate::{
    cluster::edit,
    model::{ClusterMap, ServerId, Shard},
};

const EXAMPLE: &str = "\
Example:
  backpack-admin drain-server zk1:2181 /backpack 4

Each of its shards is moved as by move-shard, to servers that belong to no shard. Then it is not in the map any more, and can be
switched off. It can be stopped at any time, and goes on where it was when it is run again.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct DrainServer {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The server
    #[arg(value_name = "ID")]
    id: ServerId,
    /// Where its shards go, one server for each; else to those with the most room
    #[arg(long, env = "BACKPACK_DRAIN_TO", value_name = "ID", value_delimiter = ',')]
    to: Vec<ServerId>,
    #[command(flatten)]
    fill: FillArgs,
}

impl DrainServer {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        if !map.servers.contains_key(&self.id) {
            bail!("unknown server {}: status lists those of the map", self.id);
        }
        let plan = self.plan(&map).await?;
        let mover = Mover::new(&context, &self.fill);
        let (mut lines, mut shards) = (Vec::new(), Vec::new());
        for (shard, to) in plan {
            let moved = mover.move_shard(&shard.id, &self.id, to.as_ref()).await?;
            lines.push(moved.sentence(&shard.id, &self.id, &*context.map().await?));
            shards.push(json!({"shard": shard.id, "filled": moved.filled.json()}));
        }
        edit::remove_server(&*context.store, &self.id).await?;
        lines.push(format!("Server {} is not in the map any more and can be switched off.", self.id));
        Ok(Report::new(lines.join("\n"), json!({"server": self.id, "shards": shards})))
    }

    /// Where each of its shards goes, before anything is moved.
    async fn plan<'a>(&'a self, map: &'a ClusterMap) -> anyhow::Result<Vec<(&'a Shard, Option<ServerId>)>> {
        let mut taken: BTreeSet<ServerId> = self.to.iter().cloned().collect();
        let mut named = self.to.iter();
        let mut plan = Vec::new();
        for shard in map.shards_of(&self.id) {
            // One that is under way goes on.
            let to = if !shard.stages.is_empty() {
                None
            } else if let Some(named) = named.next() {
                target(map, shard, named).await?;
                Some(named.clone())
            } else {
                Some(spare(map, shard, &taken).await?)
            };
            taken.extend(to.clone());
            plan.push((&**shard, to));
        }
        Ok(plan)
    }
}
