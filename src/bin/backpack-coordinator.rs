//! `backpack-coordinator`: takes uploads for a cluster. Wiring only; the role is `backpack::coordinator`.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use backpack::{
    client::Servers,
    cluster::{self, StoreArgs, view::View},
    coordinator::{self, Config, Deps, Statsd},
    daemon::{
        Shutdown, VersionClock,
        program::{self, Processors},
        shutdown::DEFAULT_DRAIN,
    },
    http::listen,
    queue::{FollowQueue, MeteredQueue, QueueArgs},
    telemetry::log::LogArgs,
};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes uploads: streams each to a server of a writable shard and queues the copies still to be made
#[derive(Parser)]
#[command(version, after_help = "Example:\n  backpack-coordinator 127.0.0.1:2181 /backpack 127.0.0.1 12001")]
struct Args {
    /// ZooKeeper servers, host:port,host:port, or embedded:DIR
    zk_servers: String,
    /// Root of this cluster in ZooKeeper, for instance /backpack
    zk_root: String,
    /// Address to listen on
    listen_host: String,
    /// Port to listen on
    listen_port: u16,
    /// statsd server to send metrics to: host, or host:port (port 8125 if none is given)
    statsd: Option<String>,

    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run(&args.log.clone(), Processors::default(), run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signal(DEFAULT_DRAIN)?;
    let store = cluster::connect(&args.zk_servers, &args.zk_root, &args.store.options()?)?;
    let view = View::start(store.clone(), shutdown.child());
    let embedded = args.queue.embedded_dir(&args.zk_servers);
    let queue = FollowQueue::new(view.changes(), args.queue.options()?, embedded);
    let queue = Arc::new(MeteredQueue::new(Arc::new(queue)));
    let statsd = args.statsd.as_deref().map(Statsd::new).transpose()?;
    let address = format!("{}:{}", args.listen_host, args.listen_port);
    let listener = listen(&address).await.with_context(|| format!("listen on {address}"))?;
    tracing::info!(address, zk = args.zk_servers, root = args.zk_root, "coordinator listens");
    let servers = Arc::new(Servers::default());
    let deps = Deps { store, view, queue, servers, statsd, clock: VersionClock::default() };
    coordinator::serve(listener, args.config, deps, shutdown).await;
    Ok(())
}
