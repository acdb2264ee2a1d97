//! One line of a listing: what a server holds under a key.

use serde::{Deserialize, Serialize};

use super::{Checksum, Key, Version};

/// One line of a listing, as `GET /-/list` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// Bytes; 0 for a tombstone.
    pub length: u64,
    /// Its checksum; none for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// It was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}
