//! The chaos suite: a whole cluster of real processes under a recording load, while a seeded plan breaks everything that can
//! break; then everything is held against the record. See docs/chaos.md.
//!
//! - [`plan`]: what is broken when, a pure function of a seed
//! - [`rig`]: the cluster, with a [`proxy`] on its links and [`clock`]s of their own; [`faults`]: breaks and mends it
//! - [`load`]: clients; [`record`]: what they did and were told
//! - [`whole`]: waits until the cluster says that nothing is missing
//! - [`checker`]: what must be true of a record, pure; [`verdict`], [`resources`]: of the cluster and its processes
//! - [`run`]: all of it, one after the other

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

use run::{Settings, from_env, run};

/// Three rounds: every kind of fault has its turn.
const SHORT: Duration = Duration::from_secs(30);
/// Nobody waits for what the cluster does by itself within minutes.
const HURRIED: Duration = Duration::from_secs(10);
/// A comparison that failed is made again after ten minutes at most.
const BY_ITSELF: Duration = Duration::from_secs(15 * 60);

/// What `make chaos` runs unless it is told otherwise.
const DEFAULT_SECONDS: u64 = 300;

/// The one of `make test`.
const SHORT_SEED: u64 = 4;

/// Seeds that found something, with their seconds. They find it no more.
const FOUND_SOMETHING: [(u64, u64); 0] = [];

/// `BACKPACK_SEED` chooses another seed.
#[test]
fn nothing_acknowledged_is_lost_whatever_breaks() {
    let seed = from_env("BACKPACK_SEED").unwrap_or(SHORT_SEED);
    run(Settings { seed, time: SHORT, patience: HURRIED });
}

/// `make chaos`: `BACKPACK_SEED`, `BACKPACK_CHAOS_SECONDS`.
#[test]
#[ignore = "takes minutes or hours: make chaos"]
fn nothing_acknowledged_is_lost_for_longer() {
    let seed = from_env("BACKPACK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_env("BACKPACK_CHAOS_SECONDS").unwrap_or(DEFAULT_SECONDS);
    run(Settings { seed, time: Duration::from_secs(seconds), patience: BY_ITSELF });
}

#[test]
#[ignore = "takes minutes: make chaos"]
fn seeds_that_found_something() {
    for (seed, seconds) in FOUND_SOMETHING {
        run(Settings { seed, time: Duration::from_secs(seconds), patience: HURRIED });
    }
}
