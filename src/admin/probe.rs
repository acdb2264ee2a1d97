//! Asks many servers at once how they are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    client::{ServerError, Servers, Timeouts},
    http::RequestId,
    model::{Server, ServerId},
};

/// Somebody waits for the screen: a server on the same network answers `/stats` in milliseconds.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(3),
    stall: Duration::from_secs(3),
};

/// Servers asked at the same time: a cluster of thousands takes seconds, and needs no more file descriptors than a process
/// has by default.
const AT_ONCE: usize = 256;

/// How a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One of our nodes.
    Node(NodeStats),
    /// It answers, but does not say what it holds: nginx, or the original's node.
    Other,
    /// It does not answer, or says that it cannot work now.
    Down(String),
}

/// What our nodes say in `/stats`, as far as it is used here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStats {
    /// Bytes of the blobs it holds: what shards count.
    pub blob_bytes: u64,
    /// Blobs it holds.
    #[serde(default)]
    pub blobs: u64,
    /// Bytes free on its disk.
    #[serde(default)]
    pub free_bytes: u64,
    /// Damaged blobs not yet replaced.
    #[serde(default)]
    pub damaged: u64,
    /// Why it takes no writes, if so.
    #[serde(default)]
    pub read_only: Option<String>,
    /// Of the program.
    #[serde(default)]
    pub version: String,
}

/// Asks all of them, and waits until each has answered or its time is over.
pub async fn ask_all(servers: impl IntoIterator<Item = Arc<Server>>) -> BTreeMap<ServerId, Answer> {
    let client = Servers::new(TIMEOUTS);
    let ask = |server: Arc<Server>| {
        let client = &client;
        async move { (server.id.clone(), judge(client.stats(&server, &RequestId::fresh()).await)) }
    };
    let asked: Vec<_> = servers.into_iter().map(ask).collect();
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

fn judge(stats: Result<Value, ServerError>) -> Answer {
    match stats {
        Ok(stats) => serde_json::from_value(stats).map_or(Answer::Other, Answer::Node),
        Err(error) if error.is_down() => Answer::Down(error.to_string()),
        // It refused or does not know `/stats`: so it is there.
        Err(_) => Answer::Other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_of_servers_are_told_apart() {
        let ours =
            json!({"blob_bytes": 7, "blobs": 1, "free_bytes": 9, "version": "0.1.0", "read_only": null});
        assert!(matches!(judge(Ok(ours)), Answer::Node(NodeStats { blob_bytes: 7, free_bytes: 9, .. })));
        let original = json!({"gets": {"count": 0}, "puts": {"count": 0}});
        assert_eq!(judge(Ok(original)), Answer::Other);
        assert_eq!(judge(Err(ServerError::Missing)), Answer::Other);
        assert_eq!(judge(Err(ServerError::WrongBytes("no JSON".into()))), Answer::Other);
        let refused = judge(Err(ServerError::Unreachable("refused".into())));
        assert_eq!(refused, Answer::Down("cannot connect: refused".into()));
    }
}
