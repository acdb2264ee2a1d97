//! `backpack-node`: keeps blobs of a shard in one directory. Wiring only; the role is `backpack::node`.

use std::process::ExitCode;

use backpack::{
    daemon::{
        Shutdown,
        program::{self, Processors},
    },
    node,
    telemetry::log::LogArgs,
};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  backpack-node /var/lib/backpack 127.0.0.1 10001
  backpack-node /disk1/backpack 127.0.0.1 10001 --disk /disk2/backpack --disk /disk3/backpack
  backpack-node /var/lib/backpack 10.0.0.7 10001 --id 1 --zk zk1:2181,zk2:2181 --root /backpack
  curl -T photo.jpg http://127.0.0.1:10001/photos/1.jpg
  curl -O http://127.0.0.1:10001/photos/1.jpg";

/// Keeps blobs in one directory and gives them out over HTTP.
#[derive(Parser)]
#[command(name = "backpack-node", version, after_help = EXAMPLES)]
struct Program {
    #[command(flatten)]
    node: node::Args,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let args = Program::parse();
    let threads = Some(args.node.config.threads());
    program::run(&args.log, Processors { threads, lets_others_finish: true }, run(args.node))
}

async fn run(args: node::Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signal(args.drain())?;
    node::run(args, shutdown).await
}
