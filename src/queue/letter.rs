//! Dead letters: their names, and what of a broken entry is kept.

use xxhash_rust::xxh3::xxh3_128;

use super::DeadLetter;
use crate::{daemon::unix_ms, model::Task};

/// Of an entry that stands in a dead letter, at most so much is kept: enough to see what it was.
const MAX_RAW_BYTES: usize = 4096;

/// Reasons are for people to read.
const MAX_REASON_BYTES: usize = 1024;

impl DeadLetter {
    /// The letter of a task that is given up now.
    pub(super) fn of_task(task: &Task, attempts: u32, reason: &str) -> Self {
        Self {
            id: task_id(task),
            task: Some(task.clone()),
            raw: cut(to_json(task), MAX_RAW_BYTES),
            attempts,
            reason: cut(reason.to_owned(), MAX_REASON_BYTES),
            died_ms: unix_ms(),
        }
    }

    /// The letter of an entry that is no task.
    pub(super) fn poison(raw: &[u8], reason: &str) -> Self {
        Self {
            id: format!("{:032x}", xxh3_128(raw)),
            task: None,
            raw: cut(String::from_utf8_lossy(raw).into_owned(), MAX_RAW_BYTES),
            attempts: 0,
            reason: cut(reason.to_owned(), MAX_REASON_BYTES),
            died_ms: unix_ms(),
        }
    }

    /// The target's name; empty for poison.
    pub(super) fn target(&self) -> &str {
        self.task.as_ref().map_or("", |task| task.to.as_str())
    }
}

/// A task as it stands in the queue.
pub(super) fn to_json(task: &Task) -> String {
    serde_json::to_string(task).expect("a task is strings and numbers, which are always JSON")
}

/// An entry of the queue of `target` as a task, or why it is none.
pub(super) fn to_task(raw: &[u8], target: &str) -> Result<Task, String> {
    let task: Task = serde_json::from_slice(raw).map_err(|error| format!("the entry is no task: {error}"))?;
    if task.to.as_str() != target {
        return Err(format!("the entry is for {} but stood in the queue of {target}", task.to));
    }
    Ok(task)
}

/// One name per task identity, so that a task that died on two servers is one letter.
fn task_id(task: &Task) -> String {
    let version = task.version.map_or_else(String::new, |version| version.to_string());
    format!("{:032x}", xxh3_128(format!("{}\n{version}\n{}", task.to, task.key).as_bytes()))
}

fn cut(mut text: String, max_bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Operation, Version};

    fn task(key: &str, version: Option<Version>) -> Task {
        Task {
            op: Operation::Copy,
            shard: None,
            key: key.parse().unwrap(),
            version,
            from: vec![],
            to: "4".parse().unwrap(),
            length: 0,
            created_ms: 7,
            request_id: String::new(),
        }
    }

    #[test]
    fn a_letter_is_named_by_what_the_task_is() {
        let id = |task: &Task| DeadLetter::of_task(task, 0, "").id;
        let one = task("a", Some(Version::from_parts(1, 1)));
        assert_eq!(id(&one), id(&Task { created_ms: 9, ..one.clone() }));
        assert_ne!(id(&one), id(&task("a", Some(Version::from_parts(1, 2)))));
        assert_ne!(id(&one), id(&task("a", None)));
        assert_ne!(id(&one), id(&task("b", one.version)));
        assert_ne!(id(&one), id(&Task { to: "5".parse().unwrap(), ..one.clone() }));
    }

    #[test]
    fn poison_is_kept_in_part_and_as_text() {
        let letter = DeadLetter::poison(&[0xff; 10_000], "bad");
        assert!(letter.raw.len() <= MAX_RAW_BYTES && letter.raw.starts_with('\u{fffd}'));
        assert_eq!(letter.target(), "");
    }

    #[test]
    fn an_entry_must_be_a_task_of_its_target() {
        let json = to_json(&task("a", None));
        assert_eq!(to_task(json.as_bytes(), "4"), Ok(task("a", None)));
        assert!(to_task(json.as_bytes(), "5").unwrap_err().contains("queue of 5"));
        assert!(to_task(b"{}", "4").unwrap_err().contains("no task"));
    }
}
