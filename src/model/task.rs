//! A task: one copy or delete still to be made. Its identity is (target server, key, version); doing it twice is
//! harmless.

use serde::{Deserialize, Serialize};

use super::{Key, ServerId, ShardId, Version};

/// What is to be made on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Bring the blob of that version (or a newer one) from one of the sources.
    Copy,
    /// Leave a tombstone of that version.
    Delete,
}

/// One copy or delete, as it stands in the queue: compact JSON, field names as here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What is to be made.
    pub op: Operation,
    /// The shard it belongs to; `None` in tasks pushed by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// The blob's key.
    pub key: Key,
    /// The version written or deleted; `None` in copies pushed by hand: whatever the source holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Servers that had it when the task was made, the best source first. Empty for a delete.
    #[serde(default)]
    pub from: Vec<ServerId>,
    /// The target server.
    pub to: ServerId,
    /// Bytes to copy, 0 if unknown: for limits and metrics only.
    #[serde(default)]
    pub length: u64,
    /// When the upload was made, milliseconds since 1970: the age of a task is counted from here.
    pub created_ms: u64,
    /// The request that made it, for the logs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

impl Task {
    /// The identity: two tasks with the same one are the same work.
    pub fn identity(&self) -> (&ServerId, &Key, Option<Version>) {
        (&self.to, &self.key, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_compact_and_comes_back() {
        let task = Task {
            op: Operation::Copy,
            shard: Some("1".parse().unwrap()),
            key: "a:b?c=%20".parse().unwrap(),
            version: Some(Version::from_parts(1, 2)),
            from: vec!["1".parse().unwrap()],
            to: "4".parse().unwrap(),
            length: 5,
            created_ms: 1_000,
            request_id: "r".into(),
        };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(
            text,
            r#"{"op":"copy","shard":"1","key":"a:b?c=%20","version":"00000000010000000000000002","from":["1"],"to":"4","length":5,"created_ms":1000,"request_id":"r"}"#
        );
        assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task);
    }

    #[test]
    fn bad_tasks_are_refused() {
        for text in [
            "",
            "{}",
            r#"{"op":"copy","key":"../x","to":"1","created_ms":1}"#,
            r#"{"op":"burn","key":"x","to":"1","created_ms":1}"#,
            r#"{"op":"copy","key":"x","to":"a/b","created_ms":1}"#,
        ] {
            assert!(serde_json::from_str::<Task>(text).is_err(), "{text}");
        }
    }
}
