//! Asks the servers of a shard for a blob: in turn, and the next one too while the one before is slow to begin its answer.
//! The first that has the blob answers the read; the others are dropped.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::{Coordinator, error::Tried, fleet::Door};
use crate::{
    client::{Answered, Fetched, ServerError},
    http::RequestId,
    model::{Key, Server, Version},
};

/// What a read wants to know.
pub(super) struct Question<'a> {
    /// The blob's key.
    pub key: &'a Key,
    /// GET or HEAD.
    pub method: &'a Method,
    /// `Range` and `If-*` of the client.
    pub conditions: &'a HeaderMap,
    /// The request.
    pub id: &'a RequestId,
}

/// What the servers said to it.
pub(super) enum Said {
    /// This one has it.
    Blob(Arc<Server>, Fetched),
    /// It was deleted.
    Deleted(Option<Version>),
    /// It is there, and the client's condition does not hold.
    Precondition,
    /// None that answered has it.
    Nothing,
}

/// The answer, and what was met on the way to it.
pub(super) struct Asked {
    /// The answer.
    pub said: Said,
    /// Servers that have not got it.
    pub lacking: Vec<Arc<Server>>,
    /// Servers that failed.
    pub tried: Tried,
}

/// Servers that were asked and did not answer yet, in the order they were asked.
#[derive(Default)]
struct Waiting(Vec<(Arc<Server>, Instant)>);

impl Waiting {
    fn answered(&mut self, server: &Server) {
        self.0.retain(|(waiting, _)| waiting.id != server.id);
    }
}

impl Coordinator {
    /// Asks these servers, the first ones first.
    pub(super) async fn ask(&self, servers: Vec<Arc<Server>>, question: &Question<'_>) -> Asked {
        self.hedges.earn();
        let mut rest = servers.into_iter();
        let (mut lacking, mut tried) = (Vec::new(), Tried::default());
        let (mut asked, mut waiting) = (FuturesUnordered::new(), Waiting::default());
        let patience = self.config.hedge_after();
        let mut was_refused = false;
        let hedge = tokio::time::sleep(patience.unwrap_or_default());
        tokio::pin!(hedge);
        let said = loop {
            if asked.is_empty() {
                let Some(server) = rest.next() else { break Said::Nothing };
                waiting.0.push((Arc::clone(&server), Instant::now()));
                asked.push(self.fetch(server, question));
            }
            let (server, answer) = tokio::select! {
                biased;
                Some(answer) = asked.next() => answer,
                () = &mut hedge, if patience.is_some() && rest.len() > 0 => {
                    hedge.as_mut().reset(Instant::now() + patience.unwrap_or_default());
                    if !self.hedges.spend() {
                        if !std::mem::replace(&mut was_refused, true) {
                            metrics::counter!("backpack_coordinator_hedges_refused_total").increment(1);
                        }
                    } else if let Some(server) = rest.next() {
                        metrics::counter!("backpack_coordinator_hedged_reads_total").increment(1);
                        waiting.0.push((Arc::clone(&server), Instant::now()));
                        asked.push(self.fetch(server, question));
                    }
                    continue;
                }
            };
            waiting.answered(&server);
            match answer {
                Ok(Answered::Blob(blob)) => {
                    self.note_overtaken(&waiting, patience);
                    break Said::Blob(server, blob);
                }
                Ok(Answered::Deleted(version)) => break Said::Deleted(version),
                Err(ServerError::Precondition) => break Said::Precondition,
                Err(ServerError::Missing) => lacking.push(server),
                Err(error) => tried.0.push((server.id.clone(), error)),
            }
            // In the place of the one that said no, whoever else is still being waited for.
            if let Some(server) = rest.next() {
                waiting.0.push((Arc::clone(&server), Instant::now()));
                asked.push(self.fetch(server, question));
            }
        };
        Asked { said, lacking, tried }
    }

    /// Those that had time enough to answer first.
    fn note_overtaken(&self, waiting: &Waiting, patience: Option<Duration>) {
        let Some(patience) = patience else { return };
        for (server, _) in waiting.0.iter().filter(|(_, asked)| asked.elapsed() >= patience) {
            metrics::counter!("backpack_coordinator_hedges_won_total").increment(1);
            if self.fleet.overtaken(&server.id) {
                tracing::info!(server = %server.id, "it is slow to answer reads, others are asked before it");
            }
        }
    }

    async fn fetch(
        &self,
        server: Arc<Server>,
        question: &Question<'_>,
    ) -> (Arc<Server>, Result<Answered, ServerError>) {
        let Question { key, method, conditions, id } = question;
        let in_flight = self.fleet.begin(&server.id, Door::Read);
        let answer = match self.servers.get(&server, key, (*method).clone(), conditions, id).await {
            // The original's node knows no HEAD.
            Err(ServerError::Unsupported(_)) if **method == Method::HEAD => {
                self.servers.get(&server, key, Method::GET, conditions, id).await
            }
            answer => answer,
        };
        drop(in_flight);
        match &answer {
            Ok(_) | Err(ServerError::Missing | ServerError::Precondition) => {
                self.fleet.succeeded(&server.id, Door::Read);
            }
            Err(error) => self.fleet.failed(&server.id, Door::Read, error),
        }
        (server, answer)
    }
}
