//! The storage engine beside what the disk gives without it: `make bench-engine`.
//!
//! Everything that is compared runs in turns, in the same run, for a bounded time; a figure is the median of its rounds,
//! with the smallest and the largest beside it. `--quick` only shows that it runs; names of parts (`put`, `get`,
//! `overwrite`, `many`) choose these. Files go to the system's temporary folder: set `TMPDIR` to measure another disk.

mod get;
mod list;
#[path = "../shared/machine.rs"]
mod machine;
mod many;
mod overwrite;
mod put;
mod raw;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    model::{Meta, Version},
    storage::{Engine, NewBlob, Storage},
};
use bytes::Bytes;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bodies that are measured: a thumbnail, an icon of a page, a small photo.
const SIZES: [usize; 3] = [1 << 10, 16 << 10, 100 << 10];

/// A part of the bench.
type Measure = fn(&Scale);

/// How much is done.
struct Scale {
    rounds: usize,
    /// Of one measurement.
    each: Duration,
    /// Bytes that are read from.
    read_bytes: usize,
    /// Cold reads in one measurement.
    cold_reads: usize,
    /// Blobs of the largest storage.
    many: u64,
}

const FULL: Scale = Scale {
    rounds: 5,
    each: Duration::from_secs(1),
    read_bytes: 400 << 20,
    cold_reads: 2000,
    many: 10_000_000,
};
const QUICK: Scale =
    Scale { rounds: 1, each: Duration::from_millis(50), read_bytes: 4 << 20, cold_reads: 50, many: 20_000 };

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(dir) = args.iter().position(|arg| arg == many::OPEN).and_then(|at| args.get(at + 1)) {
        return many::open_here(dir.as_ref());
    }
    let scale = if args.iter().any(|arg| arg == "--quick") { QUICK } else { FULL };
    println!("{}", machine::machine());
    let parts: [(&str, Measure); 4] = [
        ("put", put::measure),
        ("get", get::measure),
        ("overwrite", overwrite::measure),
        ("many", many::measure),
    ];
    let is_named = |name: &str| args.iter().any(|arg| arg == name);
    let all = !parts.iter().any(|(name, _)| is_named(name));
    parts.iter().filter(|(name, _)| all || is_named(name)).for_each(|(_, measure)| measure(&scale));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// 23 bytes, as ids of photos are.
fn name(n: u64) -> String {
    format!("photos/{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

async fn put(engine: &Engine, n: u64, version: u64, body: &Bytes) {
    let (key, version) = (name(n).parse().unwrap(), Version::from_parts(version, 1));
    let new = NewBlob { key, version, meta: Meta::default(), length: Some(body.len() as u64) };
    let mut writer = engine.create(new).await.unwrap();
    writer.write(body.clone()).await.unwrap();
    writer.commit().await.unwrap();
}

/// Writes that many blobs, from many tasks.
async fn load(engine: &Arc<Engine>, blobs: u64, size: usize) {
    let body = Bytes::from(vec![7; size]);
    let tasks = (0..64).map(|task| {
        let (engine, body) = (engine.clone(), body.clone());
        tokio::spawn(async move {
            for n in (task..blobs).step_by(64) {
                put(&engine, n, 1, &body).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// How long single operations took.
fn print_times(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(at);
    println!("  {} {what}: p50 {half:.2?}, p99 {most:.2?}, p99.9 {nearly_all:.2?}", took.len());
}

/// Time that all threads of this process computed, the system's part included.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name, which stands in brackets, may have blanks in it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32
}

/// How often in a second.
fn rate(done: usize, started: Instant) -> f64 {
    done as f64 / started.elapsed().as_secs_f64()
}

/// The figures of one thing, a round each.
#[derive(Default)]
struct Figures(Vec<f64>);

impl Figures {
    fn add(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        f.pad(&format!("{:.0} ({first:.0}..{last:.0})", self.median()))
    }
}

fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes >> 10)
}
