//! `coordinator-init`: makes the empty maps and names the queue, each where it is missing.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    queue_place::{QueuePlace, describe},
    report::Report,
};
use crate::{
    cluster::edit::{self, InitReport, Made},
    model::QueueInfo,
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backpack-admin coordinator-init zk1:2181 /backpack backpack-queue redis1:6379,redis2:6379"
)]
pub struct CoordinatorInit {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    queue: QueuePlace,
}

impl CoordinatorInit {
    /// Does it. What exists stays as it is.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let wanted = self.queue.info(&self.cluster.zk_servers)?;
        let context = Context::connect_to_init(&self.cluster).await?;
        let done = edit::init(&*context.store, &wanted).await?;
        let current = context.map().await?.queue.clone();
        Ok(report(&done, &wanted, current.as_ref()))
    }
}

fn report(done: &InitReport, wanted: &QueueInfo, current: Option<&QueueInfo>) -> Report {
    let line = |what: &str, made| match made {
        Made::New => format!("{what} initialized"),
        Made::Existed => format!("{what} already initialized"),
    };
    let mut lines = vec![
        line("Servers map", done.servers_map),
        line("Shards map", done.shards_map),
        line("Queue", done.queue),
    ];
    if let Some(current) = current.filter(|current| *current != wanted) {
        lines.push(format!("The queue stays {}: change it with set-queue.", describe(current)));
    }
    let new = |made| made == Made::New;
    let made = json!({
        "servers_map": new(done.servers_map), "shards_map": new(done.shards_map), "queue": new(done.queue),
    });
    Report::new(lines.join("\n"), json!({ "made": made }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_made_and_what_was_there() {
        let queue = |key: &str| QueueInfo { key: key.into(), servers: vec![] };
        let done = InitReport { servers_map: Made::New, shards_map: Made::New, queue: Made::New };
        let said = report(&done, &queue("q"), Some(&queue("q")));
        assert_eq!(said.text, "Servers map initialized\nShards map initialized\nQueue initialized");
        let done = InitReport { servers_map: Made::Existed, shards_map: Made::New, queue: Made::Existed };
        let said = report(&done, &queue("other"), Some(&queue("q")));
        assert_eq!(
            said.text,
            "Servers map already initialized\nShards map initialized\nQueue already initialized\n\
             The queue stays q in the data folder: change it with set-queue."
        );
        assert_eq!(said.json["made"]["shards_map"], true);
    }
}
