//! The tables.

use super::Snapshot;
use crate::{
    admin::{
        age, order,
        percent::percent,
        print_stats::{fullness, overall},
        probe::Answer,
        queue::{summary, targets_table},
        queue_place::describe,
        table::table,
    },
    model::{Server, Shard, size},
    scrub::Deficit,
};

/// Characters of a bar that is full.
const BAR_WIDTH: u64 = 20;

/// The screen: servers, shards, queue, and at its end, where the eye rests, what needs attention.
pub fn text(seen: &Snapshot, attention: &[String]) -> String {
    let attention = match attention {
        [] => "Nothing needs attention.".to_owned(),
        sentences => format!("Needs attention:\n- {}", sentences.join("\n- ")),
    };
    [servers(seen), shards(seen), queue(seen), attention].join("\n\n")
}

fn servers(seen: &Snapshot) -> String {
    let up = seen.answers.values().filter(|answer| !matches!(answer, Answer::Down(_))).count();
    let heading = format!("Servers: {up} of {} answer", seen.map.servers.len());
    if seen.map.servers.is_empty() {
        return heading;
    }
    let rows = order::servers(&seen.map).into_iter().map(|server| server_row(seen, server));
    let headings = ["SERVER", "ADDRESS", "STATE", "ANNOUNCED", "VERSION", ">FREE DISK", ">BLOBS", ">HOLDS"];
    format!("{heading}\n{}", table(&headings, rows))
}

fn server_row(seen: &Snapshot, server: &Server) -> Vec<String> {
    let unknown = || "-".to_owned();
    let (state, figures) = match seen.answers.get(&server.id) {
        Some(Answer::Node(stats)) => {
            let figures = [
                stats.version.clone(),
                size::format(stats.free_bytes),
                stats.blobs.to_string(),
                size::format(stats.blob_bytes),
            ];
            (if stats.read_only.is_some() { "read-only" } else { "up" }, figures)
        }
        Some(Answer::Other) => ("up", [(); 4].map(|()| unknown())),
        Some(Answer::Down(_)) | None => ("down", [(); 4].map(|()| unknown())),
    };
    let announced = if seen.map.live.contains(&server.id) { "yes" } else { "-" };
    let start = [server.id.as_str(), &server.authority(), state, announced].map(str::to_owned);
    start.into_iter().chain(figures).collect()
}

fn shards(seen: &Snapshot) -> String {
    let map = &seen.map;
    let writable = map.shards.values().filter(|shard| shard.is_writable()).count();
    let heading = format!("Shards: {writable} of {} take uploads", map.shards.len());
    if map.shards.is_empty() {
        return heading;
    }
    let deficits = seen.deficits();
    let rows = order::shards(map).into_iter().map(|shard| shard_row(shard, deficits.get(&shard.id)));
    let headings = ["SHARD", "SERVERS", "POOL", "STATE", ">USED", ">CAPACITY", "FULL", ">MISSING"];
    format!(
        "{heading}\n{}\nOverall: {}\n{}",
        table(&headings, rows),
        fullness(overall(map)),
        missing_line(deficits.values())
    )
}

/// The number that is 0 when all is whole.
fn missing_line<'a>(deficits: impl Iterator<Item = &'a Deficit> + Clone) -> String {
    let missing: Option<u64> = deficits.clone().map(Deficit::lacking).sum();
    let unsure = deficits.clone().filter(|deficit| !deficit.unsure.is_empty()).count();
    let missing = missing.map_or_else(|| "unknown".to_owned(), |missing| missing.to_string());
    let since = deficits.filter_map(|deficit| deficit.oldest_ms).min();
    let since = since.map(|ms| format!(", the oldest for {}", age::since(ms))).unwrap_or_default();
    let more = match unsure {
        0 => String::new(),
        1 => "; one shard may lack more, see below".to_owned(),
        unsure => format!("; {unsure} shards may lack more, see below"),
    };
    format!("Missing copies: {missing}{since}{more}")
}

fn shard_row(shard: &Shard, deficit: Option<&Deficit>) -> Vec<String> {
    let servers = shard.servers.iter().map(|id| match shard.stages.get(id) {
        Some(stage) => format!("{id} ({stage})"),
        None => id.to_string(),
    });
    let servers = servers.collect::<Vec<_>>().join(", ");
    let [used, capacity, full] = match shard.size {
        Some(known) => [size::format(known.used), size::format(known.capacity), bar(percent(known))],
        None => ["?", "?", "size unknown"].map(str::to_owned),
    };
    let state = match shard {
        shard if shard.read_only => "read-only",
        shard if shard.is_writable() => "writable",
        Shard { size: None, .. } => "no size",
        _ => "full",
    };
    let lacks = match deficit.map(|deficit| (deficit.lacking(), deficit.unsure.is_empty())) {
        Some((Some(missing), true)) => missing.to_string(),
        Some((Some(missing), false)) => format!("{missing}+?"),
        Some((None, _)) | None => "?".to_owned(),
    };
    vec![shard.id.to_string(), servers, shard.pool.to_string(), state.to_owned(), used, capacity, full, lacks]
}

fn bar(percent: u64) -> String {
    let filled = (percent * BAR_WIDTH).div_ceil(100).min(BAR_WIDTH) as usize;
    let empty = BAR_WIDTH as usize - filled;
    format!("[{}{}] {percent}%", "#".repeat(filled), ".".repeat(empty))
}

fn queue(seen: &Snapshot) -> String {
    let name = seen.map.queue.as_ref().map(|queue| format!(" {}", describe(queue))).unwrap_or_default();
    match &seen.queue {
        Ok(stats) if stats.targets.is_empty() => format!("Queue{name}: {}", summary(stats)),
        Ok(stats) => format!("Queue{name}: {}\n{}", summary(stats), targets_table(stats)),
        Err(error) => format!("Queue{name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        admin::{probe::NodeStats, tests::map},
        queue::QueueStats,
        scrub::Known,
    };

    #[test]
    fn the_screen_shows_everything() {
        let node = NodeStats {
            blob_bytes: 3 << 19,
            blobs: 7,
            free_bytes: 5 << 30,
            version: "0.1.0".into(),
            ..NodeStats::default()
        };
        let answers = BTreeMap::from([
            ("1".parse().unwrap(), Answer::Node(node)),
            ("2".parse().unwrap(), Answer::Other),
            ("3".parse().unwrap(), Answer::Down("cannot connect".into())),
            ("4".parse().unwrap(), Answer::Other),
        ]);
        let seen = Snapshot {
            map: Arc::new(map()),
            answers,
            queue: Ok(QueueStats::default()),
            known: Known::default(),
        };
        assert_eq!(
            text(&seen, &["Look.".into()]),
            "\
Servers: 3 of 4 answer
SERVER  ADDRESS          STATE  ANNOUNCED  VERSION  FREE DISK  BLOBS  HOLDS
1       127.0.0.1:10001  up     yes        0.1.0          5gb      7  1.5mb
2       127.0.0.1:10002  up     -          -                -      -      -
3       [::1]:10003      down   -          -                -      -      -
4       127.0.0.1:10004  up     -          -                -      -      -

Shards: 2 of 3 take uploads
SHARD  SERVERS  POOL     STATE       USED  CAPACITY  FULL                        MISSING
1      1, 4     default  writable   1.5mb     100gb  [....................] 0%       0+?
2      2, 9     default  read-only      ?         ?  size unknown                    0+?
10     3        default  writable    50gb     100gb  [##########..........] 50%        0
Overall: 50gb / 200gb (25%)
Missing copies: 0; 2 shards may lack more, see below

Queue backpack-queue on 127.0.0.1:6379: 0 to copy, 0 given up

Needs attention:
- Look."
        );
    }

    #[test]
    fn bars_are_full_only_when_the_shard_is() {
        assert_eq!(bar(1), "[#...................] 1%");
        assert_eq!(bar(95), "[###################.] 95%");
        assert_eq!(bar(150), format!("[{}] 150%", "#".repeat(20)));
    }
}
