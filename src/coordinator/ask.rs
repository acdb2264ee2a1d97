//! Asks the servers of a shard for a blob: in turn, and the next one too while the one before is slow to begin its answer.
//! The first that has the blob answers the read; the others are dropped.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{HeaderMap, Method};
use tokio::time::{Instant, timeout};

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

/// What a server said.
type Answer = (Arc<Server>, Result<Answered, ServerError>);

/// A read on its way.
struct Asking<'a> {
    coordinator: &'a Coordinator,
    question: &'a Question<'a>,
    /// Servers that were not asked yet.
    rest: std::vec::IntoIter<Arc<Server>>,
    answers: FuturesUnordered<BoxFuture<'a, Answer>>,
    /// Servers that were asked and did not answer yet, and when.
    waiting: Vec<(Arc<Server>, Instant)>,
    patience: Option<Duration>,
    was_refused: bool,
    lacking: Vec<Arc<Server>>,
    tried: Tried,
}

impl Coordinator {
    /// Asks these servers, the first ones first.
    pub(super) async fn ask(&self, servers: Vec<Arc<Server>>, question: &Question<'_>) -> Asked {
        self.hedges.earn();
        let asking = Asking {
            coordinator: self,
            question,
            rest: servers.into_iter(),
            answers: FuturesUnordered::new(),
            waiting: Vec::with_capacity(2),
            patience: self.config.hedge_after(),
            was_refused: false,
            lacking: Vec::new(),
            tried: Tried::default(),
        };
        asking.run().await
    }
    async fn fetch(&self, server: Arc<Server>, question: &Question<'_>) -> Answer {
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

impl Asking<'_> {
    async fn run(mut self) -> Asked {
        let mut said = None;
        while said.is_none() && (!self.waiting.is_empty() || self.ask_next()) {
            let patience = self.patience.unwrap_or(Duration::MAX);
            said = match timeout(patience, self.answers.next()).await {
                Ok(Some((server, answer))) => self.hear(server, answer),
                Ok(None) => break,
                Err(_) => {
                    self.hedge();
                    None
                }
            };
        }
        Asked { said: said.unwrap_or(Said::Nothing), lacking: self.lacking, tried: self.tried }
    }

    /// Asks one server more, if there is one.
    fn ask_next(&mut self) -> bool {
        let Some(server) = self.rest.next() else { return false };
        self.waiting.push((Arc::clone(&server), Instant::now()));
        self.answers.push(Box::pin(self.coordinator.fetch(server, self.question)));
        true
    }

    /// Asks one server more although another one may still answer, if there is one, and if that is affordable.
    fn hedge(&mut self) {
        if self.rest.len() == 0 {
            return;
        }
        if self.coordinator.hedges.spend() {
            metrics::counter!("backpack_coordinator_hedged_reads_total").increment(1);
            self.ask_next();
        } else if !std::mem::replace(&mut self.was_refused, true) {
            metrics::counter!("backpack_coordinator_hedges_refused_total").increment(1);
        }
    }

    /// What an answer says, unless it is that others have to be asked.
    fn hear(&mut self, server: Arc<Server>, answer: Result<Answered, ServerError>) -> Option<Said> {
        self.waiting.retain(|(waiting, _)| waiting.id != server.id);
        match answer {
            Ok(Answered::Blob(blob)) => {
                self.note_overtaken();
                return Some(Said::Blob(server, blob));
            }
            Ok(Answered::Deleted(version)) => return Some(Said::Deleted(version)),
            Err(ServerError::Precondition) => return Some(Said::Precondition),
            Err(ServerError::Missing) => self.lacking.push(server),
            Err(error) => self.tried.0.push((server.id.clone(), error)),
        }
        // In the place of the one that said no, whoever else is still being waited for.
        self.ask_next();
        None
    }

    /// Notes who had time enough to answer first.
    fn note_overtaken(&self) {
        let Some(patience) = self.patience else { return };
        for (server, _) in self.waiting.iter().filter(|(_, asked)| asked.elapsed() >= patience) {
            metrics::counter!("backpack_coordinator_hedges_won_total").increment(1);
            if self.coordinator.fleet.overtaken(&server.id) {
                tracing::info!(server = %server.id, "it is slow to answer reads, others are asked before it");
            }
        }
    }
}
