//! `queue resume`: gives out the tasks of a target again.

use serde_json::json;

use super::place::{Place, unknown_hint};
use crate::{admin::report::Report, model::ServerId};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue resume zk1:2181 /backpack 4")]
pub struct Resume {
    #[command(flatten)]
    place: Place,
    /// The target server
    #[arg(value_name = "SERVER")]
    target: ServerId,
}

impl Resume {
    /// Does it. Doing it twice is harmless.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        reached.queue.resume(&self.target).await?;
        let more = unknown_hint(&reached.map, &self.target).into_iter().collect();
        let sentence = format!("Tasks of server {} are given out", self.target);
        Ok(Report::edit(sentence, more, json!({"target": self.target, "paused": false})))
    }
}
