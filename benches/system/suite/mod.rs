//! What `make bench` measures.
//!
//! - one file for each part: [`get`], [`put`], [`front`], [`coordinator`], [`replicator`], [`large`]
//! - [`load`]: requests, made by `backpack-admin bench`; [`servers`]: what they go to; [`cpu`]: what that costs there; [`raw`]: the
//!   disk by itself
//! - [`turns`]: both sides one after the other, round by round; [`figures`] -> [`line`] -> [`sheet`]: the table
//!
//! One side is measured while the other's servers stand idle beside it. The load comes from a process of its own, so that its
//! processor time is never a server's; it is the command that users run, so that they can ask their own servers the same.

mod coordinator;
mod cpu;
mod figures;
mod front;
mod get;
mod large;
mod line;
mod load;
mod put;
mod raw;
mod replicator;
mod servers;
mod sheet;
mod turns;

use std::time::Duration;

use line::Line;
use sheet::Sheet;

/// A part of the bench.
type Part = fn(&Scale, &mut Sheet);

const PARTS: [(&str, Part); 6] = [
    ("get", get::measure),
    ("put", put::measure),
    ("front", front::measure),
    ("coordinator", coordinator::measure),
    ("replicator", replicator::measure),
    ("large", large::measure),
];

/// Requests at the same time: enough that no server waits for the load, and what one sync is to be shared by.
const CONNECTIONS: u32 = 64;

/// How much is done.
pub struct Scale {
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
}

/// What figures come from. The rounds of a replicator have 100,000 copies in all.
const FULL: Scale = Scale {
    rounds: 5,
    each: Duration::from_secs(2),
    requests: 1_000_000,
    backlog: 20_000,
    steady_rate: 1_000,
    steady: Duration::from_secs(5),
    large_bytes: 1 << 30,
};

/// Shows that it runs.
const QUICK: Scale = Scale {
    rounds: 1,
    each: Duration::from_secs(1),
    requests: 20,
    backlog: 20,
    steady_rate: 50,
    steady: Duration::from_secs(1),
    large_bytes: 16 << 20,
};

/// Measures the parts that are named, or all if there are none, and prints the table. Fails if it is asked for something else.
pub fn run(args: impl Iterator<Item = String>) -> Result<Vec<Line>, String> {
    let (flags, names): (Vec<String>, Vec<String>) = args.partition(|arg| arg.starts_with('-'));
    let known: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    let unknown = flags.iter().find(|flag| *flag != "--quick");
    if let Some(unknown) = unknown.or_else(|| names.iter().find(|name| !known.contains(&name.as_str()))) {
        return Err(format!("{unknown}? It takes --quick, and of these parts: {}", known.join(", ")));
    }
    let scale = if flags.is_empty() { FULL } else { QUICK };
    let mut sheet = Sheet::begin();
    let chosen = |part: &str| names.is_empty() || names.iter().any(|name| name == part);
    PARTS.iter().filter(|(name, _)| chosen(name)).for_each(|(_, measure)| measure(&scale, &mut sheet));
    if !flags.is_empty() {
        println!("\nIt runs. So few requests say nothing about speed.");
    }
    Ok(sheet.end())
}

fn kib(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}
