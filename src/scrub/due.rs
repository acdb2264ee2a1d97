//! When a shard is to be compared again. Pure.

use std::{collections::BTreeSet, time::Duration};

use super::{Failed, Record};
use crate::model::ServerId;

/// After a comparison that failed the next one waits: what is wrong takes people, or a while.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(600);
/// Damage that was found, or a server that came back, is seen to so soon after the last comparison, and no sooner: what that
/// one queued may still be on its way.
const AGAIN_AFTER_EVENT: Duration = Duration::from_secs(300);
/// After a comparison there is none, but for the one that is on time, for so many times as long as it took: a node that is
/// started again and again costs the others no more than a tenth of their time.
const REST: u32 = 10;

/// What is known of a shard's servers now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Servers {
    /// All of them.
    pub all: BTreeSet<ServerId>,
    /// Those that announce themselves and can be compared.
    pub live: BTreeSet<ServerId>,
    /// When the one was started that was started last, milliseconds since 1970.
    pub started_ms: u64,
    /// One of them is behind, and has caught up with the tasks that were kept for it.
    pub is_behind: bool,
    /// When the damage was found that was found last, milliseconds since 1970; 0: there is none.
    pub damaged_ms: u64,
    /// When the queue was last seen to have lost what it held; 0: never.
    pub queue_lost_ms: u64,
}

/// Why a shard is to be compared now; nothing if it is not.
pub(super) fn due(record: &Record, servers: &Servers, every: Duration, now_ms: u64) -> Option<&'static str> {
    let since = |then_ms: u64| Duration::from_millis(now_ms.saturating_sub(then_ms));
    if servers.all.len() < 2 || record.is_going(now_ms) {
        return None;
    }
    // Unless what was wrong was a server that is back.
    let waits =
        |failed: &Failed| since(failed.at_ms) < AGAIN_AFTER_FAILURE && servers.started_ms <= failed.at_ms;
    if record.failed.as_ref().is_some_and(waits) {
        return None;
    }
    if record.going.is_some() {
        return Some("it was left in the middle");
    }
    let Some(last) = &record.last else { return Some("it never was") };
    if since(last.began_ms) >= every {
        return Some("it is time");
    }
    let rest = REST * Duration::from_millis(last.ended_ms.saturating_sub(last.began_ms));
    if since(last.ended_ms) < rest {
        return None;
    }
    if servers.queue_lost_ms > last.began_ms {
        return Some("the queue lost what it held");
    }
    if servers.started_ms > last.began_ms {
        return Some("a server was started since");
    }
    if since(last.ended_ms) < AGAIN_AFTER_EVENT {
        return None;
    }
    let who = &last.found.who;
    let was_there = |id: &&ServerId| who.compared.contains(*id) || who.asked.contains(*id);
    if servers.live.iter().any(|id| !was_there(&id)) {
        return Some("a server is back that was left out");
    }
    if servers.is_behind {
        return Some("tasks for a server were left out");
    }
    (servers.damaged_ms > last.began_ms).then_some("a server found damage")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::{Found, Going, Last, Who};

    const MINUTE: u64 = 60_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: u64 = 100_000 * MINUTE;

    fn ids(ids: &[&str]) -> BTreeSet<ServerId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn servers() -> Servers {
        Servers { all: ids(&["1", "2"]), live: ids(&["1", "2"]), ..Servers::default() }
    }

    /// Compared from `began` to `ended` minutes ago.
    fn record(began: u64, ended: u64) -> Record {
        let who = Who { compared: ids(&["1", "2"]), ..Who::default() };
        let found = Found { who, ..Found::default() };
        let (began_ms, ended_ms) = (NOW - began * MINUTE, NOW - ended * MINUTE);
        let last = Last { began_ms, ended_ms, found, ..Last::default() };
        Record { last: Some(last), ..Record::default() }
    }

    fn is_due(record: &Record, servers: &Servers) -> bool {
        due(record, servers, DAY, NOW).is_some()
    }

    #[test]
    fn a_shard_is_compared_first_at_once_and_then_every_day() {
        assert!(is_due(&Record::default(), &servers()));
        assert!(!is_due(&record(23 * 60, 22 * 60), &servers()));
        assert!(is_due(&record(24 * 60, 22 * 60), &servers()));
        let one = Servers { all: ids(&["1"]), ..servers() };
        assert!(!is_due(&Record::default(), &one), "there is nothing to compare it with");
    }

    #[test]
    fn a_queue_that_forgot_and_a_server_that_was_started_or_is_back_are_seen_to() {
        let lost = |ago: u64| Servers { queue_lost_ms: NOW - ago * MINUTE, ..servers() };
        assert!(is_due(&record(100, 99), &lost(9)) && !is_due(&record(10, 9), &lost(11)));
        let started = |ago: u64| Servers { started_ms: NOW - ago * MINUTE, ..servers() };
        assert!(is_due(&record(100, 99), &started(9)) && !is_due(&record(10, 9), &started(11)));
        assert!(!is_due(&record(19, 9), &started(9)), "it took ten minutes, and that is enough for now");
        let mut left_out = record(6, 6);
        let who = &mut left_out.last.as_mut().unwrap().found.who;
        who.compared.remove(&"2".parse().unwrap());
        who.left_out.insert("2".parse().unwrap(), "does not answer".into());
        assert!(is_due(&left_out, &servers()));
        assert!(!is_due(&left_out, &Servers { live: ids(&["1"]), ..servers() }), "it is not back");
        let last = left_out.last.as_mut().unwrap();
        (last.began_ms, last.ended_ms) = (NOW - 4 * MINUTE, NOW - 4 * MINUTE);
        assert!(!is_due(&left_out, &servers()), "not all the time");
    }

    #[test]
    fn damage_and_tasks_left_out_are_seen_to_soon_but_not_all_the_time() {
        let damaged = Servers { damaged_ms: NOW, ..servers() };
        let behind = Servers { is_behind: true, ..servers() };
        for servers in [damaged, behind] {
            assert!(is_due(&record(6, 6), &servers) && !is_due(&record(4, 4), &servers));
        }
        let old = Servers { damaged_ms: NOW - 8 * MINUTE, ..servers() };
        assert!(!is_due(&record(6, 6), &old), "what can be done about it is done");
    }

    #[test]
    fn one_at_a_time_and_a_failure_is_not_tried_again_at_once() {
        let going = |heard: u64| Record {
            going: Some(Going { heard_ms: NOW - heard * MINUTE, ..Going::default() }),
            ..record(30 * 60, 29 * 60)
        };
        assert!(!is_due(&going(1), &servers()) && is_due(&going(6), &servers()));
        let failed = |ago: u64| Record {
            failed: Some(Failed { at_ms: NOW - ago * MINUTE, why: String::new() }),
            ..record(30 * 60, 29 * 60)
        };
        assert!(!is_due(&failed(9), &servers()) && is_due(&failed(11), &servers()));
        let started = |ago: u64| Servers { started_ms: NOW - ago * MINUTE, ..servers() };
        assert!(is_due(&failed(9), &started(8)), "a server was started since");
        assert!(!is_due(&failed(9), &started(10)));
    }
}
