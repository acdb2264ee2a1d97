//! Servers that take the place of others: filled at a set rate, verified before the map changes, read only then.
//!
//! - [`Mover`]: `passes` copy and verify, `shard` takes a shard from a server to another, step by step
//! - `check`: what is refused
//!
//! How far it came stands in the map ([`crate::model::Stage`]), and what was copied by then stays, so whoever was stopped is run
//! again and goes on.

mod check;
mod passes;
mod shard;

use std::{sync::Arc, time::Duration};

pub use check::{is_empty, only_source, spare, target};

use super::context::Context;
use crate::{
    client::Servers,
    model::size,
    scrub::{Carried, ScrubError},
};

/// How servers are filled.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Copying")]
pub struct FillArgs {
    /// Bytes copied per second at most: readers and uploads need the disks too. 0: as fast as it goes
    #[arg(long, env = "BACKPACK_FILL_RATE", default_value = "32mb", value_name = "SIZE", value_parser = size::parse)]
    rate: u64,
    /// Copies made at the same time
    #[arg(
        long,
        env = "BACKPACK_FILL_AT_ONCE",
        default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..=256),
        value_name = "COUNT"
    )]
    at_once: u16,
    /// Seconds in which coordinators, and whoever writes nginx's configuration, surely see that the map changed
    #[arg(long, env = "BACKPACK_FILL_GRACE", default_value_t = 10, value_name = "SECONDS")]
    grace: u64,
}

/// Fills servers and moves shards.
pub struct Mover<'a> {
    /// Where the map is.
    pub context: &'a Context,
    /// How fast.
    pub args: &'a FillArgs,
    servers: Arc<Servers>,
}

impl<'a> Mover<'a> {
    /// Does nothing yet.
    pub fn new(context: &'a Context, args: &'a FillArgs) -> Self {
        Self { context, args, servers: Arc::new(Servers::default()) }
    }

    /// Waits until everybody knows how the map is now.
    pub async fn grace(&self) {
        tokio::time::sleep(Duration::from_secs(self.args.grace)).await;
    }
}

/// What was copied, and how often all was gone over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filled {
    /// In all passes.
    pub carried: Carried,
    /// The last of them found nothing that should have been there before it.
    pub passes: u32,
    /// Keys that the last pass went over.
    pub keys: u64,
}

impl Filled {
    /// For people.
    pub fn sentence(&self) -> String {
        let Carried { copies, bytes, deletes, .. } = self.carried;
        let deletes = if deletes > 0 { format!(" and {deletes} deletes") } else { String::new() };
        format!("{copies} copies ({}){deletes} made, {} keys verified", size::format(bytes), self.keys)
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let Carried { copies, bytes, deletes, .. } = self.carried;
        serde_json::json!({
            "copies": copies, "bytes": bytes, "deletes": deletes, "keys": self.keys, "passes": self.passes,
        })
    }

    /// Adds what was done in another place.
    pub fn add(&mut self, other: &Self) {
        self.carried.copies += other.carried.copies;
        self.carried.bytes += other.carried.bytes;
        self.carried.deletes += other.carried.deletes;
        self.passes += other.passes;
        self.keys = self.keys.max(other.keys);
    }
}

/// What to say where a comparison fails, whatever the reason.
fn broken_off(error: ScrubError) -> anyhow::Error {
    anyhow::Error::new(error)
        .context("what was copied stays, and the map tells how far it came: run it again")
}
