//! `replace-server`: an empty machine takes over a server's id.

use std::sync::Arc;

use anyhow::bail;
use serde_json::json;

use super::{
    address::ServerUrl,
    context::{ClusterArgs, Context},
    moving::{FillArgs, Mover, is_empty, only_source},
    probe::{Answer, ask_all},
    report::Report,
};
use crate::{
    cluster::edit,
    model::{ClusterMap, Server, ServerId, Shard, Stage},
    queue::QueueArgs,
};

const EXAMPLE: &str = "\
Example:
  backpack-admin replace-server zk1:2181 /backpack 4 http://four-new:10001

The new machine is empty: a node is started there with --id 4 --replace-storage. It is filled from the other servers of its shards
and takes no reads before it has everything. It can be stopped at any time, and goes on where it was when it is run again. A machine
that has the old one's disks is not empty: give its address with add-server.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct ReplaceServer {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The server
    #[arg(value_name = "ID")]
    id: ServerId,
    /// Where the new machine listens: http://host:port
    #[arg(value_name = "URL")]
    url: ServerUrl,
    /// Go on though blobs are known that only the old machine has: they are lost
    #[arg(long, env = "BACKPACK_REPLACE_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,
    #[command(flatten)]
    fill: FillArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

impl ReplaceServer {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        let Some(old) = map.servers.get(&self.id) else {
            bail!("unknown server {}: status lists those of the map", self.id)
        };
        let new = self.url.server(&self.id);
        let mover = Mover::new(&context, &self.fill);
        if !joins(&map, &new) {
            // At the old address there may be an empty machine that is filled partly already.
            if **old != new {
                is_empty(&Arc::new(new.clone())).await?;
                self.take_leave_of(&context, &map, old, &mover).await?;
            }
            edit::replace_server(&*context.store, &new).await?;
        }
        // Coordinators and replicators know the new address.
        mover.grace().await;
        let (mut lines, mut shards) = (Vec::new(), Vec::new());
        let map = context.map().await?;
        for shard in map.shards_of(&self.id).filter(|shard| shard.is_joining(&self.id)) {
            let filled = mover.fill(&shard.id, &self.id).await?;
            let sentence = filled.sentence();
            lines.push(format!("Shard {}: server {} has everything; {sentence}", shard.id, self.id));
            shards.push(json!({"shard": shard.id, "filled": filled.json()}));
        }
        // All readers ask it before anything is left to it alone.
        mover.grace().await;
        for shard in map.shards_of(&self.id).filter(|shard| !shard.is_first(&self.id)) {
            edit::settle(&*context.store, &shard.id, &self.id).await?;
        }
        lines.push(format!("Server {} is {new} now.", self.id));
        Ok(Report::new(
            lines.join("\n"),
            json!({"server": self.id, "url": new.to_string(), "shards": shards}),
        ))
    }

    /// What only the old machine has is copied while it runs. Then nobody reads it any more: what is written from when the new one
    /// has the id would be missing there.
    async fn take_leave_of(
        &self,
        context: &Context,
        map: &ClusterMap,
        old: &Arc<Server>,
        mover: &Mover<'_>,
    ) -> anyhow::Result<()> {
        if matches!(ask_all([old.clone()]).await.get(&self.id), Some(Answer::Down(_))) {
            self.check_that_others_have_its_blobs(context, map, old).await?;
        } else {
            edit::withdraw(&*context.store, &self.id, Stage::Leaving).await?;
            mover.grace().await;
            let map = context.map().await?;
            for shard in map.shards_of(&self.id).filter(|shard| !shard.is_joining(&self.id)) {
                mover.spread(&map, shard, &self.id).await?;
            }
        }
        edit::withdraw(&*context.store, &self.id, Stage::Left).await?;
        mover.grace().await;
        Ok(())
    }

    async fn check_that_others_have_its_blobs(
        &self,
        context: &Context,
        map: &ClusterMap,
        old: &Server,
    ) -> anyhow::Result<()> {
        let alone = only_source(&*context.queue(map, &self.queue)?, map, &self.id).await?;
        if alone > 0 && !self.force {
            bail!(
                "of {alone} blobs no other server is known to have a copy, and server {} does not answer at {old}. Start it \
                 again if you can, and wait until status says that no copies are missing. With --force they are given up",
                self.id
            );
        }
        Ok(())
    }
}

/// Whether the new machine has the id already, and is on its way into a shard.
fn joins(map: &ClusterMap, new: &Server) -> bool {
    let comes =
        |shard: &Arc<Shard>| matches!(shard.stages.get(&new.id), Some(Stage::Joining | Stage::Joined));
    map.servers.get(&new.id).is_some_and(|known| **known == *new) && map.shards_of(&new.id).any(comes)
}
