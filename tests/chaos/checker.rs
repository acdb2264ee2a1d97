//! What must be true of a record, whatever broke. Pure.
//!
//! Of one key in one shard the greater version is the newer one, whichever client wrote first: so everything is said in
//! versions. A write that was not acknowledged may have been made or not, also later.

use std::time::Duration;

use crate::record::{Answer, Asked, Bytes, Destroyed, History, Op, Reader, Record, Version};

/// What a server holds of a key in the end, or what nginx answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Blob { version: Version, bytes: Bytes },
    Deleted,
    Nothing,
    Other(u16),
}

/// Reads that nobody should have been given, and acknowledged writes that were not the newest when they were made.
pub fn of_what_clients_saw(record: &Record, shards: &[String]) -> Vec<String> {
    let histories = record.histories(shards);
    let mut found = Vec::new();
    for op in &record.ops {
        let Asked::Get { shard, by } = &op.asked else { continue };
        let Some(history) = histories.get(&(shard.clone(), op.key.clone())) else { continue };
        let floor = floor(history, shard, op, &record.destroyed);
        if let Err(wrong) = of_read(history, op, *by, floor) {
            found.push(format!(
                "read of {shard}:{} through {by:?}: {wrong}\n  {op:?}{}",
                op.key,
                told(history)
            ));
        }
    }
    for ((shard, key), history) in &histories {
        for (version, op) in &history.done {
            let floor = floor(history, shard, op, &record.destroyed);
            if floor.is_some_and(|floor| *version <= floor) {
                let why = format!("got version {version}, and {floor:?} was at level all before it began");
                found.push(format!("{shard}:{key} {why}\n  {op:?}{}", told(history)));
            }
        }
    }
    found
}

/// The newest version that every server had before `op` began; none while the shard lacks copies that were destroyed: then a
/// server may take a write that knows nothing of it.
fn floor<'a>(history: &History<'a>, shard: &str, op: &Op, destroyed: &[Destroyed]) -> Option<&'a str> {
    let lacks = |lack: &Destroyed| {
        lack.shard == shard && lack.from <= op.ended && lack.until.unwrap_or(Duration::MAX) > op.begun
    };
    if destroyed.iter().any(lacks) {
        return None;
    }
    let before =
        history.done.iter().filter(|(_, done)| done.asked.level() == "all" && done.ended <= op.begun);
    before.map(|(version, _)| *version).max()
}

fn of_read(history: &History<'_>, op: &Op, by: Reader, floor: Option<&str>) -> Result<(), String> {
    let writes = || {
        let done = history.done.iter().map(|(_, done)| *done);
        done.chain(history.unknown.iter().copied()).filter(|write| write.begun <= op.ended)
    };
    let deletes = || writes().any(|write| matches!(write.asked, Asked::Delete { .. }));
    let version = match &op.answer {
        Answer::Found { version, bytes } => {
            if !writes().any(|write| write.asked.bytes() == Some(*bytes)) {
                return Err("bytes that nobody uploaded".to_owned());
            }
            version
        }
        Answer::Gone { version } => {
            if !deletes() {
                return Err("deleted, but nobody deleted it".to_owned());
            }
            version
        }
        Answer::Missing => {
            let there = history.done.iter().any(|(_, done)| done.ended <= op.begun);
            // nginx says so also where a server did not answer.
            let lie = by == Reader::Coordinator && there && !deletes();
            return if lie { Err("missing, but it was acknowledged before".to_owned()) } else { Ok(()) };
        }
        Answer::Done { .. } | Answer::Refused { .. } | Answer::Broken(_) => return Ok(()),
    };
    let Some(version) = version else { return Err("an answer without a version".to_owned()) };
    if let Some((_, done)) = history.done.iter().find(|(known, _)| known == version) {
        let right = match &op.answer {
            Answer::Found { bytes, .. } => done.asked.bytes() == Some(*bytes),
            _ => matches!(done.asked, Asked::Delete { .. }),
        };
        if !right {
            return Err("not what was acknowledged under this version".to_owned());
        }
    }
    match floor {
        Some(floor) if version.as_str() < floor => {
            Err(format!("older than {floor}, which was acknowledged at level all before"))
        }
        _ => Ok(()),
    }
}

/// What a server holds in the end: the newest acknowledged write, or a newer one of which nobody knew.
pub fn of_state(history: &History<'_>, seen: &Seen) -> Result<(), String> {
    let Some((newest, done)) = history.done.last() else { return of_unknown(history, seen) };
    let deletes = history.unknown.iter().any(|write| matches!(write.asked, Asked::Delete { .. }));
    let right = match seen {
        Seen::Blob { version, bytes } if version == newest => done.asked.bytes() == Some(*bytes),
        Seen::Blob { version, bytes } => {
            version.as_str() > *newest
                && history.unknown.iter().any(|write| write.asked.bytes() == Some(*bytes))
        }
        Seen::Deleted => deletes || matches!(done.asked, Asked::Delete { .. }),
        Seen::Nothing | Seen::Other(_) => false,
    };
    if right { Ok(()) } else { Err(format!("holds {seen:?}{}", told(history))) }
}

fn of_unknown(history: &History<'_>, seen: &Seen) -> Result<(), String> {
    let right = match seen {
        Seen::Blob { bytes, .. } => history.unknown.iter().any(|write| write.asked.bytes() == Some(*bytes)),
        Seen::Deleted => history.unknown.iter().any(|write| matches!(write.asked, Asked::Delete { .. })),
        Seen::Nothing => true,
        Seen::Other(_) => false,
    };
    if right { Ok(()) } else { Err(format!("holds {seen:?}{}", told(history))) }
}

/// The whole story of a key, for whoever must find out what happened.
fn told(history: &History<'_>) -> String {
    let mut text = String::new();
    for (_, op) in &history.done {
        text += &format!("\n    done     {op:?}");
    }
    for op in &history.unknown {
        text += &format!("\n    unknown  {op:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bytes(text: &str) -> Bytes {
        Bytes::of(text.as_bytes())
    }

    fn op(at: u32, asked: Asked, answer: Answer) -> Op {
        Op { begun: at * SECOND, ended: at * SECOND + SECOND / 2, key: "k".into(), asked, answer }
    }

    fn done(version: &str) -> Answer {
        Answer::Done { shard: "1".into(), version: version.into() }
    }

    fn put(at: u32, level: &'static str, text: &str, answer: Answer) -> Op {
        op(at, Asked::Put { level, bytes: bytes(text) }, answer)
    }

    fn delete(at: u32, answer: Answer) -> Op {
        op(at, Asked::Delete { level: "one", shard: "1".into() }, answer)
    }

    fn get(at: u32, by: Reader, answer: Answer) -> Op {
        op(at, Asked::Get { shard: "1".into(), by }, answer)
    }

    fn found(version: &str, text: &str) -> Answer {
        Answer::Found { version: Some(version.into()), bytes: bytes(text) }
    }

    fn wrong(ops: Vec<Op>) -> Vec<String> {
        wrong_with(ops, Vec::new())
    }

    fn wrong_with(ops: Vec<Op>, destroyed: Vec<Destroyed>) -> Vec<String> {
        of_what_clients_saw(&Record { ops, destroyed }, &["1".into(), "2".into()])
    }

    #[test]
    fn what_was_uploaded_may_be_read_and_nothing_else() {
        let broken = || Answer::Broken(String::new());
        for by in [Reader::Nginx, Reader::Coordinator] {
            assert!(wrong(vec![put(1, "one", "a", done("A")), get(2, by, found("A", "a"))]).is_empty());
            assert_eq!(wrong(vec![put(1, "one", "a", done("A")), get(2, by, found("A", "b"))]).len(), 1);
            assert!(wrong(vec![put(1, "one", "a", broken()), get(2, by, found("A", "a"))]).is_empty());
            assert_eq!(wrong(vec![put(3, "one", "a", done("A")), get(2, by, found("A", "a"))]).len(), 1);
            let other = vec![
                put(1, "one", "a", done("A")),
                put(1, "one", "b", done("B")),
                get(2, by, found("B", "a")),
            ];
            assert_eq!(wrong(other).len(), 1, "the bytes of another version");
        }
    }

    #[test]
    fn nothing_older_is_read_than_what_was_at_level_all() {
        let story = |level| {
            let ops = [put(1, "one", "a", done("A")), put(2, level, "b", done("B"))];
            wrong(ops.into_iter().chain([get(3, Reader::Nginx, found("A", "a"))]).collect()).len()
        };
        assert_eq!((story("one"), story("quorum"), story("all")), (0, 0, 1));
        let ops = || {
            vec![
                put(1, "one", "a", done("A")),
                put(2, "all", "b", done("B")),
                get(4, Reader::Nginx, found("A", "a")),
            ]
        };
        let lacks = |from, until: Option<u32>| {
            let until = until.map(|until| until * SECOND);
            wrong_with(ops(), vec![Destroyed { shard: "1".into(), from: from * SECOND, until }]).len()
        };
        assert_eq!((lacks(3, None), lacks(3, Some(6)), lacks(0, Some(3)), lacks(6, None)), (0, 0, 1, 1));
    }

    #[test]
    fn a_coordinator_does_not_deny_what_is_there_and_nobody_says_deleted_of_what_was_not() {
        let story = |by, answer| wrong(vec![put(1, "one", "a", done("A")), get(2, by, answer)]).len();
        assert_eq!(story(Reader::Coordinator, Answer::Missing), 1);
        assert_eq!(story(Reader::Nginx, Answer::Missing), 0);
        let gone = || Answer::Gone { version: Some("B".into()) };
        assert_eq!(story(Reader::Nginx, gone()), 1);
        let deleted = delete(2, Answer::Broken(String::new()));
        assert!(
            wrong(vec![put(1, "all", "a", done("A")), deleted, get(3, Reader::Nginx, gone())]).is_empty()
        );
    }

    #[test]
    fn a_write_is_newer_than_what_was_at_level_all_before() {
        assert!(wrong(vec![put(1, "all", "a", done("A")), put(2, "one", "b", done("B"))]).is_empty());
        assert_eq!(wrong(vec![put(1, "all", "a", done("B")), put(2, "one", "b", done("A"))]).len(), 1);
        assert!(wrong(vec![put(1, "one", "a", done("B")), put(2, "one", "b", done("A"))]).is_empty());
    }

    #[test]
    fn in_the_end_there_is_the_newest_or_a_later_one_of_which_nobody_knew() {
        let ops = vec![
            put(1, "one", "b", done("B")),
            put(2, "one", "a", done("A")),
            put(3, "one", "c", Answer::Broken(String::new())),
        ];
        let record = Record { ops, destroyed: Vec::new() };
        let histories = record.histories(&["1".into()]);
        let history = &histories[&("1".to_owned(), "k".to_owned())];
        let blob = |version: &str, text| Seen::Blob { version: version.into(), bytes: bytes(text) };
        for right in [blob("B", "b"), blob("C", "c")] {
            assert_eq!(of_state(history, &right), Ok(()));
        }
        for wrong in
            [blob("A", "a"), blob("A", "c"), blob("B", "c"), blob("C", "b"), Seen::Deleted, Seen::Nothing]
        {
            assert!(of_state(history, &wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_deleted_stays_deleted() {
        let ops = vec![put(1, "one", "a", done("A")), delete(2, done("B"))];
        let record = Record { ops, destroyed: Vec::new() };
        let histories = record.histories(&["1".into()]);
        let history = &histories[&("1".to_owned(), "k".to_owned())];
        assert_eq!(of_state(history, &Seen::Deleted), Ok(()));
        let back = Seen::Blob { version: "A".into(), bytes: bytes("a") };
        assert!(of_state(history, &back).is_err() && of_state(history, &Seen::Nothing).is_err());
    }
}
