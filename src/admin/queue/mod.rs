//! `queue ...`: what an operator sees and does of the copies still to be made. One file per command.
//!
//! - [`QueueCommand`]: the commands
//! - `place`: the arguments they share; `wanted`: which tasks or dead letters are meant

mod dead;
mod discard;
mod list;
mod pause;
mod place;
mod push;
mod redrive;
mod resume;
mod stats;
mod wanted;

use super::report::Report;

pub(super) use stats::{figures, summary, targets_table};

/// The commands about the queue.
#[derive(Debug, clap::Subcommand)]
pub enum QueueCommand {
    /// Counts, ages and states, per target and per Redis server
    Stats(stats::Stats),
    /// Lists tasks that wait or are worked on
    List(list::List),
    /// Lists dead letters: tasks that were given up
    Dead(dead::Dead),
    /// Gives dead letters out again, with no tries counted
    Redrive(redrive::Redrive),
    /// Removes dead letters for good; the copies they stood for are not made
    Discard(discard::Discard),
    /// Gives out no more tasks of a target, until resumed
    Pause(pause::Pause),
    /// Ends a pause
    Resume(resume::Resume),
    /// Adds a copy by hand: of whatever version the first source holds that has the blob
    Push(push::Push),
}

impl QueueCommand {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        match self {
            Self::Stats(command) => command.run().await,
            Self::List(command) => command.run().await,
            Self::Dead(command) => command.run().await,
            Self::Redrive(command) => command.run().await,
            Self::Discard(command) => command.run().await,
            Self::Pause(command) => command.run().await,
            Self::Resume(command) => command.run().await,
            Self::Push(command) => command.run().await,
        }
    }
}
