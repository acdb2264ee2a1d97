//! What `make bench` measures.
//!
//! - one file for each part: [`get`], [`put`], [`front`], [`coordinator`], [`replicator`], [`large`],
//!   [`memory`]; [`growth`]: what changes as a cluster grows; [`steady`]: whether anything grows that should not; [`bounds`]: what
//!   a [`bare`] server and a bare [`relay`] reach
//! - [`load`]: requests, made by `backpack-admin bench`; [`wire`]: others, by hand; [`servers`]: what they go to; [`cpu`]: what that
//!   costs there; [`raw`]: the disk by itself
//! - [`turns`]: both sides one after the other, round by round; [`figures`] -> [`line`] -> [`sheet`]: the table
//!
//! One side is measured while the other's servers stand idle beside it. The load comes from a process of its own, so that its
//! processor time is never a server's; it is the command that users run, so that they can ask their own servers the same.

mod bare;
mod bounds;
mod coordinator;
mod cpu;
mod figures;
mod front;
mod get;
mod growth;
mod large;
mod line;
mod load;
mod memory;
mod put;
mod raw;
mod relay;
mod replicator;
mod servers;
mod sheet;
mod steady;
mod turns;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use line::Line;
use sheet::Sheet;

/// A part of the bench.
type Part = fn(&Scale, &mut Sheet);

const PARTS: [(&str, Part); 11] = [
    ("get", get::measure),
    ("put", put::measure),
    ("front", front::measure),
    ("coordinator", coordinator::measure),
    ("replicator", replicator::measure),
    ("large", large::measure),
    ("memory", memory::measure),
    ("bounds", bounds::measure),
    ("blobs", growth::blobs::measure),
    ("map", growth::map::measure),
    ("steady", steady::measure),
];

/// Parts that take many minutes each: measured when they are named, and with `--quick`.
const LONG: [&str; 4] = ["bounds", "blobs", "map", "steady"];

/// Requests at the same time: enough that no server waits for the load, and what one sync is to be shared by.
const CONNECTIONS: u32 = 64;

/// How much is done.
pub struct Scale {
    /// Where all files are. What the page cache has of them is dropped before each turn, so nobody else's are there.
    files: Option<PathBuf>,
    rounds: usize,
    /// Of one side's turn, at most.
    each: Duration,
    /// Requests of one side's turn, at most.
    requests: u64,
    /// Copies that wait for a replicator in one round.
    backlog: u64,
    /// Uploads a second, while a replicator copies them.
    steady_rate: u32,
    /// How long these go on.
    steady: Duration,
    /// A large blob.
    large_bytes: usize,
    /// Uploads that are open at the same time.
    open_uploads: usize,
    /// Blobs on a node, step by step.
    growth_blobs: &'static [u64],
    /// Reads of any of them.
    any_reads: usize,
    /// Shards in a map, and servers.
    growth_shards: &'static [usize],
    growth_servers: &'static [usize],
    /// Changes of a map whose effect is waited for.
    growth_edits: usize,
    /// How long a map is changed while others upload.
    growth_edited: Duration,
    /// How long a coordinator is looked at that nobody asks: longer than anything that it does by itself waits.
    growth_idle: Duration,
    /// A run in which nothing may grow.
    long_run: Duration,
}

/// What figures come from. The rounds of a replicator have 100,000 copies in all.
const FULL: Scale = Scale {
    files: None,
    rounds: 5,
    each: Duration::from_secs(2),
    requests: 1_000_000,
    backlog: 20_000,
    steady_rate: 1_000,
    steady: Duration::from_secs(5),
    large_bytes: 1 << 30,
    // Of 10,000 connections, which are the limit unless set, some are for whoever asks how a server is.
    open_uploads: 9_900,
    growth_blobs: &[10_000, 100_000, 1_000_000, 10_000_000],
    any_reads: 20_000,
    growth_shards: &[10, 1_000, 10_000],
    growth_servers: &[2, 100, 1_000],
    growth_edits: 20,
    growth_edited: Duration::from_secs(2),
    growth_idle: Duration::from_secs(30),
    long_run: Duration::from_secs(600),
};

/// Shows that it runs.
const QUICK: Scale = Scale {
    files: None,
    rounds: 1,
    each: Duration::from_secs(1),
    requests: 20,
    backlog: 20,
    steady_rate: 50,
    steady: Duration::from_secs(1),
    large_bytes: 16 << 20,
    open_uploads: 20,
    growth_blobs: &[100, 200],
    any_reads: 20,
    growth_shards: &[2, 4],
    growth_servers: &[2, 4],
    growth_edits: 2,
    growth_edited: Duration::from_millis(200),
    growth_idle: Duration::from_millis(200),
    long_run: Duration::from_secs(1),
};

/// Measures the parts that are named, or all but the long ones if there are none, and prints the table. Fails if it is asked for something else.
/// `files`: where all temporary files are, and nobody else's.
pub fn run(args: impl Iterator<Item = String>, files: &Path) -> Result<Vec<Line>, String> {
    let (flags, names): (Vec<String>, Vec<String>) = args.partition(|arg| arg.starts_with('-'));
    let known: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let unknown = flags.iter().find(|flag| *flag != "--quick");
    if let Some(unknown) = unknown.or_else(|| names.iter().find(|name| !known.contains(&name.as_str()))) {
        return Err(format!("{unknown}? It takes --quick, and of these parts: {}", known.join(", ")));
    }
    let quick = !flags.is_empty();
    let scale = Scale { files: Some(files.to_owned()), ..if quick { QUICK } else { FULL } };
    let mut sheet = Sheet::begin();
    let unnamed = |part: &str| names.is_empty() && (quick || !LONG.contains(&part));
    let chosen = |part: &str| unnamed(part) || names.iter().any(|name| name == part);
    PARTS.iter().filter(|(name, _)| chosen(name)).for_each(|(_, measure)| measure(&scale, &mut sheet));
    if quick {
        println!("\nIt runs. So few requests say nothing about speed.");
    } else if names.is_empty() {
        println!("\nLeft out, since each takes many minutes, unless it is named: {}", LONG.join(", "));
    }
    Ok(sheet.end())
}

fn kib(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}
