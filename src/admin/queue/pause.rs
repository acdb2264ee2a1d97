//! `queue pause`: gives out no more tasks of a target until `queue resume`; kept over restarts.

use serde_json::json;

use super::place::{Place, unknown_hint};
use crate::{admin::report::Report, model::ServerId};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue pause zk1:2181 /backpack 4")]
pub struct Pause {
    #[command(flatten)]
    place: Place,
    /// The target server
    #[arg(value_name = "SERVER")]
    target: ServerId,
}

impl Pause {
    /// Does it. Doing it twice is harmless.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        reached.queue.pause(&self.target).await?;
        let resume = format!("{} {}", self.place.command("resume"), self.target);
        let mut more = vec![format!("What is in work is finished. End the pause with: {resume}")];
        more.extend(unknown_hint(&reached.map, &self.target));
        let sentence = format!("Tasks of server {} are paused", self.target);
        Ok(Report::edit(sentence, more, json!({"target": self.target, "paused": true})))
    }
}
