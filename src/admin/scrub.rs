//! `scrub`: compares what the servers of each shard hold, and puts the copies and deletes that are missing on the queue.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    context::{ClusterArgs, Context},
    order,
    report::Report,
};
use crate::{
    client::Servers,
    http::RequestId,
    model::{ClusterMap, ServerId, Shard, ShardId},
    queue::QueueArgs,
    scrub::{Found, Keeper, Scrub, Sink},
};

/// Between two lines about how far it is.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// On a terminal somebody looks on.
const LINE_EVERY_ON_A_TERMINAL: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "\
Example:
  backpack-admin scrub zk1:2181 /backpack --shard 1 --dry-run

The servers send digests of what they hold, and the keys of what differs; no blobs. The replicators then make the copies. It can be
stopped at any time, and goes on where it was when it is run again. Replicators do the same by themselves.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct ScrubShards {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Only this shard; give it again for more
    #[arg(long, env = "BACKPACK_SCRUB_SHARD", value_name = "ID", value_delimiter = ',')]
    shard: Vec<ShardId>,
    /// Only what this server lacks
    #[arg(long, env = "BACKPACK_SCRUB_SERVER", value_name = "ID")]
    server: Option<ServerId>,
    /// Say what is missing, and queue nothing
    #[arg(long, env = "BACKPACK_SCRUB_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    queue: QueueArgs,
}

impl ScrubShards {
    /// Does it. Fails where a shard could not be compared.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let map = context.map().await?;
        let shards = self.chosen(&map)?;
        let sink = if self.dry_run { Sink::Nowhere } else { Sink::Queue(context.queue(&map, &self.queue)?) };
        let servers = Arc::new(Servers::default());
        let by = format!("backpack-admin {}", RequestId::fresh().as_str());
        let mut compared = BTreeMap::new();
        for shard in shards {
            if shard.servers.len() < 2 {
                compared.insert(shard.id.clone(), (Ok(None), Duration::ZERO));
                continue;
            }
            let lines = Lines::new(&shard.id);
            let scrub = Scrub {
                map: &map,
                shard,
                only: self.server.as_ref(),
                servers: servers.clone(),
                sink: sink.clone(),
                // Somebody looks on, who can end it.
                patience: Duration::MAX,
                progress: &|found| lines.now_and_then(found),
            };
            let started = Instant::now();
            let keeper = Keeper::new(context.store.clone(), shard.id.clone(), by.clone());
            let found = scrub.run(keeper).await.map(Some).map_err(|error| error.to_string());
            compared.insert(shard.id.clone(), (found, started.elapsed()));
        }
        let report = report(&compared, self.dry_run);
        if compared.values().any(|(found, _)| found.is_err()) {
            bail!("not every shard could be compared\n{}", report.text);
        }
        Ok(report)
    }

    fn chosen<'a>(&self, map: &'a ClusterMap) -> anyhow::Result<Vec<&'a Shard>> {
        let mut shards = order::chosen(map, &self.shard)?;
        if let Some(server) = &self.server {
            if !map.servers.contains_key(server) {
                bail!("unknown server {server}: status lists those of the map");
            }
            shards.retain(|shard| shard.servers.contains(server));
        }
        Ok(shards)
    }
}

/// What is printed while a shard is compared.
struct Lines<'a> {
    shard: &'a ShardId,
    every: Duration,
    last: Mutex<Instant>,
}

impl<'a> Lines<'a> {
    fn new(shard: &'a ShardId) -> Self {
        let every = if stderr().is_terminal() { LINE_EVERY_ON_A_TERMINAL } else { LINE_EVERY };
        Self { shard, every, last: Mutex::new(Instant::now()) }
    }

    fn now_and_then(&self, found: &Found) {
        let mut last = self.last.lock();
        if last.elapsed() >= self.every {
            *last = Instant::now();
            let (keys, differences) = (found.keys, found.differences());
            eprintln!("Shard {}: {keys} keys compared, {differences} differences so far", self.shard);
        }
    }
}

/// What came out of a shard: nothing where there is nothing to compare.
type Outcome = Result<Option<Found>, String>;

fn report(compared: &BTreeMap<ShardId, (Outcome, Duration)>, dry_run: bool) -> Report {
    let lines = compared.iter().map(|(shard, (found, took))| match found {
        Ok(Some(found)) => {
            format!("Shard {shard}: {} ({:.1} s)", sentence(found, dry_run), took.as_secs_f64())
        }
        Ok(None) => format!("Shard {shard}: it has one server, and nothing to compare it with"),
        Err(why) => format!("Shard {shard}: not compared: {why}"),
    });
    let lines: Vec<String> = lines.collect();
    let json = |shard: &ShardId, found: &Outcome, took: &Duration| -> Value {
        match found {
            Ok(found) => json!({"shard": shard, "seconds": took.as_secs_f64(), "found": found}),
            Err(why) => json!({"shard": shard, "seconds": took.as_secs_f64(), "error": why}),
        }
    };
    let shards: Vec<Value> = compared.iter().map(|(shard, (found, took))| json(shard, found, took)).collect();
    let text = if lines.is_empty() { "There is no shard to compare.".to_owned() } else { lines.join("\n") };
    Report::new(text, json!({"dry_run": dry_run, "shards": shards}))
}

fn sentence(found: &Found, dry_run: bool) -> String {
    let parts = [
        (found.missing_copies, "copies missing"),
        (found.missing_deletes, "deletes missing"),
        (found.damaged, "damaged"),
        (found.conflicts, "with different bytes of one version (see the log; nothing is done)"),
    ];
    let differences: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let mut sentence = format!("{} keys compared, ", found.keys);
    if differences.is_empty() {
        sentence += "no difference";
    } else {
        sentence += &differences.join(", ");
        sentence += &match (dry_run, found.already_queued) {
            (true, _) => "; nothing was queued (--dry-run)".to_owned(),
            (false, 0) => format!("; {} queued", found.queued),
            (false, already) => format!("; {} queued, {already} were already", found.queued),
        };
    }
    for server in &found.who.asked {
        sentence += &format!(
            "; server {server} cannot list, so it was asked key by key: what it holds too much is not seen"
        );
    }
    for (server, why) in &found.who.left_out {
        sentence += &format!("; server {server} was not compared: it {why}");
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_says_what_was_found_and_what_was_not_looked_at() {
        let mut found = Found { keys: 7, ..Found::default() };
        assert_eq!(sentence(&found, false), "7 keys compared, no difference");
        found.missing_copies = 3;
        found.damaged = 1;
        found.queued = 4;
        assert_eq!(sentence(&found, false), "7 keys compared, 3 copies missing, 1 damaged; 4 queued");
        found.already_queued = 2;
        found.who.left_out.insert("4".parse().unwrap(), "does not answer: refused".into());
        assert_eq!(
            sentence(&found, false),
            "7 keys compared, 3 copies missing, 1 damaged; 4 queued, 2 were already; server 4 was not compared: it does not \
             answer: refused"
        );
        assert!(sentence(&found, true).contains("nothing was queued (--dry-run)"));
    }

    #[test]
    fn a_shard_that_was_not_compared_says_why() {
        let outcomes = [("1", Err("no answer".to_owned())), ("2", Ok(None))];
        let compared = outcomes.map(|(id, outcome)| (id.parse().unwrap(), (outcome, Duration::ZERO)));
        let report = report(&compared.into(), false);
        let expected =
            "Shard 1: not compared: no answer\nShard 2: it has one server, and nothing to compare it with";
        assert_eq!(report.text, expected);
        assert_eq!(report.json["shards"][0]["error"], "no answer");
        assert!(report.json["shards"][1]["found"].is_null());
    }
}
