//! From the command line of `backpack-node` to a node that serves.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use super::{Config, Deps, Live, serve};
use crate::{
    cluster::{self, StoreArgs},
    daemon::{Shutdown, shutdown::DEFAULT_DRAIN},
    http::listen,
    model::ServerId,
    storage::{Options, Storage, open_disks},
};

/// What `backpack-node` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the blobs are kept: an empty directory, or one of a node
    #[arg(env = "BACKPACK_NODE_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Another directory for blobs, on a disk of its own; may be given again. A lost disk then loses only its blobs. Give
    /// all directories at every start
    #[arg(long = "disk", env = "BACKPACK_NODE_DISKS", value_delimiter = ',', value_name = "DIR")]
    pub disks: Vec<PathBuf>,

    /// Go on for good without the disks that are missing. Their blobs are gone from this node; the shards' other servers
    /// have them
    #[arg(long)]
    pub forget_lost_disks: bool,

    /// Serve under an id that another storage had, which is gone for good
    #[arg(long, requires = "id", help_heading = "Announcement")]
    pub replace_storage: bool,

    /// Address or host name to listen on, and no other; 0.0.0.0 for all of IPv4
    #[arg(env = "BACKPACK_NODE_LISTEN_HOST")]
    pub listen_host: String,

    /// TCP port to listen on; 0 for any that is free, which the log then says
    #[arg(env = "BACKPACK_NODE_LISTEN_PORT")]
    pub listen_port: u16,

    /// Seconds that requests in flight may take to finish once the node was told to stop
    #[arg(
        long,
        env = "BACKPACK_NODE_DRAIN",
        default_value_t = DEFAULT_DRAIN.as_secs(),
        value_name = "SECONDS"
    )]
    pub drain: u64,

    /// Announce the node under this id while it serves: its id in the map of servers
    #[arg(long, env = "BACKPACK_NODE_ID", requires_all = ["zk", "root"], value_name = "SERVER_ID", help_heading = "Announcement")]
    pub id: Option<ServerId>,

    /// ZooKeeper's servers, host:port,host:port
    #[arg(
        long,
        env = "BACKPACK_NODE_ZK",
        requires = "id",
        value_name = "SERVERS",
        help_heading = "Announcement"
    )]
    pub zk: Option<String>,

    /// The cluster's root in ZooKeeper: /backpack
    #[arg(
        long,
        env = "BACKPACK_NODE_ROOT",
        requires = "id",
        value_name = "PATH",
        help_heading = "Announcement"
    )]
    pub root: Option<String>,

    /// Settings.
    #[command(flatten)]
    pub config: Config,

    /// How to reach ZooKeeper.
    #[command(flatten)]
    pub store: StoreArgs,
}

impl Args {
    /// How long requests in flight may take to finish.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain)
    }

    /// Where the node announces itself, if it was told to. ZooKeeper need not be there yet.
    fn live(&self) -> anyhow::Result<Option<Live>> {
        let (Some(id), Some(zk), Some(root)) = (&self.id, &self.zk, &self.root) else { return Ok(None) };
        let store = cluster::connect(zk, root, &self.store.options()?).context("--zk, --root")?;
        Ok(Some(Live { id: id.clone(), store }))
    }
}

/// Opens the storage, listens, and serves until the shutdown begins.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let (limits, live) = (args.config.limits(), args.live()?);
    // Opened before the port: whoever is refused goes to the next server, whoever is let in and waits does not.
    let dirs = [vec![args.data_dir], args.disks].concat();
    let options = Options { tombstones_wait: live.is_some(), ..args.config.storage() };
    let storage = open(dirs, options, args.forget_lost_disks).await?;
    if let Some(live) = &live {
        live.settle(&*storage, args.replace_storage, &shutdown).await?;
    }
    let (host, port) = (args.listen_host.trim_matches(['[', ']']), args.listen_port);
    let listener = listen((host, port)).await.with_context(|| format!("listen on {host}, port {port}"))?;
    serve(listener, Deps { storage, limits, live }, shutdown).await.context("close the storage")
}

async fn open(
    dirs: Vec<PathBuf>,
    options: Options,
    forget_lost_disks: bool,
) -> anyhow::Result<Arc<dyn Storage>> {
    let started = Instant::now();
    let opening = tokio::task::spawn_blocking(move || open_disks(&dirs, &options, forget_lost_disks));
    let storage = opening.await.map_err(|_| anyhow!("the start of the storage panicked"))??;
    let usage = storage.usage();
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(blobs = usage.blobs, blob_bytes = usage.blob_bytes, seconds, "storage is open");
    Ok(storage)
}
