//! The JSON of the maps, side by side with the original's: what it writes is read, what we write it reads. Pure.
//!
//! - [`Document`]: a document as JSON; `read` is what it means, `write` how it is edited
//!
//! Reading is lenient with single entries: the good ones are returned, and a sentence for each bad one. A document that is
//! no JSON object at all is an error; whoever reads keeps the last good one. Edits keep fields they do not know, and the
//! order of all of them.

mod read;
mod write;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

pub use read::ShardEntry;

use crate::model::ShardId;

/// id -> where the server listens.
pub const SERVERS: &str = "/servers-map";
/// id -> its servers, whether it is read-only, its pool.
pub const SHARDS: &str = "/shards-map";
/// Where the tasks are kept.
pub const QUEUE: &str = "/queue";
/// name -> settings of a pool. Ours; the original does not know it.
pub const POOLS: &str = "/pools";

const SIZE_PREFIX: &str = "/shard-size-";

/// Where the size of a shard stands: `/shard-size-<id>`.
pub fn size_path(shard: &ShardId) -> String {
    format!("{SIZE_PREFIX}{shard}")
}

/// The shard whose size stands at that path.
pub fn shard_of_size_path(path: &str) -> Option<ShardId> {
    path.strip_prefix(SIZE_PREFIX)?.parse().ok()
}

/// A document that cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

/// What was read, and what could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The entries that make sense.
    pub value: T,
    /// One sentence for each that does not.
    pub complaints: Vec<String>,
}

/// A document: a JSON object whose fields keep their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document(Map<String, Value>);

impl Document {
    /// Reads a document.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(FormatError("it is no JSON object".into())),
            Err(error) => Err(FormatError(format!("it is no JSON: {error}"))),
        }
    }

    /// The document as a value, all of whose fields are known.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FormatError> {
        serde_json::from_value(Value::Object(self.0.clone())).map_err(|error| FormatError(error.to_string()))
    }

    /// The document of a value.
    pub fn encode(value: &impl Serialize) -> Result<Self, FormatError> {
        match serde_json::to_value(value) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(FormatError("it is no JSON object".into())),
            Err(error) => Err(FormatError(error.to_string())),
        }
    }

    /// Compact JSON, as the original writes it.
    pub fn to_bytes(&self) -> bytes::Bytes {
        Value::Object(self.0.clone()).to_string().into()
    }
}

#[cfg(test)]
mod tests;
