//! What clients did and what they were told.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::support::http::Reply;

/// A version, as it is written: the greater text is the newer one.
pub type Version = String;

/// One operation of a client, from its beginning to its end.
#[derive(Debug, Clone)]
pub struct Op {
    /// Since the load began.
    pub begun: Duration,
    /// The same.
    pub ended: Duration,
    /// The key, as sent.
    pub key: String,
    /// What was asked.
    pub asked: Asked,
    /// What came of it.
    pub answer: Answer,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// An upload of these bytes.
    Put { level: &'static str, bytes: Bytes },
    /// A delete in a shard.
    Delete { level: &'static str, shard: String },
    /// A read from a shard.
    Get { shard: String, by: Reader },
}

/// Whom a reader asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Nginx,
    Coordinator,
}

/// Bytes, as far as they must be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    pub length: usize,
    pub hash: u64,
}

impl Bytes {
    /// Of a body.
    pub fn of(body: &[u8]) -> Self {
        Self { length: body.len(), hash: xxh3_64(body) }
    }
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An upload or a delete is done.
    Done { shard: String, version: Version },
    /// A read found this.
    Found { version: Option<Version>, bytes: Bytes },
    /// A read found that it is deleted.
    Gone { version: Option<Version> },
    /// A read found nothing.
    Missing,
    /// Another status.
    Refused { status: u16, why: String },
    /// No whole answer.
    Broken(String),
}

impl Answer {
    /// Reads an answer to a question.
    pub fn to(asked: &Asked, reply: io::Result<Reply>) -> Self {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return Self::Broken(error.kind().to_string()),
        };
        let version = reply.header("x-backpack-version").map(str::to_owned);
        let body: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
        let text = |name| body.as_ref().and_then(|body| Some(body.get(name)?.as_str()?.to_owned()));
        match (asked, reply.status, version) {
            (Asked::Put { .. }, 200, Some(version)) if text("shard_id").is_some() => {
                Self::Done { shard: text("shard_id").unwrap_or_default(), version }
            }
            (Asked::Delete { shard, .. }, 204, Some(version)) => Self::Done { shard: shard.clone(), version },
            (Asked::Get { .. }, 200, version) => Self::Found { version, bytes: Bytes::of(&reply.body) },
            (Asked::Get { .. }, 410, version) => Self::Gone { version },
            (Asked::Get { .. }, 404, _) => Self::Missing,
            (_, status, _) => Self::Refused { status, why: text("error").unwrap_or_default() },
        }
    }
}

/// All operations of a load, and when what was destroyed.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order in which they ended.
    pub ops: Vec<Op>,
    /// Of each fault that destroyed copies: the shard, when it began and when all copies were there again.
    pub destroyed: Vec<Destroyed>,
}

/// One shard had not all its copies.
#[derive(Debug, Clone)]
pub struct Destroyed {
    pub shard: String,
    pub from: Duration,
    pub until: Option<Duration>,
}

/// The writes of one key that were acknowledged in one shard, and those of which nobody knows.
#[derive(Debug, Default)]
pub struct History<'a> {
    /// Acknowledged ones, with their versions; the newest last.
    pub done: Vec<(&'a str, &'a Op)>,
    /// Writes that may have been done, or may not.
    pub unknown: Vec<&'a Op>,
}

impl Record {
    /// By shard and key; those of which nothing was acknowledged too, for each shard.
    pub fn histories(&self, shards: &[String]) -> BTreeMap<(String, String), History<'_>> {
        let mut histories: BTreeMap<(String, String), History<'_>> = BTreeMap::new();
        for op in &self.ops {
            if matches!(op.asked, Asked::Get { .. }) {
                continue;
            }
            if let Answer::Done { shard, version } = &op.answer {
                let history = histories.entry((shard.clone(), op.key.clone())).or_default();
                history.done.push((version, op));
                continue;
            }
            for shard in shards {
                if op.asked.may_be_in(shard) {
                    histories.entry((shard.clone(), op.key.clone())).or_default().unknown.push(op);
                }
            }
        }
        for history in histories.values_mut() {
            history.done.sort_by_key(|(version, _)| *version);
        }
        histories
    }
}

impl Asked {
    fn may_be_in(&self, wanted: &str) -> bool {
        match self {
            Self::Put { .. } => true,
            Self::Delete { shard, .. } | Self::Get { shard, .. } => shard == wanted,
        }
    }

    /// Its bytes, if it is an upload.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Put { bytes, .. } => Some(*bytes),
            Self::Delete { .. } | Self::Get { .. } => None,
        }
    }

    /// The write level, of a write.
    pub fn level(&self) -> &'static str {
        match self {
            Self::Put { level, .. } | Self::Delete { level, .. } => level,
            Self::Get { .. } => "none",
        }
    }
}

/// The time of a load.
#[derive(Debug, Clone, Copy)]
pub struct Since(pub Instant);

impl Since {
    /// How long it lasts by now.
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}
