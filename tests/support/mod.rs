//! What the tests stand on: real servers from Debian's packages, and stand-ins that can be made to fail.
//!
//! - [`wait`]: waiting for a condition with a deadline, never a fixed sleep
//! - [`process`]: a child process that can be killed, frozen, restarted and never outlives the tests
//! - [`daemon`]: one of our own programs as such a process, with its log
//! - [`zookeeper`], [`redis`], [`nginx`]: the real servers; [`tls`]: certificates for them; [`znodes`]: what stands in ZooKeeper
//! - [`original_node`]: a storage server that behaves as the original's node does, with faults on demand
//! - [`queue`]: a queue that is watched, and fails on demand
//! - [`http`]: a client that sends what it is told to, byte for byte
//! - [`writers`]: what writes to a node until it is killed, and looks at it afterwards; [`files`]: copies of folders
//! - [`alone`]: a process for one test; [`port`]: ports that no other test has; [`small_disk`]: a disk that is soon full
//! - [`cluster`]: all of it as one cluster, of [`shard_server`]s and our own programs, set up by [`admin`], read through
//!   [`front`]
//!
//! A package that is missing fails the test with the name of the package; nothing is skipped. Everything here blocks the
//! calling thread: a test whose own server runs in its tokio runtime needs `flavor = "multi_thread"`.

#![allow(dead_code, reason = "each test crate compiles this module and uses its own part of it")]

pub mod admin;
pub mod alone;
pub mod cluster;
pub mod daemon;
pub mod files;
pub mod front;
pub mod http;
pub mod nginx;
pub mod original_node;
pub mod port;
pub mod process;
pub mod queue;
pub mod redis;
pub mod shard_server;
pub mod small_disk;
pub mod tls;
pub mod wait;
pub mod writers;
pub mod znodes;
pub mod zookeeper;
