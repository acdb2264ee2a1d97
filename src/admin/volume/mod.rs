//! `volume ...`: the data directory of one node, seen from outside. One file per command. They need neither ZooKeeper nor
//! Redis, and none of them but the last two changes anything in the directory.
//!
//! - [`VolumeCommand`]: the commands
//! - `place`: their argument; `show`: keys and metadata as they are printed

mod compact;
mod dump;
mod list;
mod place;
mod rebuild_index;
mod show;
mod verify;

pub use verify::DamageFound;

use super::report::{Form, Report};

/// The commands about a data directory.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Lists the volumes and how much of each is still needed
    List(list::List),
    /// Prints a line for every record of the volumes
    Dump(dump::Dump),
    /// Reads every byte and compares it with its checksums; exit code 3 if anything is damaged
    Verify(verify::Verify),
    /// Saves a new index, made of what the volumes say; the node must not run
    RebuildIndex(rebuild_index::RebuildIndex),
    /// Gives back the space of overwritten and deleted blobs; the node must not run
    Compact(compact::Compact),
}

impl VolumeCommand {
    /// Does it; the report is `None` of commands that print while they run.
    pub async fn run(self, form: Form) -> anyhow::Result<Option<Report>> {
        // All of it waits for a disk and nothing else.
        let work = tokio::task::spawn_blocking(move || match self {
            Self::List(command) => command.run().map(Some),
            Self::Dump(command) => command.run(form).map(|()| None),
            Self::Verify(command) => command.run(form).map(|()| None),
            Self::RebuildIndex(command) => command.run().map(Some),
            Self::Compact(command) => command.run(form).map(|()| None),
        });
        work.await?
    }
}
