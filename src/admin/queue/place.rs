//! Where the queue is: the arguments that all these commands share.

use std::sync::Arc;

use crate::{
    admin::context::{ClusterArgs, Context},
    model::{ClusterMap, ServerId},
    queue::{Queue, QueueArgs},
};

/// The cluster whose map names the queue, and how to reach Redis.
#[derive(Debug, clap::Args)]
pub struct Place {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

/// A queue that can be asked.
pub struct Reached {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The map that names it.
    pub map: Arc<ClusterMap>,
}

impl Place {
    /// Reads the map, and connects to the queue it names.
    pub async fn reach(&self) -> anyhow::Result<Reached> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        let queue = context.queue(&map, &self.queue)?;
        Ok(Reached { queue, map })
    }

    /// The command line of another queue command on the same cluster, for hints.
    pub fn command(&self, name: &str) -> String {
        self.cluster.command(&format!("queue {name}"), "")
    }
}

/// What to say of a target that is not in the map: it may have been once, so it is no error.
pub fn unknown_hint(map: &ClusterMap, target: &ServerId) -> Option<String> {
    let known = map.servers.contains_key(target);
    (!known).then(|| format!("There is no server {target} in the map: is the name right?"))
}
