//! Settings of a node, as flags and environment variables.

use std::{num::NonZero, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{DEFAULT_DISK_ANSWER, DEFAULT_MAX_BLOB_BYTES, DEFAULT_UPLOAD_IDLE, Limits};
use crate::{
    http,
    model::size,
    storage::{
        DEFAULT_BUFFER_BYTES, DEFAULT_COMPACT_BYTES_PER_SECOND, DEFAULT_COMPACT_DEAD_RATIO,
        DEFAULT_HOT_BYTES, DEFAULT_SCRUB_BYTES_PER_SECOND, DEFAULT_SCRUB_PERIOD, DEFAULT_SMALL_LIMIT,
        DEFAULT_TOMBSTONE_AGE, DEFAULT_VOLUME_BYTES, Options, SyncMode,
    },
};

/// Every connection costs a file descriptor and some 5 KiB, while a long body comes some 30.
const DEFAULT_CONNECTIONS: usize = 10_000;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The node's settings.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Node")]
pub struct Config {
    /// When an upload is answered: after a sync of its own, after one that it shares with all that wait, or without one
    /// (then a power cut loses the last seconds)
    #[arg(
        long,
        env = "BACKPACK_NODE_SYNC",
        default_value = "group",
        value_parser = PossibleValuesParser::new(["always", "group", "never"]).map(|text| sync_mode(&text))
    )]
    pub sync: SyncMode,

    /// Largest blob that is taken; larger ones get 413
    #[arg(long, env = "BACKPACK_NODE_MAX_BLOB_SIZE", default_value = "5gb", value_parser = size::parse, value_name = "SIZE")]
    pub max_blob_size: u64,

    /// Blobs up to this size are packed into volumes, larger ones get a file of their own; at most 64mb
    #[arg(long, env = "BACKPACK_NODE_SMALL_BLOB_SIZE", default_value = "8mb", value_parser = size::parse, value_name = "SIZE")]
    pub small_blob_size: u64,

    /// A volume that has grown to this size is followed by a new one
    #[arg(long, env = "BACKPACK_NODE_VOLUME_SIZE", default_value = "1gb", value_parser = size::parse, value_name = "SIZE")]
    pub volume_size: u64,

    /// Memory for small blobs on their way in; more uploads at once than fit go by way of files, for whose bytes there is as much
    /// again
    #[arg(long, env = "BACKPACK_NODE_UPLOAD_MEMORY", default_value = "64mb", value_parser = size::parse, value_name = "SIZE")]
    pub upload_memory: u64,

    /// Memory for blobs that are read again and again, each of at most 1mb; 0: none are kept
    #[arg(long, env = "BACKPACK_NODE_READ_MEMORY", default_value = "64mb", value_parser = size::parse, value_name = "SIZE")]
    pub read_memory: u64,

    /// A volume of which this part is overwritten or deleted is rewritten to give the space back, 0.05 to 1; 1: only what
    /// is wholly so is removed
    #[arg(
        long,
        env = "BACKPACK_NODE_COMPACT_DEAD_RATIO",
        default_value_t = DEFAULT_COMPACT_DEAD_RATIO,
        value_name = "PART"
    )]
    pub compact_dead_ratio: f64,

    /// Bytes that rewriting volumes may read and write in a second; 0: space is not given back
    #[arg(
        long,
        env = "BACKPACK_NODE_COMPACT_BYTES_PER_SECOND",
        default_value = "32mb",
        value_parser = size::parse,
        value_name = "SIZE"
    )]
    pub compact_bytes_per_second: u64,

    /// Days that a delete is remembered at least: longer than any server of a shard may be away and come back with its disk
    #[arg(
        long,
        env = "BACKPACK_NODE_TOMBSTONE_DAYS",
        default_value_t = DEFAULT_TOMBSTONE_AGE.as_secs() / DAY.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=36_500),
        value_name = "DAYS"
    )]
    pub tombstone_days: u64,

    /// Everything stored is read and verified once in so many days
    #[arg(
        long,
        env = "BACKPACK_NODE_SCRUB_DAYS",
        default_value_t = DEFAULT_SCRUB_PERIOD.as_secs() / DAY.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=3650),
        value_name = "DAYS"
    )]
    pub scrub_days: u64,

    /// Bytes that verifying may read in a second at most; it takes no more than it needs to be done in time. 0: nothing is
    /// verified but what is read
    #[arg(
        long,
        env = "BACKPACK_NODE_SCRUB_BYTES_PER_SECOND",
        default_value = "32mb",
        value_parser = size::parse,
        value_name = "SIZE"
    )]
    pub scrub_bytes_per_second: u64,

    /// An upload that sends nothing for so many seconds gets 408
    #[arg(
        long,
        env = "BACKPACK_NODE_UPLOAD_IDLE",
        default_value_t = DEFAULT_UPLOAD_IDLE.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=3600),
        value_name = "SECONDS"
    )]
    pub upload_idle: u64,

    /// Seconds that a request waits for the disk before it gets 503
    #[arg(
        long,
        env = "BACKPACK_NODE_DISK_ANSWER",
        default_value_t = DEFAULT_DISK_ANSWER.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=3600),
        value_name = "SECONDS"
    )]
    pub disk_answer: u64,

    /// Open connections; more wait until one closes
    #[arg(
        long,
        env = "BACKPACK_NODE_MAX_CONNECTIONS",
        default_value_t = DEFAULT_CONNECTIONS,
        value_name = "CONNECTIONS"
    )]
    pub max_connections: usize,

    /// Threads that do the work of connections [default: one for every two cores]
    #[arg(
        long,
        env = "BACKPACK_NODE_THREADS",
        value_parser = clap::value_parser!(u16).range(1..=1024),
        value_name = "THREADS"
    )]
    pub threads: Option<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sync: SyncMode::default(),
            max_blob_size: DEFAULT_MAX_BLOB_BYTES,
            small_blob_size: DEFAULT_SMALL_LIMIT,
            volume_size: DEFAULT_VOLUME_BYTES,
            upload_memory: DEFAULT_BUFFER_BYTES,
            read_memory: DEFAULT_HOT_BYTES,
            compact_dead_ratio: DEFAULT_COMPACT_DEAD_RATIO,
            compact_bytes_per_second: DEFAULT_COMPACT_BYTES_PER_SECOND,
            tombstone_days: DEFAULT_TOMBSTONE_AGE.as_secs() / DAY.as_secs(),
            scrub_days: DEFAULT_SCRUB_PERIOD.as_secs() / DAY.as_secs(),
            scrub_bytes_per_second: DEFAULT_SCRUB_BYTES_PER_SECOND,
            upload_idle: DEFAULT_UPLOAD_IDLE.as_secs(),
            disk_answer: DEFAULT_DISK_ANSWER.as_secs(),
            max_connections: DEFAULT_CONNECTIONS,
            threads: None,
        }
    }
}

impl Config {
    /// The threads that do the work of connections. A thread that has enough to do goes on without being woken, and the other
    /// cores have the disks' threads, the kernel and nginx to serve: with a thread for each core a blob through nginx cost up to
    /// half as much again (docs/performance.md).
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        self.threads.map_or(cores.div_ceil(2), usize::from)
    }

    /// The limits of the HTTP side.
    pub fn limits(&self) -> Limits {
        Limits {
            blob_bytes: self.max_blob_size,
            upload_idle: Duration::from_secs(self.upload_idle),
            disk_answer: Duration::from_secs(self.disk_answer),
            http: http::Limits { connections: self.max_connections.max(1), ..http::Limits::default() },
        }
    }

    /// The options of the engine, which checks them when it opens.
    pub fn storage(&self) -> Options {
        Options {
            sync: self.sync,
            volume_bytes: self.volume_size,
            small_limit: self.small_blob_size,
            buffer_bytes: self.upload_memory,
            hot_bytes: self.read_memory,
            compact_dead_ratio: self.compact_dead_ratio,
            compact_bytes_per_second: self.compact_bytes_per_second,
            tombstone_age: DAY * self.tombstone_days as u32,
            scrub_period: DAY * self.scrub_days as u32,
            scrub_bytes_per_second: self.scrub_bytes_per_second,
            ..Options::default()
        }
    }
}

fn sync_mode(text: &str) -> SyncMode {
    match text {
        "always" => SyncMode::Always,
        "never" => SyncMode::Never,
        _ => SyncMode::Group,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Program::try_parse_from([&["program"], args].concat()).map(|program| program.config)
    }

    #[test]
    fn no_flags_are_the_defaults() {
        let (parsed, default) = (parse(&[]).unwrap(), Config::default());
        assert_eq!(format!("{parsed:?}"), format!("{default:?}"));
        assert_eq!(default.limits().http.connections, http::Limits::default().connections);
    }

    #[test]
    fn flags_become_settings() {
        let config = parse(&["--sync", "always", "--max-blob-size", "1.5mb", "--upload-idle", "7"]).unwrap();
        assert_eq!(config.limits().blob_bytes, 1_572_864);
        assert_eq!(config.limits().upload_idle, Duration::from_secs(7));
        assert_eq!(config.storage().sync, SyncMode::Always);
        assert_eq!(parse(&["--threads", "3"]).unwrap().threads(), 3);
        assert!(parse(&["--threads", "0"]).is_err() && Config::default().threads() > 0);
        let config = parse(&[
            "--compact-dead-ratio",
            "0.5",
            "--compact-bytes-per-second",
            "1mb",
            "--tombstone-days",
            "9",
            "--scrub-days",
            "7",
            "--scrub-bytes-per-second",
            "3mb",
        ]);
        let options = config.unwrap().storage();
        assert_eq!((options.scrub_period, options.scrub_bytes_per_second), (7 * DAY, 3 << 20));
        assert_eq!((options.compact_dead_ratio, options.compact_bytes_per_second), (0.5, 1 << 20));
        assert_eq!(options.tombstone_age, 9 * DAY);
        for bad in [
            "--sync=sometimes",
            "--max-blob-size=big",
            "--upload-idle=0",
            "--tombstone-days=0",
            "--scrub-days=0",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
