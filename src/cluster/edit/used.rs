//! How much a shard holds. Coordinators add to it in batches, each batch exactly once: beside `current`, the size document
//! keeps the last batch of each coordinator (`"writers":{"<id>":[<seq>,<unix seconds>]}`, which the original ignores), so
//! that one whose connection broke in the middle can see whether its batch was added.

use serde_json::{Value, json};

use super::{Decision, EditError, Outcome, Read, change};
use crate::{
    cluster::{
        MapStore,
        format::{Document, size_path},
    },
    daemon::unix_ms,
    model::{ShardId, map::ShardSize},
};

/// A coordinator that has not added for this long has no batch of unknown outcome left.
const WRITER_KEPT_S: u64 = 3600;

/// The most coordinators that are remembered, the latest ones: the document stays small. More than this many could not
/// add to one document every second anyway.
const MAX_WRITERS: usize = 32;

/// Where the last batches stand.
const WRITERS: &str = "writers";

/// Names one batch of one coordinator. A batch of unknown outcome is tried again with the same stamp and the same
/// number of bytes, before the next one of that shard, which gets a greater `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterStamp {
    /// Names the coordinator for as long as its process lives: a ULID, for example.
    pub writer: String,
    /// Grows with each batch.
    pub seq: u64,
}

/// Adds `delta` bytes (negative ones take away, never below 0) to what a shard holds, exactly once per stamp. The size
/// afterwards. After [`EditError::Store`] and [`EditError::Busy`] try again later with the same stamp.
pub async fn add_used(
    store: &dyn MapStore,
    shard: &ShardId,
    delta: i64,
    stamp: &WriterStamp,
) -> Result<ShardSize, EditError> {
    let path = size_path(shard);
    let decide = |[size]: &[Read; 1]| {
        let (used, capacity) = sizes(shard, size)?;
        if seen(&size.document, stamp) {
            return Ok(Decision::keep(ShardSize { capacity, used }));
        }
        let used = used.saturating_add_signed(delta);
        let mut document = size.document.clone();
        document.set_used(used);
        note(&mut document, stamp, unix_ms() / 1000);
        Ok(Decision { edits: vec![size.write(&document)], result: ShardSize { capacity, used } })
    };
    Ok(change(store, [&path], decide).await?.0)
}

/// Sets how much a shard holds, whatever stood there: for `recount`.
pub async fn set_used(store: &dyn MapStore, shard: &ShardId, used: u64) -> Result<Outcome, EditError> {
    let path = size_path(shard);
    let decide = |[size]: &[Read; 1]| {
        if !size.exists() {
            return Err(EditError::NoSize { shard: shard.clone() });
        }
        if size.document.bytes("current") == Ok(used) {
            return Ok(Decision::keep(()));
        }
        let mut document = size.document.clone();
        document.set_used(used);
        Ok(Decision { edits: vec![size.write(&document)], result: () })
    };
    Ok(change(store, [&path], decide).await?.1)
}

fn sizes(shard: &ShardId, size: &Read) -> Result<(u64, u64), EditError> {
    if !size.exists() {
        return Err(EditError::NoSize { shard: shard.clone() });
    }
    let number = |name| {
        let unknown = |reason| EditError::SizeUnknown { shard: shard.clone(), reason };
        size.document.bytes(name).map_err(|reason| unknown(format!("{name} {reason}")))
    };
    Ok((number("current")?, number("capacity")?))
}

/// Whether this batch was added already.
fn seen(document: &Document, stamp: &WriterStamp) -> bool {
    let last = document.field(WRITERS).and_then(|writers| writers.get(&stamp.writer));
    last.and_then(|last| last.get(0)?.as_u64()).is_some_and(|seq| seq >= stamp.seq)
}

/// Remembers this batch as its coordinator's last one, and forgets coordinators that need no memory any more.
fn note(document: &mut Document, stamp: &WriterStamp, now_s: u64) {
    let writers = document.entry(WRITERS);
    writers.insert(stamp.writer.clone(), json!([stamp.seq, now_s]));
    let noted_s = |last: &Value| last.get(1).and_then(Value::as_u64).unwrap_or(0);
    writers.retain(|_, last| now_s.saturating_sub(noted_s(last)) < WRITER_KEPT_S);
    while writers.len() > MAX_WRITERS {
        let oldest = writers.iter().filter(|(writer, _)| **writer != stamp.writer);
        let oldest = oldest.min_by_key(|(_, last)| noted_s(last)).map(|(writer, _)| writer.clone());
        oldest.map(|writer| writers.shift_remove(&writer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(writer: &str, seq: u64) -> WriterStamp {
        WriterStamp { writer: writer.into(), seq }
    }

    #[test]
    fn a_batch_is_seen_until_its_writer_is_forgotten() {
        let mut document = Document::parse(br#"{"capacity":9,"current":1,"note":"mine"}"#).unwrap();
        assert!(!seen(&document, &stamp("a", 1)));
        note(&mut document, &stamp("a", 5), 1_000);
        note(&mut document, &stamp("b", 1), 1_001);
        assert!(seen(&document, &stamp("a", 5)) && seen(&document, &stamp("a", 4)));
        assert!(!seen(&document, &stamp("a", 6)) && !seen(&document, &stamp("c", 1)));
        assert_eq!(
            document.to_bytes(),
            r#"{"capacity":9,"current":1,"note":"mine","writers":{"a":[5,1000],"b":[1,1001]}}"#
        );
        note(&mut document, &stamp("b", 2), 1_000 + WRITER_KEPT_S);
        assert!(!seen(&document, &stamp("a", 5)) && seen(&document, &stamp("b", 2)));
    }

    #[test]
    fn the_latest_writers_are_kept() {
        let mut document = Document::default();
        for n in 0..100 {
            note(&mut document, &stamp(&n.to_string(), 1), 1_000 + n);
        }
        assert_eq!(document.entry(WRITERS).len(), MAX_WRITERS);
        assert!(seen(&document, &stamp("99", 1)) && seen(&document, &stamp("68", 1)));
        assert!(!seen(&document, &stamp("67", 1)));
        // One whose clock is behind is not forgotten by its own batch.
        note(&mut document, &stamp("slow clock", 1), 900);
        assert!(seen(&document, &stamp("slow clock", 1)));
        assert_eq!(document.entry(WRITERS).len(), MAX_WRITERS);
    }

    #[test]
    fn damaged_writers_are_replaced() {
        for writers in ["7", "[]", r#"{"a":null}"#, r#"{"a":[]}"#, r#"{"a":["x","y"]}"#] {
            let text = format!(r#"{{"writers":{writers}}}"#);
            let mut document = Document::parse(text.as_bytes()).unwrap();
            assert!(!seen(&document, &stamp("a", 1)), "{text}");
            note(&mut document, &stamp("a", 1), 1_000);
            assert!(seen(&document, &stamp("a", 1)), "{text}");
        }
    }
}
