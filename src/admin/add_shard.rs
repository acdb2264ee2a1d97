//! `add-shard`: makes a shard of servers, read-only at first.

use std::str::FromStr;

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    report::Report,
    server_list::{ServerList, join},
};
use crate::{
    cluster::edit::{self, NewShard, Outcome},
    model::{PoolName, Shard, ShardId, size},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin add-shard zk1:2181 /backpack 1 1,4 100gb")]
pub struct AddShard {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the shard
    #[arg(value_name = "ID")]
    id: ShardId,
    /// Its servers, which must be in the map; each holds one copy of every blob
    #[arg(value_name = "SERVER,SERVER,...")]
    servers: ServerList,
    /// Bytes it may hold, one copy counted: 100gb, 1.5tb (powers of 1024)
    #[arg(value_name = "CAPACITY")]
    capacity: Capacity,
    /// Pool the shard belongs to [default: the pool it has, or 'default']
    #[arg(long, env = "BACKPACK_SHARD_POOL", value_name = "NAME")]
    pool: Option<PoolName>,
    /// Let it share servers with other shards, and let the servers of an existing shard change
    #[arg(long, env = "BACKPACK_SHARD_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,
}

impl AddShard {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let new = NewShard {
            id: self.id.clone(),
            servers: self.servers.0.clone(),
            capacity: self.capacity.bytes,
            pool: self.pool.clone(),
        };
        let context = Context::connect(&self.cluster).await?;
        let before = context.map().await?.shards.get(&self.id).cloned();
        let outcome = edit::add_shard(&*context.store, &new, self.force).await?;
        Ok(self.report(before.as_deref(), outcome))
    }

    fn report(&self, before: Option<&Shard>, outcome: Outcome) -> Report {
        let sentence = format!(
            "Made shard {} of size {} that consist of nodes {}",
            self.id, self.capacity.typed, self.servers
        );
        let json = json!({
            "shard": {"id": self.id, "servers": self.servers.0},
            "existed": before.is_some(),
            "changed": outcome == Outcome::Changed,
        });
        Report::edit(sentence, self.hints(before, outcome), json)
    }

    fn hints(&self, before: Option<&Shard>, outcome: Outcome) -> Vec<String> {
        let mut lines = Vec::new();
        match before {
            None => {
                let enable = self.cluster.command("enable-shard", self.id.as_str());
                lines.push(format!("It takes no uploads until you enable it: {enable}"));
            }
            Some(_) if outcome == Outcome::Unchanged => {
                lines.push("It was there already: nothing changed.".to_owned());
            }
            Some(before) if before.servers != self.servers.0 => {
                lines.push(format!(
                    "Its servers were {} before: no blob was moved, so copy what the new ones lack.",
                    join(&before.servers, ",")
                ));
            }
            Some(_) => {}
        }
        if let Some(kept) =
            before.and_then(|before| before.size).filter(|kept| kept.capacity != self.capacity.bytes)
        {
            lines.push(format!("It keeps its capacity of {}.", size::format(kept.capacity)));
        }
        if self.servers.0.len() == 1 {
            lines.push("It has one server, so there is no second copy of its blobs.".to_owned());
        }
        lines
    }
}

/// A capacity, as it was typed and in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Capacity {
    typed: String,
    bytes: u64,
}

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match size::parse(text) {
            Ok(0) => Err("a shard must have room for something: write for example 100gb".into()),
            Ok(bytes) => Ok(Self { typed: text.to_owned(), bytes }),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::map::ShardSize;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        add: AddShard,
    }

    fn parse(args: &str) -> Result<AddShard, clap::Error> {
        Program::try_parse_from(format!("program zk /b {args}").split(' ')).map(|program| program.add)
    }

    fn shard(servers: &[&str], capacity: u64) -> Shard {
        Shard {
            id: "1".parse().unwrap(),
            servers: servers.iter().map(|id| id.parse().unwrap()).collect(),
            stages: Default::default(),
            read_only: false,
            pool: PoolName::default(),
            size: Some(ShardSize { capacity, used: 0 }),
        }
    }

    #[test]
    fn arguments_are_read_as_the_original_reads_them() {
        let add = parse("1 1,4 100gb").unwrap();
        assert_eq!(add.servers.to_string(), "1,4");
        assert_eq!(add.capacity.bytes, 100 << 30);
        for wrong in ["1 1,4 ten", "1 1,4 0", "1 1,,4 1gb", "a/b 1 1gb", "1 1,4", "1 1,4 1gb more"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn says_the_original_sentence_and_what_happened() {
        let add = parse("1 1,4 100gb").unwrap();
        let said = |before: Option<&Shard>, outcome| add.report(before, outcome).text;
        assert_eq!(
            said(None, Outcome::Changed),
            "Made shard 1 of size 100gb that consist of nodes 1,4\n\
             It takes no uploads until you enable it: backpack-admin enable-shard zk /b 1"
        );
        assert!(said(Some(&shard(&["1", "4"], 100 << 30)), Outcome::Unchanged).ends_with("nothing changed."));
        let other = said(Some(&shard(&["1", "5"], 1 << 30)), Outcome::Changed);
        assert!(other.contains("were 1,5 before") && other.contains("keeps its capacity of 1gb"), "{other}");
    }
}
