//! `status`: the whole cluster on one screen, and what needs attention.
//!
//! - [`Status`]: the command
//! - `attention`: what needs it, in plain sentences; `screen`: the tables

mod attention;
mod screen;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    context::{ClusterArgs, Context},
    order, print_stats,
    probe::{Answer, ask_all},
    queue::figures,
    report::Report,
};
use crate::{
    model::{ClusterMap, Server, ServerId, ShardId},
    queue::{QueueArgs, QueueStats},
    scrub::{self, Deficit, Known},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin status zk1:2181 /backpack")]
pub struct Status {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

/// What was seen at one moment.
struct Snapshot {
    map: Arc<ClusterMap>,
    /// Of every server of the map.
    answers: BTreeMap<ServerId, Answer>,
    /// Or why it cannot be seen.
    queue: Result<QueueStats, String>,
    /// What is known of the comparisons of servers.
    known: Known,
}

impl Snapshot {
    /// What is missing in each shard.
    fn deficits(&self) -> BTreeMap<ShardId, Deficit> {
        scrub::deficits(&self.known, &self.map, self.queue.as_ref().ok())
    }
}

impl Status {
    /// Does it. That something needs attention is no failure.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        let (answers, queue) =
            tokio::join!(ask_all(map.servers.values().cloned()), self.queue(&context, &map));
        let damaged = answers.iter().filter_map(|(id, answer)| match answer {
            Answer::Node(stats) => Some((id.clone(), stats.damaged)),
            Answer::Other | Answer::Down(_) => None,
        });
        let known = Known::read(&*context.store, &map).await?.with_damaged(damaged.collect());
        Ok(report(&Snapshot { map, answers, queue: queue.map_err(|error| format!("{error:#}")), known }))
    }

    async fn queue(&self, context: &Context, map: &ClusterMap) -> anyhow::Result<QueueStats> {
        Ok(context.queue(map, &self.queue)?.stats().await?)
    }
}

fn report(seen: &Snapshot) -> Report {
    let attention = attention::sentences(seen);
    let text = screen::text(seen, &attention);
    let servers = order::servers(&seen.map).into_iter().map(|server| server_json(seen, server));
    let servers: Vec<Value> = servers.collect();
    let queue = seen.queue.as_ref().map_or_else(|error| json!({ "error": error }), figures);
    let mut json = print_stats::report(&seen.map).json;
    json["servers"] = servers.into();
    json["queue"] = queue;
    json["deficits"] = json!(seen.deficits());
    json["attention"] = attention.into();
    Report::new(text, json)
}

fn server_json(seen: &Snapshot, server: &Server) -> Value {
    let id = &server.id;
    let (up, stats, error) = match seen.answers.get(id) {
        Some(Answer::Node(stats)) => (true, Some(stats), None),
        Some(Answer::Other) => (true, None, None),
        Some(Answer::Down(error)) => (false, None, Some(error)),
        None => (false, None, None),
    };
    json!({"id": id, "url": server.to_string(), "up": up, "announced": seen.map.live.contains(id), "stats": stats, "error": error})
}
