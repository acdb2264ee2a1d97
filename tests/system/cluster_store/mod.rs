//! What the map store promises, on every implementation, and what ZooKeeper's must survive.
//!
//! - `conformance`: each sentence of the trait's documentation; `edits`, `view`: what stands on it; all on both
//!   implementations, in a `place` of their own
//! - `outages`: ZooKeeper killed, frozen, away for long; `access`: credentials and TLS
//! - `processes`: the embedded store between processes

mod access;
mod conformance;
mod edits;
mod outages;
mod place;
mod processes;
mod view;
