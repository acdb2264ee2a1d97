//! Coordinator, node, replicator and client as they are, on a simulated network with simulated time: each seed is another
//! small cluster, another short history and other faults, and the same seed is the same to the last message.
//!
//! - `plan`: what a seed means; `run`: its simulation; `check`: what must be true afterwards
//! - `cluster`: the roles on their hosts; `users`: who asks them
//! - `network`, `map`, `queue`, `moody`: what stands under the roles; their disks are those of `node_double`
//! - `machine`: time and chance; `trace`: what happened; `seeds`: many of them
//!
//! `BACKPACK_SEED=7 BACKPACK_SEEDS=1 cargo test --test simulation seeds_hold -- --nocapture` shows what seed 7 is about.

mod check;
mod cluster;
mod machine;
mod map;
#[path = "../node_double/memory.rs"]
#[allow(dead_code, reason = "the simulation uses its own part of it")]
mod memory;
mod moody;
mod network;
mod plan;
mod queue;
mod run;
mod seeds;
mod trace;
mod users;

use std::time::Duration;

use seeds::{CHILD, DIGEST, in_a_process, simulate_many};

/// Of `cargo test`: some seconds.
const SEEDS: u64 = 60;

/// A busy machine simulates fewer seeds.
const SEEDS_WITHIN: Duration = Duration::from_secs(15);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What the other tests start for each seed; does nothing by itself.
#[test]
fn one_seed() {
    let Some(seed) = number(CHILD) else { return };
    // It measures the machine's clock, and so needs the true one.
    backpack::telemetry::metrics::install();
    let verdict = std::thread::spawn(move || run::simulate(seed)).join().unwrap();
    if !verdict.wrong.is_empty() || std::env::var_os("BACKPACK_TRACE").is_some() {
        println!("{}", verdict.trace.lines().join("\n"));
    }
    assert!(verdict.wrong.is_empty(), "seed {seed}:\n{}", verdict.wrong.join("\n"));
    println!("\n{DIGEST}{:016x}", verdict.trace.digest());
}

#[test]
fn seeds_hold() {
    let first = number("BACKPACK_SEED").unwrap_or(1);
    let asked = number("BACKPACK_SEEDS");
    let within = asked.map_or(SEEDS_WITHIN, |_| Duration::MAX);
    let (count, took, failed) = simulate_many(first, asked.unwrap_or(SEEDS), within);
    let per_minute = count as f64 * 60.0 / took.as_secs_f64();
    println!("{count} seeds from {first} on in {:.1} s: {per_minute:.0} a minute", took.as_secs_f64());
    let numbers: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "seeds {numbers:?} failed; the first one:\n{}", failed[0].1);
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in 1..=6 {
        assert_eq!(in_a_process(seed), in_a_process(seed), "seed {seed}");
    }
}
