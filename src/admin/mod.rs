//! `backpack-admin`: sets up a cluster and looks after it. One file per command; each has the arguments of its command
//! and a `run` that returns a `Report`.
//!
//! - [`cli`]: the command line; [`run`] carries it out; `old_names`: what it is called through links
//! - `context`: the map store, the map and the queue that commands stand on; `misuse`: calls that cannot be meant
//! - `report`: text and JSON; `table`, `age`, `percent`, `order`: how things are shown
//! - `address`, `queue_place`, `server_list`: what is typed; `probe`: asks servers how they are
//! - [`nginx_config`]: the read path's configuration
//! - `bench`: how fast uploads and reads are
//! - [`put`]: folders of files into a cluster
//! - `moving`: servers that take the place of others
//! - `volume`: the data directory of a node; `progress`: how far a long command is

mod add_server;
mod add_shard;
mod address;
mod age;
mod bench;
pub mod cli;
mod completions;
mod context;
mod coordinator_init;
mod disable_shard;
mod drain_server;
mod dump_shards;
mod enable_shard;
mod misuse;
mod move_shard;
mod moving;
pub mod nginx_config;
mod old_names;
mod order;
mod percent;
mod print_stats;
mod probe;
mod progress;
pub mod put;
mod queue;
mod queue_place;
mod recount;
mod replace_server;
mod report;
mod scrub;
mod server_list;
mod set_pool;
mod set_queue;
mod status;
mod table;
mod volume;

use std::process::ExitCode;

pub use cli::Cli;
use cli::Command;
use misuse::Misuse;
use report::{Form, Report};
use volume::DamageFound;

/// The exit code of a call that makes no sense.
const MISUSE: u8 = 2;

/// Carries out a command and prints its report, or on standard error why it failed. Exits with 1 for a failure, 2 for
/// misuse, 3 for damage that `volume verify` found.
pub async fn run(cli: Cli) -> ExitCode {
    let form = if cli.json { Form::Json } else { Form::Text };
    let done = match carry_out(cli.command, form).await {
        Ok(Some(report)) => form.print(&report, &mut std::io::stdout()).map_err(Into::into),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error {
        _ if error.is::<Misuse>() => ExitCode::from(MISUSE),
        _ if error.is::<DamageFound>() => ExitCode::from(DamageFound::EXIT_CODE),
        _ => ExitCode::FAILURE,
    }
}

/// The report; `None` of commands that print while they run.
async fn carry_out(command: Command, form: Form) -> anyhow::Result<Option<Report>> {
    let report = match command {
        Command::CoordinatorInit(command) => command.run().await,
        Command::AddServer(command) => command.run().await,
        Command::AddShard(command) => command.run().await,
        Command::EnableShard(command) => command.run().await,
        Command::DisableShard(command) => command.run().await,
        Command::ReplaceServer(command) => command.run().await,
        Command::MoveShard(command) => command.run().await,
        Command::DrainServer(command) => command.run().await,
        Command::SetQueue(command) => command.run().await,
        Command::SetPool(command) => command.run().await,
        Command::DumpShards(command) => command.run().await,
        Command::PrintStats(command) => command.run().await,
        Command::Status(command) => command.run().await,
        Command::Queue(command) => command.run().await,
        Command::Recount(command) => command.run().await,
        Command::Scrub(command) => command.run().await,
        Command::NginxConfig(command) => return command.run(form).await,
        Command::Put(command) => return put::run(command, form).await.map(|()| None),
        Command::Verify(command) => return put::verify::run(command, form).await.map(|()| None),
        Command::Bench(command) => return bench::run(command, form).await.map(|()| None),
        Command::Volume(command) => return command.run(form).await,
        Command::Completions(command) => Ok(command.run(cli::program())),
    };
    report.map(Some)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::model::{ClusterMap, PoolName, QueueInfo, QueueServer, Server, Shard, map::ShardSize};

    /// Servers 1 to 4, and the shards 1 (half of nothing used), 2 (of unknown size, with a server that is not in the map)
    /// and 10 (half full).
    pub fn map() -> ClusterMap {
        let server = |id: &str, host: &str| {
            let port = 10_000 + id.parse::<u16>().unwrap();
            let id: crate::model::ServerId = id.parse().unwrap();
            (id.clone(), Arc::new(Server { id, host: host.into(), port }))
        };
        let shard = |id: &str, servers: &[&str], read_only, used: Option<u64>| {
            let size = used.map(|used| ShardSize { capacity: 100 << 30, used });
            let servers = servers.iter().map(|id| id.parse().unwrap()).collect();
            let id: crate::model::ShardId = id.parse().unwrap();
            (
                id.clone(),
                Arc::new(Shard {
                    id,
                    servers,
                    stages: Default::default(),
                    read_only,
                    pool: PoolName::default(),
                    size,
                }),
            )
        };
        let redis = QueueServer { host: "127.0.0.1".into(), port: 6379, tls: false };
        ClusterMap {
            servers: [("1", "127.0.0.1"), ("2", "127.0.0.1"), ("3", "::1"), ("4", "127.0.0.1")]
                .map(|(id, host)| server(id, host))
                .into(),
            shards: [
                shard("1", &["1", "4"], false, Some(3 << 19)),
                shard("2", &["2", "9"], true, None),
                shard("10", &["3"], false, Some(50 << 30)),
            ]
            .into(),
            queue: Some(QueueInfo { key: "backpack-queue".into(), servers: vec![redis] }),
            live: ["1".parse().unwrap()].into(),
            ..ClusterMap::default()
        }
    }
}
