//! Goes over the servers of a shard again and again and copies what is missing, until nothing is.

use std::{sync::Arc, time::Duration};

use anyhow::bail;

use super::{Filled, Mover, broken_off};
use crate::{
    admin::{
        probe::{Answer, ask_all},
        progress::Progress,
    },
    cluster::edit,
    daemon::{Backoff, unix_ms},
    http::RequestId,
    model::{ClusterMap, ServerId, Shard, ShardId},
    scrub::{Carried, Carrier, Keeper, Looked, Scrub, Sink},
};

/// The first pass copies, the second verifies. More are needed where uploads overtake it, or copies fail now and then.
const MAX_PASSES: u32 = 20;
/// Between passes that are needed.
const BETWEEN: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(15) };

impl Mover<'_> {
    /// Copies to a server that joins a shard all that it lacks. Then it has joined it.
    pub async fn fill(&self, shard: &ShardId, server: &ServerId) -> anyhow::Result<Filled> {
        let map = self.context.map().await?;
        let Some(shard) = map.shards.get(shard) else { bail!("shard {shard} is gone from the map") };
        let Some(machine) = map.servers.get(server) else { bail!("server {server} is gone from the map") };
        let words = format!("shard {}: filling server {server}", shard.id);
        let filled = self.passes(&map, shard, Some(server), &words).await?;
        edit::filled(&*self.context.store, &shard.id, machine).await?;
        Ok(filled)
    }

    /// Copies to the other servers of a shard what only `from` has.
    pub async fn spread(&self, map: &ClusterMap, shard: &Shard, from: &ServerId) -> anyhow::Result<Filled> {
        self.passes(map, shard, None, &format!("shard {}: what only server {from} has", shard.id)).await
    }

    /// The last pass finds nothing missing that was written before the one before it began.
    async fn passes(
        &self,
        map: &ClusterMap,
        shard: &Shard,
        only: Option<&ServerId>,
        words: &str,
    ) -> anyhow::Result<Filled> {
        let progress = Arc::new(Progress::new(words));
        if let Some(server) = only {
            progress.expect_in_all(to_copy(map, shard, server).await);
        }
        let shown = progress.clone();
        let rate = (self.args.rate > 0).then_some(self.args.rate);
        let carrier =
            Carrier::new(self.servers.clone(), rate, usize::from(self.args.at_once), move |bytes| {
                shown.add(bytes);
            });
        let told =
            |found: &crate::scrub::Found| progress.say(format!("{words}, {} keys gone over", found.keys));
        let scrub = Scrub {
            map,
            shard,
            only,
            servers: self.servers.clone(),
            sink: Sink::Copies(&carrier),
            patience: Duration::ZERO,
            progress: &told,
        };
        let by = format!("backpack-admin {}", RequestId::fresh().as_str());
        let keeper = Keeper::new(self.context.store.clone(), shard.id.clone(), by);
        let (mut filled, mut before_ms, mut why) = (Filled::default(), None, String::new());
        for pass in 1..=MAX_PASSES {
            let began_ms = unix_ms();
            let looked = scrub.look(&keeper).await;
            let carried = carrier.take();
            filled.add(&Filled { carried: carried.clone(), passes: 1, keys: 0 });
            let looked = looked.map_err(broken_off)?;
            filled.keys = looked.found.keys;
            check_all_took_part(shard, &looked)?;
            match verdict(&looked, &carried, before_ms) {
                Ok(()) => {
                    progress.end();
                    return Ok(filled);
                }
                Err(still) => why = still,
            }
            before_ms = Some(began_ms);
            // After the first pass there always is a second one.
            tokio::time::sleep(if pass == 1 { Duration::ZERO } else { BETWEEN.jittered(pass - 1) }).await;
        }
        bail!(
            "{words}: after {MAX_PASSES} passes there still are differences ({why}). What was copied stays: run it again"
        )
    }
}

/// Whether nothing is missing that should have been there, else why not. `before_ms`: when the pass before this one began. What was
/// written since is on its way, as to every server of a shard.
fn verdict(looked: &Looked, carried: &Carried, before_ms: Option<u64>) -> Result<(), String> {
    let found = &looked.found;
    if carried.failed > 0 {
        return Err(carried.why.clone().unwrap_or_default());
    }
    let lacking = found.missing_copies + found.missing_deletes + found.damaged;
    if lacking == 0 || before_ms.is_some_and(|before_ms| looked.oldest_missing_ms >= before_ms) {
        return Ok(());
    }
    Err(format!(
        "{lacking} copies were missing. If uploads are faster than this, disable-shard for a while, or give a higher --rate"
    ))
}

/// What a server that does not take part holds could not be seen.
fn check_all_took_part(shard: &Shard, looked: &Looked) -> anyhow::Result<()> {
    let Some((server, why)) = looked.found.who.left_out.iter().next() else { return Ok(()) };
    bail!(
        "server {server} of shard {} {why}, so it cannot be seen what only that one has: run it again when it answers, or \
         replace-server it first",
        shard.id
    )
}

/// Bytes that a server lacks, as far as counters tell.
async fn to_copy(map: &ClusterMap, shard: &Shard, server: &ServerId) -> u64 {
    let used = shard.size.map_or(0, |size| size.used);
    let answers = ask_all(map.servers.get(server).cloned()).await;
    match answers.get(server) {
        Some(Answer::Node(stats)) => used.saturating_sub(stats.blob_bytes),
        _ => used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::Found;

    #[test]
    fn it_ends_when_nothing_is_missing_but_what_was_just_written() {
        let looked = |missing_copies, oldest_missing_ms| Looked {
            found: Found { missing_copies, ..Found::default() },
            oldest_missing_ms,
        };
        let whole = Carried::default();
        assert!(verdict(&looked(0, u64::MAX), &whole, None).is_ok(), "it was full already");
        assert!(verdict(&looked(3, 50), &whole, None).is_err(), "what was copied was not verified");
        assert!(verdict(&looked(3, 50), &whole, Some(60)).is_err());
        assert!(verdict(&looked(3, 60), &whole, Some(60)).is_ok());
        let failed = Carried { failed: 1, why: Some("no".into()), ..Carried::default() };
        assert_eq!(verdict(&looked(3, 60), &failed, Some(60)), Err("no".into()));
    }
}
