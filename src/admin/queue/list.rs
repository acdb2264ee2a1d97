//! `queue list`: the copies and deletes still to be made, one by one.

use super::{place::Place, wanted::Tasks};
use crate::{
    admin::{age, report::Report, server_list::join, table::table},
    model::{Operation, Task},
    queue::Listed,
};

/// Tasks shown where nobody says how many.
const DEFAULT_LIMIT: usize = 100;

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue list zk1:2181 /backpack --target 4")]
pub struct List {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    tasks: Tasks,
    /// At most so many
    #[arg(long, env = "BACKPACK_QUEUE_LIMIT", value_name = "COUNT", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
}

impl List {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        let listed = reached.queue.list(&self.tasks.filter(), self.limit).await?;
        Ok(report(&listed, self.limit))
    }
}

fn report(listed: &[Listed], limit: usize) -> Report {
    if listed.is_empty() {
        return Report::data("No such task waits.".into(), &listed);
    }
    let headings = ["TARGET", "STAGE", "WHAT", "KEY", "VERSION", "FROM", ">TRIES", ">AGE"];
    let mut text = table(&headings, listed.iter().map(row));
    if listed.len() >= limit {
        text += &format!("\nThese are the first {limit}: --limit shows more.");
    }
    Report::data(text, &listed)
}

fn row(listed: &Listed) -> Vec<String> {
    let task = &listed.task;
    vec![
        task.to.to_string(),
        listed.stage.name().to_owned(),
        operation(task).to_owned(),
        task.key.to_string(),
        version(task),
        if task.from.is_empty() { "-".to_owned() } else { join(&task.from, ",") },
        listed.attempts.to_string(),
        age::since(task.created_ms),
    ]
}

/// What a task does, in a word.
pub fn operation(task: &Task) -> &'static str {
    match task.op {
        Operation::Copy => "copy",
        Operation::Delete => "delete",
    }
}

/// Its version, or that any will do.
pub fn version(task: &Task) -> String {
    task.version.map_or_else(|| "any".to_owned(), |version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::unix_ms, queue::Stage};

    #[test]
    fn tasks_are_listed_up_to_the_limit() {
        let task = Task {
            op: Operation::Copy,
            shard: None,
            key: "a/b?x".parse().unwrap(),
            version: None,
            from: vec!["1".parse().unwrap(), "2".parse().unwrap()],
            to: "4".parse().unwrap(),
            length: 0,
            created_ms: unix_ms() - 120_500,
            request_id: String::new(),
        };
        let listed = [Listed { task, stage: Stage::Delayed, attempts: 3 }];
        let all = report(&listed, 100);
        assert_eq!(
            all.text,
            "TARGET  STAGE    WHAT  KEY    VERSION  FROM  TRIES    AGE\n\
             4       delayed  copy  a/b?x  any      1,2       3  2 min"
        );
        assert_eq!(all.json[0]["task"]["to"], "4");
        assert!(report(&listed, 1).text.ends_with("These are the first 1: --limit shows more."));
        assert_eq!(report(&[], 1).text, "No such task waits.");
    }
}
