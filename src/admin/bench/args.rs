//! What `bench` is told.

use super::sizes::Sizes;
use crate::{admin::address::ServerUrl, model::WriteLevel};

/// Blobs of a run at most: each takes four bytes of memory, and somebody has to delete them.
pub const MAX_COUNT: u32 = 10_000_000;

/// Reads of a run at most.
pub const MAX_READS: u64 = 1_000_000_000;

/// Connections at most: each takes a file descriptor here and one there.
pub const MAX_CONCURRENCY: u32 = 10_000;

/// Requests a second at least: fewer would have no second one in the time that a phase may take.
pub const MIN_RATE: f64 = 0.001;

/// Requests a second at most; more than one process of this kind can send.
pub const MAX_RATE: f64 = 1_000_000.0;

/// Seconds of a phase at most: what was forgotten ends by itself.
pub const MAX_SECONDS: u32 = 3_600;

/// Seconds for one request at most.
pub const MAX_TIMEOUT_SECONDS: u32 = 600;

/// The command's examples.
const EXAMPLE: &str = "\
Example:
  backpack-admin bench http://127.0.0.1:12001 --size photos --write-level all
  backpack-admin bench http://127.0.0.1:12001 --read-from http://127.0.0.1:8080 --rate 500 --seconds 30
  backpack-admin bench http://127.0.0.1:10001 --only get --count 1000 --reads 1000000 --size 1kb";

/// What only `--help` says.
const DETAILS: &str = "\
Uploads, reads everything back in another order, and deletes it. Keys are bench-<random>/<number>, so nothing of yours is \
touched. A coordinator is recognised by its answers: it names the shard of each blob, which is then read as /<shard>:<key>, \
from --read-from if it is given. Any other server that takes PUT and GET is measured in the same way; one that knows no \
DELETE keeps what was uploaded, and that is said. Nodes remember deletes for a while.

Without --rate each connection sends its next request when the last one is answered (a closed loop): throughput is what the \
servers can do, but while they stall nobody asks, so latency is better than users see it. With --rate request n is due n/rate \
seconds after the start whatever became of the others (an open loop), and its latency counts from then: a stall shows in \
every request that was due meanwhile.

Latency ends with the last byte of the answer. Requests that failed at once are left out of it; those without an answer in \
time, or due and never sent, count with the time that they had waited. The bytes are noise, cut out of 8mb by --seed.

Ctrl-C ends the measuring, tells what was measured and deletes; a second one ends at once and leaves the blobs.

Exit code: 0, 1 if a request failed or a blob was read back wrong, 2 misuse.";

/// Measures uploads and reads: throughput, latency, errors
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE, after_long_help = format!("{EXAMPLE}\n\n{DETAILS}"))]
pub struct Args {
    /// A coordinator, a node, or any server that takes PUT and GET; http://host:port
    #[arg(value_name = "URL")]
    pub url: ServerUrl,

    /// Blobs to upload, at most 10,000,000
    #[arg(long, env = "BACKPACK_BENCH_COUNT", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_COUNT)))]
    pub count: u32,

    /// Reads in all, each blob in turn (default: each blob once), at most 1,000,000,000
    #[arg(long, env = "BACKPACK_BENCH_READS", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_READS))]
    pub reads: Option<u64>,

    /// Size of the blobs: 16kb, a range 4kb-1mb (each doubling as frequent), or 'photos' (thumbnails to some megabytes)
    #[arg(long, env = "BACKPACK_BENCH_SIZE", value_name = "SIZE", default_value_t = Sizes::Fixed(16 << 10))]
    pub size: Sizes,

    /// Connections, each with one request at a time, at most 10,000
    #[arg(long, env = "BACKPACK_BENCH_CONCURRENCY", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CONCURRENCY)))]
    pub concurrency: u32,

    /// Requests a second, at most 1,000,000: an open loop (default: as fast as answers come)
    #[arg(long, env = "BACKPACK_BENCH_RATE", value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,

    /// Each of the two phases ends after this, at most 3600
    #[arg(long, env = "BACKPACK_BENCH_SECONDS", value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SECONDS)))]
    pub seconds: u32,

    /// Measure only this; before 'get' the uploads are made as fast as they go
    #[arg(long, env = "BACKPACK_BENCH_ONLY", value_name = "PHASE")]
    pub only: Option<Phase>,

    /// Read from here: nginx, say (default: where it was uploaded)
    #[arg(long, env = "BACKPACK_BENCH_READ_FROM", value_name = "URL")]
    pub read_from: Option<ServerUrl>,

    /// Durable copies that a coordinator waits for: one, quorum or all (default: as the pool is set)
    #[arg(long, env = "BACKPACK_BENCH_WRITE_LEVEL", value_name = "LEVEL")]
    pub write_level: Option<WriteLevel>,

    /// Compare every byte that is read with what was uploaded, not only the length
    #[arg(long, env = "BACKPACK_BENCH_VERIFY", value_parser = clap::builder::BoolishValueParser::new())]
    pub verify: bool,

    /// Leave the blobs where they are
    #[arg(long, env = "BACKPACK_BENCH_KEEP", value_parser = clap::builder::BoolishValueParser::new())]
    pub keep: bool,

    /// Seconds for one request, at most 600
    #[arg(long, env = "BACKPACK_BENCH_TIMEOUT", value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TIMEOUT_SECONDS)))]
    pub timeout: u32,

    /// The same seed gives the same sizes and bytes
    #[arg(long, env = "BACKPACK_BENCH_SEED", value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Phase {
    /// Uploads.
    Put,
    /// Reads.
    Get,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (MIN_RATE..=MAX_RATE).contains(&rate) => Ok(rate),
        _ => Err(format!("a rate is a number of requests a second, from {MIN_RATE} to {MAX_RATE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!((rate("500"), rate("0.5")), (Ok(500.0), Ok(0.5)));
        for text in ["0", "-1", "NaN", "inf", "1e7", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
