//! `set-queue`: says where the tasks are kept from now on.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    queue_place::{QueuePlace, describe},
    report::Report,
};
use crate::{
    cluster::edit::{self, Outcome},
    model::QueueInfo,
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backpack-admin set-queue zk1:2181 /backpack backpack-queue redis1:6379,redis2:6379"
)]
pub struct SetQueue {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    queue: QueuePlace,
}

impl SetQueue {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let wanted = self.queue.info(&self.cluster.zk_servers)?;
        let context = Context::connect(&self.cluster).await?;
        let before = context.map().await?.queue.clone();
        let outcome = edit::set_queue(&*context.store, &wanted).await?;
        Ok(report(before.as_ref(), &wanted, outcome))
    }
}

fn report(before: Option<&QueueInfo>, wanted: &QueueInfo, outcome: Outcome) -> Report {
    let mut more = Vec::new();
    match (before, outcome) {
        (_, Outcome::Unchanged) => more.push("It was so already: nothing changed.".to_owned()),
        (Some(before), Outcome::Changed) if loses(before, wanted) => more.push(format!(
            "It was {} before: tasks that wait there are no longer seen. Let them drain before you change it, or set it \
             back.",
            describe(before)
        )),
        _ => {}
    }
    let servers: Vec<String> = wanted.servers.iter().map(ToString::to_string).collect();
    let json = json!({
        "queue": {"key": wanted.key, "servers": servers},
        "changed": outcome == Outcome::Changed,
    });
    Report::edit("Queue info updated!".into(), more, json)
}

/// Whether tasks may wait where nobody looks any more.
fn loses(before: &QueueInfo, wanted: &QueueInfo) -> bool {
    before.key != wanted.key
        || before.servers.is_empty() != wanted.servers.is_empty()
        || before.servers.iter().any(|server| !wanted.servers.contains(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::address::redis_server;

    fn queue(key: &str, servers: &[&str]) -> QueueInfo {
        let servers = servers.iter().map(|server| redis_server(server).unwrap()).collect();
        QueueInfo { key: key.into(), servers }
    }

    #[test]
    fn says_the_original_sentence_and_warns_of_tasks_left_behind() {
        let before = queue("q", &["one", "two"]);
        let said = |wanted: &QueueInfo, outcome| report(Some(&before), wanted, outcome).text;
        assert!(said(&before, Outcome::Unchanged).ends_with("nothing changed."));
        assert_eq!(said(&queue("q", &["one", "two", "three"]), Outcome::Changed), "Queue info updated!");
        assert!(said(&queue("q", &["one"]), Outcome::Changed).contains("no longer seen"));
        assert!(said(&queue("other", &["one", "two"]), Outcome::Changed).contains("q on one:6379, two:6379"));
    }
}
