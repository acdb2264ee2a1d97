//! `backpack-replicator`: makes the copies still missing. Wiring only; the role is `backpack::replicator`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use backpack::{
    client::Servers,
    cluster::{self, StoreArgs, View},
    daemon::{
        Shutdown,
        program::{self, Processors},
        shutdown::DEFAULT_DRAIN,
    },
    http::listen,
    queue::{FollowQueue, MeteredQueue, QueueArgs, QueueOptions},
    replicator::{self, Config, Deps, Settings},
    scrub::schedule,
    telemetry::{health::Readiness, log::LogArgs},
};
use clap::{CommandFactory, Parser, error::ErrorKind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  backpack-replicator zk1:2181,zk2:2181 /backpack
  backpack-replicator zk1:2181 /backpack 64 --bytes-per-second 200mb --listen 127.0.0.1:13001";

/// Makes the copies still missing: takes tasks from the queue that the map names and carries them out
#[derive(Parser)]
#[command(name = "backpack-replicator", version, after_help = EXAMPLES)]
struct Args {
    /// ZooKeeper servers, host:port,host:port, or embedded:DIR
    #[arg(env = "BACKPACK_REPLICATOR_ZK")]
    zk_servers: String,
    /// Root of this cluster in ZooKeeper, for instance /backpack
    #[arg(env = "BACKPACK_REPLICATOR_ROOT")]
    zk_root: String,
    /// Tasks worked on at once: --concurrency, as the original takes it
    #[arg(value_name = "CONCURRENCY")]
    tasks: Option<usize>,

    /// Answer /-/live, /-/ready and /-/metrics there [default: nowhere]
    #[arg(long, env = "BACKPACK_REPLICATOR_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Seconds that copies in flight may take to finish once the replicator was told to stop
    #[arg(
        long,
        env = "BACKPACK_REPLICATOR_DRAIN",
        default_value_t = DEFAULT_DRAIN.as_secs(),
        value_name = "SECONDS"
    )]
    drain: u64,

    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    scrub: schedule::Config,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    args.config.concurrency = args.tasks.unwrap_or(args.config.concurrency);
    let settings = args.config.check().unwrap_or_else(|complaints| {
        Args::command().error(ErrorKind::ValueValidation, complaints.join("\n")).exit()
    });
    program::run(&args.log.clone(), Processors::default(), run(args, settings))
}

async fn run(args: Args, settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signal(Duration::from_secs(args.drain))?;
    let probes = match &args.listen {
        Some(address) => Some(listen(address).await.with_context(|| format!("listen on {address}"))?),
        None => None,
    };
    let store = cluster::connect(&args.zk_servers, &args.zk_root, &args.store.options()?)?;
    let view = View::start(store.clone(), shutdown.child());
    let readiness = Readiness::default();
    tokio::spawn(replicator::watch_map(view.clone(), readiness.condition("map"), shutdown.clone()));
    let options = QueueOptions { lease: settings.lease(), ..args.queue.options()? };
    let queue = FollowQueue::new(view.changes(), options, args.queue.embedded_dir(&args.zk_servers));
    let queue = Arc::new(MeteredQueue::new(Arc::new(queue)));
    let servers = Arc::new(Servers::default());
    let deps =
        Deps { map: view.changes(), queue: queue.clone(), servers: servers.clone(), readiness, probes };
    tracing::info!(
        zk = args.zk_servers,
        root = args.zk_root,
        concurrency = args.config.concurrency,
        "replicator starts"
    );
    let comparing = schedule::Deps { store, map: view.changes(), queue, servers };
    // A task of its own, beside the connections: what runs on the main thread is woken through the kernel each time.
    let replicator = tokio::spawn(replicator::serve(settings, deps, shutdown.clone()));
    schedule::run(args.scrub, comparing, shutdown).await;
    replicator.await.context("the replicator ended early")
}
