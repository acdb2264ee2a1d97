//! `queue stats`: how many copies are still to be made, for whom, and since when.

use serde_json::{Value, json};

use super::place::Place;
use crate::{
    admin::{age, order::in_order, queue_place::describe, report::Report, table::table},
    model::QueueInfo,
    queue::{QueueServerStats, QueueStats},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue stats zk1:2181 /backpack")]
pub struct Stats {
    #[command(flatten)]
    place: Place,
}

impl Stats {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        let stats = reached.queue.stats().await?;
        Ok(report(reached.map.queue.as_ref(), &stats))
    }
}

fn report(info: Option<&QueueInfo>, stats: &QueueStats) -> Report {
    let mut text = format!("Queue {}: {}\n", info.map(describe).unwrap_or_default(), summary(stats));
    if !stats.targets.is_empty() {
        text += &format!("\n{}\n", targets_table(stats));
    }
    text += &format!("\n{}", servers_table(&stats.servers));
    Report::new(text, figures(stats))
}

/// The figures for programs.
pub fn figures(stats: &QueueStats) -> Value {
    json!({
        "backlog": stats.backlog(), "dead": stats.dead(), "oldest_ms": stats.oldest_ms(),
        "targets": stats.targets, "servers": stats.servers, "poison": stats.poison,
    })
}

/// The whole queue in half a line.
pub fn summary(stats: &QueueStats) -> String {
    let oldest = stats.oldest_ms().map(|then| format!(", the oldest for {}", age::since(then)));
    format!("{} to copy{}, {} given up", stats.backlog(), oldest.unwrap_or_default(), stats.dead())
}

/// One row per target that has tasks, dead letters or a pause.
pub fn targets_table(stats: &QueueStats) -> String {
    let targets = in_order(&stats.targets, |(id, _)| id.as_str()).into_iter().map(|(id, target)| {
        vec![
            id.to_string(),
            target.ready.to_string(),
            target.delayed.to_string(),
            target.claimed.to_string(),
            target.dead.to_string(),
            target.oldest_ms.map_or_else(|| "-".to_owned(), age::since),
            if target.paused { "paused" } else { "running" }.to_owned(),
        ]
    });
    table(&["TARGET", ">READY", ">DELAYED", ">CLAIMED", ">DEAD", ">OLDEST", "STATE"], targets)
}

fn servers_table(servers: &[QueueServerStats]) -> String {
    let rows = servers.iter().map(|server| {
        let state = server.error.clone().unwrap_or_else(|| "answers".to_owned());
        vec![server.name.clone(), server.entries.to_string(), state]
    });
    table(&["QUEUE SERVER", ">ENTRIES", "STATE"], rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::queue::TargetStats;

    #[test]
    fn counts_are_shown_per_target_and_server() {
        let target = |ready, paused| TargetStats { ready, dead: 1, paused, ..TargetStats::default() };
        let targets = [("10", target(2, true)), ("9", target(3, false))];
        let server = |name: &str, error: Option<&str>| QueueServerStats {
            name: name.into(),
            id: None,
            error: error.map(str::to_owned),
            entries: 5,
        };
        let stats = QueueStats {
            targets: BTreeMap::from(targets.map(|(id, target)| (id.parse().unwrap(), target))),
            servers: vec![server("one:1", None), server("two:1", Some("no answer"))],
            poison: 1,
        };
        let info = QueueInfo { key: "q".into(), servers: vec![] };
        let said = report(Some(&info), &stats);
        assert_eq!(
            said.text,
            "Queue q in the data folder: 5 to copy, 3 given up\n\n\
             TARGET  READY  DELAYED  CLAIMED  DEAD  OLDEST  STATE\n\
             9           3        0        0     1       -  running\n\
             10          2        0        0     1       -  paused\n\n\
             QUEUE SERVER  ENTRIES  STATE\n\
             one:1               5  answers\n\
             two:1               5  no answer"
        );
        assert_eq!(said.json["backlog"], 5);
        assert_eq!(said.json["targets"]["10"]["paused"], true);
    }
}
