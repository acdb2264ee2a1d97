//! Coordinator, node, replicator and client as they are, on a simulated network with simulated time: each seed is another
//! small cluster, another short history and other faults, and the same seed is the same to the last message.
//!
//! - `plan`: what a seed means, with `twists` for some; `run`: its simulation; `check`: what must be true afterwards
//! - `cluster`: the roles on their hosts; `users`: who asks them
//! - `network`, `map`, `queue`, `moody`: what stands under the roles, `hasty`: in the place of one; their disks are those of `node_double`
//! - `machine`: time and chance; `trace`: what happened; `seeds`: many of them; `process`: each in one of its own
//!
//! `make simulate SEED=7 SEEDS=1` shows what seed 7 is about.

mod check;
mod cluster;
mod hasty;
mod machine;
mod map;
#[path = "../node_double/memory.rs"]
#[allow(dead_code, reason = "the simulation uses its own part of it")]
mod memory;
mod moody;
mod network;
mod plan;
mod process;
mod queue;
mod run;
mod seeds;
mod trace;
mod twists;
mod users;

use std::time::{Duration, Instant};

use seeds::{SHARE, do_share, simulate_many};

/// Seeds that tell of a mistake that was once there, and was mended.
///
/// - 864: two coordinators that had heard of the same version gave the same next one
const FAILED_ONCE: [u64; 1] = [864];

/// Seeds that tell of a mistake that was made on purpose; more do, but a busy machine may not come so far.
///
/// - 8: a coordinator says 404 on GET though a server of the shard was not reached
/// - 21: an answer before the end of the body is taken for success
/// - 49: a server on its way into its shard or out of it has an upload alone
const TELL_OF_MISTAKES: [u64; 3] = [8, 21, 49];

/// Of `cargo test`: some seconds.
const SEEDS: u64 = 100;

/// A busy machine simulates fewer seeds.
const SEEDS_WITHIN: Duration = Duration::from_secs(12);

/// Longer than anybody simulates at once.
const DAY: Duration = Duration::from_secs(24 * 3600);

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What the other tests start; does nothing by itself.
#[test]
fn share_of_seeds() {
    if let Ok(share) = std::env::var(SHARE) {
        do_share(&share);
    }
}

#[test]
fn seeds_hold() {
    let first = number("BACKPACK_SEED").unwrap_or(1);
    let asked = number("BACKPACK_SEEDS");
    let within = asked.map_or(SEEDS_WITHIN, |_| DAY);
    let began = Instant::now();
    let told = simulate_many(first, asked.unwrap_or(SEEDS), within);
    let seconds = began.elapsed().as_secs_f64();
    let per_minute = told.len() as f64 * 60.0 / seconds;
    println!("{} seeds from {first} on in {seconds:.1} s: {per_minute:.0} a minute", told.len());
    let failed: Vec<_> = told.iter().filter_map(|(seed, told)| Some((seed, told.as_ref().err()?))).collect();
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "{} seeds failed: {seeds:?}; the first one: {}", seeds.len(), failed[0].1);
}

#[test]
fn seeds_that_failed_once_hold() {
    for seed in FAILED_ONCE.into_iter().chain(TELL_OF_MISTAKES) {
        assert!(simulate_many(seed, 1, DAY)[0].1.is_ok(), "seed {seed}");
    }
}

/// Whatever was simulated before it, too.
#[test]
fn the_same_seed_is_the_same_story() {
    let whole = simulate_many(1, 6, DAY);
    assert_eq!(simulate_many(1, 6, DAY), whole);
    assert_eq!(simulate_many(4, 3, DAY), whole[3..]);
}
