//! The storage daemon: blobs of a shard over HTTP, out of one directory.

use std::process::ExitCode;

use backpack::{
    daemon::{self, Shutdown},
    node,
    telemetry::log::{self, LogArgs},
};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  backpack-node /var/lib/backpack 127.0.0.1 10001
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

#[tokio::main]
async fn main() -> ExitCode {
    let program = Program::parse();
    match run(program).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backpack-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(program: Program) -> anyhow::Result<()> {
    log::init(&program.log).map_err(anyhow::Error::msg)?;
    daemon::install_tls_provider();
    let shutdown = Shutdown::on_signal(program.node.drain())?;
    node::run(program.node, shutdown).await
}
