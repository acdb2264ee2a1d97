//! `queue push`: adds a copy by hand, in the words of the original's tasks: from-servers, to-server, path.

use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::place::Place;
use crate::{
    admin::{
        order::in_order,
        report::Report,
        server_list::{ServerList, join},
    },
    daemon::unix_ms,
    model::{ClusterMap, Key, Operation, ServerId, Task, key::KeyError},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue push zk1:2181 /backpack 1,2 4 /hi.txt")]
pub struct Push {
    #[command(flatten)]
    place: Place,
    /// Servers to copy from, the best first
    #[arg(value_name = "FROM,FROM,...")]
    from: ServerList,
    /// Server to copy to
    #[arg(value_name = "TO")]
    to: ServerId,
    /// Path of the blob on the servers
    #[arg(value_name = "/PATH", value_parser = path)]
    path: Key,
}

impl Push {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        self.check(&reached.map)?;
        let task = Task {
            op: Operation::Copy,
            shard: None,
            key: self.path.clone(),
            version: None,
            from: self.from.0.clone(),
            to: self.to.clone(),
            length: 0,
            created_ms: unix_ms(),
            request_id: String::new(),
        };
        reached.queue.push(std::slice::from_ref(&task), Duration::ZERO).await?;
        let sentence = format!("Pushed the copy of /{} from {} to {}", self.path, self.from, self.to);
        Ok(Report::edit(sentence, Vec::new(), json!({ "pushed": task })))
    }

    /// A task about servers that nobody knows could only become a dead letter.
    fn check(&self, map: &ClusterMap) -> anyhow::Result<()> {
        let named = self.from.0.iter().chain([&self.to]);
        let unknown: Vec<&ServerId> = named.filter(|id| !map.servers.contains_key(id)).collect();
        if !unknown.is_empty() {
            let known = in_order(map.servers.keys(), |id| id.as_str());
            bail!("unknown server {} (known are: {})", join(unknown, ", "), join(known, ", "));
        }
        if self.from.0.contains(&self.to) {
            bail!("server {} cannot be copied to from itself", self.to);
        }
        Ok(())
    }
}

/// A key, led by one slash or by none.
fn path(text: &str) -> Result<Key, KeyError> {
    text.strip_prefix('/').unwrap_or(text).parse()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::tests::map;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        push: Push,
    }

    fn parse(args: &str) -> Result<Push, clap::Error> {
        Program::try_parse_from(format!("program zk /b {args}").split(' ')).map(|program| program.push)
    }

    #[test]
    fn paths_are_keys_with_a_slash_in_front() {
        assert_eq!(parse("1,2 4 /hi.txt").unwrap().path.as_str(), "hi.txt");
        assert_eq!(parse("1 4 hi.txt?x=1").unwrap().path.as_str(), "hi.txt?x=1");
        assert!(parse("1 4 /").is_err() && parse("1 4").is_err() && parse("1 4 /a/../b").is_err());
    }

    #[test]
    fn only_servers_of_the_map_are_copied_between() {
        let refused = |args: &str| parse(args).unwrap().check(&map()).err().map(|error| error.to_string());
        assert_eq!(refused("1,2 4 /a"), None);
        assert_eq!(refused("1,7 8 /a").unwrap(), "unknown server 7, 8 (known are: 1, 2, 3, 4)");
        assert!(refused("1 1 /a").unwrap().contains("from itself"));
    }
}
