//! `GET /stats`: the original's fields, and more.

use http::StatusCode;
use serde::Serialize;

use super::Node;
use crate::{
    http::{Answer, reply},
    storage::Usage,
};

#[derive(Serialize)]
struct Stats<'a> {
    /// Blobs given out since the start, in the original's words.
    gets: serde_json::Value,
    /// Blobs taken since the start.
    puts: serde_json::Value,
    #[serde(flatten)]
    usage: Usage,
    /// The node's id, or its port.
    node: &'a str,
    /// Milliseconds since the start.
    uptime: u64,
    /// Of the program.
    version: &'static str,
}

/// Answers `/stats`.
pub fn stats(node: &Node) -> Answer {
    let stats = Stats {
        gets: node.metrics.gets.to_json(),
        puts: node.metrics.puts.to_json(),
        usage: node.storage.usage(),
        node: node.metrics.node(),
        uptime: node.started.elapsed().as_millis() as u64,
        version: env!("CARGO_PKG_VERSION"),
    };
    reply::json(StatusCode::OK, &stats)
}
