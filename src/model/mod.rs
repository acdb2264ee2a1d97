//! The values every part speaks in: no I/O, no async, nothing that can wait.
//!
//! - [`id`]: names of servers, shards and pools
//! - [`key`]: the path of a blob inside its shard
//! - [`version`]: which of two writes of one key is newer
//! - [`meta`]: what travels with a blob besides its bytes
//! - [`checksum`]: CRC-64/NVME of a whole blob, and what clients may ask us to verify
//! - [`size`]: `100gb` and back
//! - [`range`]: one HTTP byte range
//! - [`map`]: the immutable picture of servers, shards, pools and the queue
//! - [`listed`]: what a server holds under a key; [`digest`]: the same of a range of keys, in a few bytes
//! - [`task`]: one copy or delete still to be made
//! - `text`: how all these stand in JSON

pub mod checksum;
pub mod digest;
pub mod id;
pub mod key;
pub mod listed;
pub mod map;
pub mod meta;
pub mod range;
pub mod size;
pub mod task;
mod text;
pub mod version;

pub use checksum::{Checksum, Crc64};
pub use digest::KeyRange;
pub use id::{PoolName, ServerId, ShardId};
pub use key::Key;
pub use listed::Listed;
pub use map::{ClusterMap, Pool, QueueInfo, QueueServer, Server, Shard, Stage, WriteLevel};
pub use meta::Meta;
pub use range::ByteRange;
pub use task::{Operation, Task};
pub use version::Version;
