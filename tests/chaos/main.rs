//! The chaos suite: a whole cluster of real processes under a recording load, while a seeded plan breaks everything that can
//! break; then everything is held against the record. See docs/chaos.md.
//!
//! - [`plan`]: what is broken when, a pure function of a seed
//! - [`rig`]: the cluster, with a [`proxy`] on its links and [`clock`]s of their own; [`faults`]: breaks and mends it
//! - [`change`]: machines that take the place of others meanwhile
//! - [`load`]: clients; [`record`]: what they did and were told
//! - [`whole`]: waits until the cluster says that nothing is missing
//! - [`checker`]: what must be true of a record, pure; [`verdict`], [`resources`]: of the cluster and its processes
//! - [`run`]: all of it, one after the other

mod change;
mod checker;
mod clock;
mod faults;
mod load;
mod plan;
mod proxy;
mod record;
mod resources;
mod rig;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod verdict;
mod whole;

use std::time::Duration;

use plan::ROUND;
use run::{Settings, from_env, run};

/// In three rounds every kind of fault has its turn.
const SHORT_ROUNDS: usize = 3;
/// Nobody waits for what the cluster does by itself within minutes.
const HURRIED: Duration = Duration::from_secs(10);
/// A comparison that failed is made again after ten minutes at most.
const BY_ITSELF: Duration = Duration::from_secs(15 * 60);

/// What `make chaos` runs unless it is told otherwise.
const DEFAULT_SECONDS: u64 = 300;

/// The one of `make test`.
const SHORT_SEED: u64 = 4;

/// A shard is moved, and a server that runs and one that is gone are replaced.
const CHANGES_SEED: u64 = 1;
const CHANGES_ROUNDS: usize = 12;

/// Seeds that found something, with their rounds. They find it no more.
///
/// - 11, 12, 13: a server whose disk was emptied was believed to hold what it had held until it was compared
/// - 101: two coordinators behind a clock that was ahead gave one version to two writes of a key
const FOUND_SOMETHING: [(u64, usize); 4] =
    [(11, SHORT_ROUNDS), (12, SHORT_ROUNDS), (13, SHORT_ROUNDS), (101, 6)];

/// `BACKPACK_SEED` chooses another seed.
#[test]
fn nothing_acknowledged_is_lost_whatever_breaks() {
    short(from_env("BACKPACK_SEED").unwrap_or(SHORT_SEED), SHORT_ROUNDS);
}

/// `make chaos`: `BACKPACK_SEED`, `BACKPACK_CHAOS_SECONDS`.
#[test]
#[ignore = "takes minutes or hours: make chaos"]
fn nothing_acknowledged_is_lost_for_longer() {
    let seed = from_env("BACKPACK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_env("BACKPACK_CHAOS_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let rounds = (seconds / ROUND.as_secs()).max(1) as usize;
    let repeat = "make chaos (and the same BACKPACK_CHAOS_SECONDS)";
    let within = Duration::from_secs(seconds);
    run(Settings { seed, rounds, within, changes: true, patience: BY_ITSELF, repeat });
}

/// In as few rounds as they take.
#[test]
#[ignore = "takes minutes: make chaos"]
fn machines_are_changed_while_everything_breaks() {
    let repeat =
        "cargo test --test chaos machines_are_changed_while_everything_breaks -- --ignored --nocapture";
    let seed = from_env("BACKPACK_SEED").unwrap_or(CHANGES_SEED);
    let within = Duration::MAX;
    run(Settings { seed, rounds: CHANGES_ROUNDS, within, changes: true, patience: HURRIED, repeat });
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn seeds_that_found_something() {
    FOUND_SOMETHING.into_iter().for_each(|(seed, rounds)| short(seed, rounds));
}

fn short(seed: u64, rounds: usize) {
    let repeat = "cargo test --test chaos nothing_acknowledged_is_lost_whatever_breaks -- --nocapture";
    run(Settings { seed, rounds, within: Duration::MAX, changes: false, patience: HURRIED, repeat });
}
