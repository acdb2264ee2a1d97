//! What was sent and what was answered.

use std::{io, time::Instant};

use crate::support::http::Reply;

/// One upload that ended.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its key.
    pub key: String,
    /// Its key is used again and again, in a pool of its own.
    pub overwrites: bool,
    /// Makes its bytes, with `size`.
    pub seed: u64,
    /// How many bytes it has.
    pub size: usize,
    /// The write level it asked for.
    pub level: &'static str,
    /// The coordinator it went to.
    pub coordinator: usize,
    /// How it ended.
    pub answer: Answer,
    /// When.
    pub at: Instant,
}

impl Upload {
    /// Whether it was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.answer, Answer::Acknowledged { .. })
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        bytes_of(self.seed, self.size)
    }
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is stored.
    Acknowledged {
        /// Where.
        shard: String,
        /// Under which version.
        version: String,
    },
    /// The coordinator said that it is not.
    Refused {
        /// The status.
        status: u16,
        /// The error it says, if its body is as all errors are.
        error: Option<String>,
    },
    /// There was no whole answer.
    Broken(String),
}

impl Answer {
    /// Reads an answer.
    pub fn of(reply: io::Result<Reply>) -> Self {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return Self::Broken(error.to_string()),
        };
        let body: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
        let text = |name| body.as_ref().and_then(|body| Some(body.get(name)?.as_str()?.to_owned()));
        match (reply.status, text("shard_id"), reply.header("x-backpack-version")) {
            (200, Some(shard), Some(version)) => Self::Acknowledged { shard, version: version.to_owned() },
            (status, ..) => Self::Refused { status, error: text("error") },
        }
    }
}

/// The same bytes for the same seed, so that a record need not keep them.
pub fn bytes_of(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// All uploads of a load, those of one client in the order it made them.
pub struct Record {
    /// The uploads.
    pub uploads: Vec<Upload>,
}

impl Record {
    /// Those that were acknowledged, with their shards and versions.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&Upload, &str, &str)> {
        self.uploads.iter().filter_map(|upload| match &upload.answer {
            Answer::Acknowledged { shard, version } => Some((upload, shard.as_str(), version.as_str())),
            Answer::Refused { .. } | Answer::Broken(_) => None,
        })
    }
}

impl std::fmt::Debug for Record {
    /// How many ended in which way.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for upload in &self.uploads {
            let ending = match &upload.answer {
                Answer::Acknowledged { .. } => "acknowledged".to_owned(),
                Answer::Refused { status, error } => {
                    let error = error.as_deref().unwrap_or("no error said");
                    // Up to where it names a key.
                    format!("{status} {}", error.split('/').next().unwrap_or_default())
                }
                Answer::Broken(error) => format!("broken: {error}"),
            };
            *counts.entry(ending).or_default() += 1;
        }
        f.debug_map().entries(counts).finish()
    }
}
