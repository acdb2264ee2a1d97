//! `backpack-admin put` and `backpack-admin verify`: folders of files into a cluster, and proof that they are there.
//!
//! - `run`: the command; [`upload`]: the same for callers of the library
//! - `roots` -> `walk` -> `sift`: which files; `name`: their keys; `content_type`
//! - `parallel` -> `send`: many uploads at once; `retry`: what is tried again; `wire`: HTTP to one address
//! - [`journal`](Entry): what is uploaded, one line a file
//! - [`verify`]: reads a journal's files back
//! - `progress`, `summary`: what is seen

mod content_type;
mod journal;
mod name;
mod parallel;
mod progress;
mod retry;
mod roots;
mod send;
mod sift;
mod summary;
mod uploading;
pub mod verify;
mod walk;
mod wire;

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context;

pub use journal::Entry;
pub use name::Prefix;
pub use summary::{Note, Notes, Uploaded, Verified};
pub use verify::Args as VerifyArgs;
pub use wire::BaseUrl;

use crate::{
    admin::report::Form,
    daemon::{Shutdown, shutdown::DEFAULT_DRAIN},
    model::WriteLevel,
};
use summary::Summary as _;

/// A journal's name where `--journal` gives no other. Files of this name are never uploaded.
pub const JOURNAL_NAME: &str = ".backpack-put.jsonl";

/// The command's examples.
const EXAMPLE: &str = "\
Example:
  backpack-admin put http://127.0.0.1:12001 photo.jpg
  backpack-admin put --recursive --prefix photos http://127.0.0.1:12001 ~/photos";

/// What only `--help` says.
const DETAILS: &str = "\
Keys: a file's key is its path below the given folder, after --prefix, percent-encoded: 'my photos/a#1.jpg' becomes \
'my%20photos/a%231.jpg'. A path that no key can say (control bytes, over 1,024 bytes once encoded) becomes '~' and \
the SHA-256 of the path. Use --prefix when several folders of one kind go into a cluster, so that their keys differ.

Journal: every uploaded file is one JSON line of <folder>/.backpack-put.jsonl (or --journal FILE): path, shard, key, \
version, length, checksum, mtime. It is the map from paths to what reads them back, http://<nginx>/<shard>:<key>: \
keep it. The same command run again uploads only files that the journal does not have with their present size and \
modification time, so an upload that was interrupted in any way goes on where it ended. A changed file is uploaded \
anew under its key, perhaps to another shard; the last line about a path counts. One journal is for one cluster.

Symbolic links are not followed, pipes, sockets and devices are left out; each is reported. Only http:// is spoken.

Exit code: 0 all is uploaded, 1 some files are not (the first are listed), 2 misuse.";

/// Uploads files, or whole folders with --recursive, through a coordinator
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE, after_long_help = format!("{EXAMPLE}\n\n{DETAILS}"))]
pub struct Args {
    /// A coordinator, http://host:port
    #[arg(value_name = "COORDINATOR_URL")]
    pub coordinator: BaseUrl,

    /// Files, and folders with --recursive
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Upload everything below the given folders
    #[arg(short, long, env = "BACKPACK_PUT_RECURSIVE", value_parser = clap::builder::BoolishValueParser::new())]
    pub recursive: bool,

    /// Put this folder before every key, for example 'photos/2026'
    #[arg(
        long,
        env = "BACKPACK_PUT_PREFIX",
        value_name = "FOLDER",
        default_value = "",
        hide_default_value = true
    )]
    pub prefix: Prefix,

    /// Uploads at once, at most 256: each takes two file descriptors, of which a process often has 1,024
    #[arg(long, env = "BACKPACK_PUT_PARALLEL", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,

    /// Durable copies to wait for: one, quorum or all (default: as the pool is set)
    #[arg(long, env = "BACKPACK_PUT_WRITE", value_name = "LEVEL")]
    pub write: Option<WriteLevel>,

    /// Further tries for a file after a 5xx answer or a broken connection
    #[arg(long, env = "BACKPACK_PUT_RETRIES", value_name = "N", default_value_t = 8)]
    pub retries: u32,

    /// Keep the journal here (default: .backpack-put.jsonl in each given folder)
    #[arg(long, env = "BACKPACK_PUT_JOURNAL", value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

/// The command: uploads, prints what it did, and fails if any file failed. Ctrl-C lets what is in flight finish; a
/// second one ends it at once.
pub(super) async fn run(args: Args, form: Form) -> anyhow::Result<()> {
    let stop = Shutdown::on_signal(DEFAULT_DRAIN).context("listen for signals")?;
    upload(&args, &stop).await?.conclude(form)
}

/// Uploads until all is done or `stop` begins. An error is about the whole: a path that is not there, a journal that
/// cannot be written.
pub async fn upload(args: &Args, stop: &Shutdown) -> anyhow::Result<Uploaded> {
    let started = Instant::now();
    let roots = roots::of(args)?;
    let progress = progress::Progress::new();
    // Begun by an upload that sees no use in going on.
    let stop = stop.child();
    let sender = Arc::new(send::Sender {
        wire: wire::Wire::new(args.coordinator.clone()),
        write: args.write,
        retries: args.retries,
        stop: stop.clone(),
        progress: progress.clone(),
    });
    // Keys of one folder differ anyway.
    let mut keys = (roots.len() > 1).then(HashSet::new);
    let mut summary = Uploaded::default();
    for root in &roots {
        if stop.begun() {
            break;
        }
        uploading::upload_root(args, root, &sender, &mut keys, &mut summary).await?;
    }
    progress.end();
    if stop.begun() && summary.stopped.is_none() {
        summary.stopped = Some("asked to stop".to_owned());
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}
