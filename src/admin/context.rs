//! What a command stands on: the map store, reached and initialised, and through it the map and the queue.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};

use super::misuse::Misuse;
use crate::{
    cluster::{self, MapStore, OPERATION_TIMEOUT, StoreArgs, StoreError, View, format::SERVERS},
    daemon::Shutdown,
    embedded,
    model::ClusterMap,
    queue::{self, Queue, QueueArgs, QueueOptions},
};

/// How often the store is asked before it counts as away: with the store's own timeout for each, a person waits ten seconds.
const TRIES: u32 = 2;

/// How long the first reading of the map may take, once the store was reached.
const LOAD_WITHIN: Duration = OPERATION_TIMEOUT.saturating_mul(2);

/// Where a cluster's map is; the first two arguments of nearly every command.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// ZooKeeper's servers as host:port,host:port; or embedded:FOLDER, the data folder of a one-machine system
    #[arg(value_name = "ZK_SERVERS")]
    pub zk_servers: String,
    /// Path of the cluster in ZooKeeper, for example /backpack
    #[arg(value_name = "/ZK/ROOT")]
    pub root: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl ClusterArgs {
    /// The command line that runs another command on the same cluster, for hints.
    pub fn command(&self, name: &str, rest: &str) -> String {
        format!("backpack-admin {name} {} {} {rest}", self.zk_servers, self.root).trim_end().to_owned()
    }
}

/// A cluster whose map store answers.
pub struct Context {
    /// The map store.
    pub store: Arc<dyn MapStore>,
    zk_servers: String,
}

impl Context {
    /// Connects to a cluster that was initialised.
    pub async fn connect(args: &ClusterArgs) -> anyhow::Result<Self> {
        if let Some(dir) = embedded::data_dir(&args.zk_servers)
            && !dir.as_os_str().is_empty()
            && !dir.exists()
        {
            bail!("there is no data folder {}: is the path right?", dir.display());
        }
        let (context, initialised) = Self::reach(args).await?;
        if !initialised {
            bail!("there is no cluster at {} in {}: run coordinator-init first", args.root, args.zk_servers);
        }
        Ok(context)
    }

    /// Connects to a store in which nothing need be initialised.
    pub async fn connect_to_init(args: &ClusterArgs) -> anyhow::Result<Self> {
        Ok(Self::reach(args).await?.0)
    }

    /// Connects, and says whether there is a map.
    async fn reach(args: &ClusterArgs) -> anyhow::Result<(Self, bool)> {
        let store = match cluster::connect(&args.zk_servers, &args.root, &args.store.options()?) {
            Ok(store) => store,
            Err(StoreError::Invalid(sentence)) => return Err(Misuse(sentence).into()),
            Err(error) => return Err(error.into()),
        };
        let mut tries = 1;
        let servers = loop {
            match store.get(SERVERS).await {
                Err(StoreError::Unavailable(reason)) if tries == TRIES => {
                    bail!("{}", away(&args.zk_servers, &reason))
                }
                Err(StoreError::Unavailable(_)) => tries += 1,
                answer => break answer?,
            }
        };
        Ok((Self { store, zk_servers: args.zk_servers.clone() }, servers.is_some()))
    }

    /// The map as it is now.
    pub async fn map(&self) -> anyhow::Result<Arc<ClusterMap>> {
        let shutdown = Shutdown::default();
        let view = self.view(&shutdown).await;
        shutdown.begin();
        Ok(view?.map())
    }

    /// Follows the map until the shutdown begins. It was read when this returns.
    pub async fn view(&self, shutdown: &Shutdown) -> anyhow::Result<View> {
        let view = View::start(self.store.clone(), shutdown.clone());
        let loaded = tokio::time::timeout(LOAD_WITHIN, view.loaded()).await;
        loaded.with_context(|| away(&self.zk_servers, "the map could not be read in time"))?;
        Ok(view)
    }

    /// The queue that the map names.
    pub fn queue(&self, map: &ClusterMap, args: &QueueArgs) -> anyhow::Result<Arc<dyn Queue>> {
        let folder = args.embedded_dir(&self.zk_servers);
        let info = map.queue.as_ref().context("the map names no queue: run set-queue")?;
        // A command ends right after what it did.
        let options = QueueOptions { wait_for_backups: true, ..args.options()? };
        Ok(queue::connect(info, &options, folder.as_deref())?)
    }
}

/// What to say, and what to check, when the store is not reached.
fn away(zk_servers: &str, reason: &str) -> String {
    if embedded::data_dir(zk_servers).is_some() {
        return format!("the map in {zk_servers} cannot be used: {reason}");
    }
    format!(
        "ZooKeeper does not answer at {zk_servers}: {reason}\nCheck that it runs, that host and port are right and \
         reachable from here, and that --zk-tls-ca is given if it speaks TLS, and only then."
    )
}
