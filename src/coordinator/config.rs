//! Settings of a coordinator. Every flag is an environment variable too.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::model::size;

/// Settings of a coordinator.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Coordinator")]
#[group(id = "coordinator")]
pub struct Config {
    /// First bytes of each upload kept in memory, so that a server that fails early costs the client nothing
    #[arg(long, env = "BACKPACK_COORDINATOR_REPLAY", value_parser = size::parse, default_value = "1mb", value_name = "SIZE")]
    pub replay: u64,

    /// Memory for these of all uploads together, beyond the first 16 KiB of each. While it is full, an upload whose server
    /// fails is answered 502
    #[arg(long, env = "BACKPACK_COORDINATOR_REPLAY_ROOM", value_parser = size::parse, default_value = "32mb", value_name = "SIZE")]
    pub replay_room: u64,

    /// Largest upload that is taken; a larger one gets 413
    #[arg(long, env = "BACKPACK_COORDINATOR_MAX_BODY", value_parser = size::parse, default_value = "5gb", value_name = "SIZE")]
    pub max_body: u64,

    /// Seconds without a byte after which an upload is given up (408)
    #[arg(long, env = "BACKPACK_COORDINATOR_BODY_IDLE", default_value_t = 30, value_name = "SECONDS")]
    pub body_idle: u64,

    /// Milliseconds between two writes of the shards' used bytes to the map store
    #[arg(long, env = "BACKPACK_COORDINATOR_FLUSH", default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub flush: u64,

    /// Open connections; more wait
    #[arg(long, env = "BACKPACK_COORDINATOR_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub connections: usize,

    /// Tasks that are kept for one server; of one that is further behind only that it is to be compared with the others of its
    /// shard is kept, and done when it is back
    #[arg(long, env = "BACKPACK_COORDINATOR_MAX_BACKLOG", default_value_t = 100_000, value_name = "TASKS")]
    pub max_backlog: u64,

    /// Milliseconds that a server may keep an upload waiting before the upload goes to another one that answers, as long as
    /// it can be sent anew; a server gets a second more for each megabyte. Syncs of a busy disk take some tenths of a second
    #[arg(long, env = "BACKPACK_COORDINATOR_PATIENCE", default_value_t = 2000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub patience: u64,

    /// Milliseconds that a server may take to begin its answer to a read before another one is asked too; 0: for ever
    #[arg(long, env = "BACKPACK_COORDINATOR_HEDGE_AFTER", default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub hedge_after: u64,

    /// Where bodies of unknown length are kept for servers that take only bodies of known length
    #[arg(long, env = "BACKPACK_COORDINATOR_SPOOL_DIR", default_value_os_t = std::env::temp_dir(), value_name = "DIR")]
    pub spool_dir: PathBuf,
}

impl Config {
    pub(super) fn body_idle(&self) -> Duration {
        Duration::from_secs(self.body_idle)
    }

    pub(super) fn flush_every(&self) -> Duration {
        Duration::from_millis(self.flush)
    }

    pub(super) fn hedge_after(&self) -> Option<Duration> {
        (self.hedge_after > 0).then(|| Duration::from_millis(self.hedge_after))
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience)
    }
}
