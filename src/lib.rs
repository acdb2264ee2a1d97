//! Backpack: a sharded store for very many small files.
//!
//! Imports go one way: programs (`src/bin`) -> [`standalone`] -> roles ([`node`], [`coordinator`], [`replicator`],
//! [`admin`]) -> [`scrub`] -> seams ([`cluster`], [`queue`], [`storage`]) and [`client`] -> [`http`] and [`embedded`] -> [`daemon`] ->
//! [`telemetry`] -> [`model`]. Roles do not import each other, seams do not import each other, and a driver crate
//! is named only in its own file. `tests/imports.rs` holds this.

#![warn(clippy::unwrap_used)]

pub mod admin;
pub mod client;
pub mod cluster;
pub mod coordinator;
pub mod daemon;
pub mod embedded;
pub mod http;
pub mod model;
pub mod node;
pub mod queue;
pub mod replicator;
pub mod scrub;
pub mod standalone;
pub mod storage;
pub mod telemetry;
