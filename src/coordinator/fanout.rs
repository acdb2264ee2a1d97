//! Streams one body to several servers of one shard at once, replacing servers that fail early by others.

use std::{collections::VecDeque, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::HeaderMap;

use super::{
    error::{RequestError, Tried},
    fleet::{Door, Fleet},
    source::Source,
    usage::Reservation,
};
use crate::{
    client::{PutBody, PutHead, PutSender, ServerError, Servers, Stored},
    http::RequestId,
    model::{Key, Meta, Server, Version, size},
};

/// What is stored, and how.
pub struct Blob<'a> {
    /// The blob's key.
    pub key: &'a Key,
    /// Its version.
    pub version: Version,
    /// Headers to keep.
    pub meta: &'a Meta,
    /// `If-Match` and `If-None-Match`, which the servers decide.
    pub conditions: &'a HeaderMap,
    /// The request.
    pub id: &'a RequestId,
}

/// Servers that have the blob now, and those that failed.
#[derive(Default)]
pub struct Reached {
    /// Durable there.
    pub stored: Vec<(Arc<Server>, Stored)>,
    /// What the others said.
    pub failed: Tried,
}

/// Why a shard did not take an upload.
pub enum ShardFailure {
    /// No server took it, and the body can be replayed: try another shard.
    Elsewhere(Tried),
    /// It is over: tell the client.
    Over(RequestError),
}

impl<E: Into<RequestError>> From<E> for ShardFailure {
    fn from(error: E) -> Self {
        Self::Over(error.into())
    }
}

/// What a fan-out works with.
pub struct Fanout<'a> {
    /// Connections.
    pub servers: &'a Servers,
    /// What is known of the servers.
    pub fleet: &'a Fleet,
    /// Where bodies are spooled for servers that want a length.
    pub spool_dir: &'a Path,
    /// What is stored.
    pub blob: Blob<'a>,
}

/// What is handed to a server: the next bytes, or the word that the body is complete.
enum Part {
    Bytes(Bytes),
    End,
}

/// How a request ended.
struct Outcome {
    server: Arc<Server>,
    /// It was told the body's length.
    had_length: bool,
    result: Result<Stored, ServerError>,
}

/// Requests on their way.
#[derive(Default)]
struct Running<'a> {
    puts: FuturesUnordered<BoxFuture<'a, Outcome>>,
    feeds: Vec<(Arc<Server>, PutSender)>,
    reached: Reached,
    /// Servers that want a length, while the body has none yet. Others are better; the last resort is to spool the body.
    want_length: Vec<Arc<Server>>,
    /// The last part is there to be handed out. Before that no server can have the whole blob, whatever it answers.
    complete: bool,
}

impl Running<'_> {
    /// Servers that have the blob, or are getting it.
    fn engaged(&self) -> usize {
        self.puts.len() + self.reached.stored.len()
    }
}

impl<'a> Fanout<'a> {
    /// Streams the body to `needed` of the candidates, the first ones first. `Ok` says which servers have it: at least
    /// one, but fewer than needed where servers failed after the point of replay.
    pub async fn run(
        &'a self,
        source: &mut Source,
        candidates: Vec<Arc<Server>>,
        needed: usize,
        reservation: &mut Reservation,
    ) -> Result<Reached, ShardFailure> {
        let mut candidates = VecDeque::from(candidates);
        let mut running = Running::default();
        loop {
            self.fill(source, &mut candidates, needed, reservation, &mut running).await?;
            if running.puts.is_empty() {
                break;
            }
            if source.has_ended() {
                running.settle_next(self).await;
                continue;
            }
            let part = tokio::select! {
                part = source.next() => part?,
                Some(outcome) = running.puts.next() => {
                    running.settle(self, outcome);
                    continue;
                }
            };
            if !reservation.grow_to(source.length()) {
                return Err(no_room(source));
            }
            running.complete = source.has_ended();
            if let Some(bytes) = part {
                running.feed_all(self, &Part::Bytes(bytes)).await;
            }
            if source.has_ended() {
                running.feed_all(self, &Part::End).await;
                running.feeds.clear();
            }
        }
        let wanted_length =
            running.want_length.iter().map(|server| (server.id.clone(), ServerError::NeedsLength));
        running.reached.failed.0.extend(wanted_length);
        self.conclude(source, running.reached).await
    }

    async fn conclude(&self, source: &Source, reached: Reached) -> Result<Reached, ShardFailure> {
        if let Some(held) = reached.stored.iter().filter_map(|(_, stored)| stored.version).max()
            && held > self.blob.version
        {
            return Err(RequestError::Superseded { held }.into());
        }
        if reached.stored.iter().any(|(_, stored)| is_wrong(stored, source)) {
            self.undo(&reached).await;
            return Err(RequestError::WrongBytes.into());
        }
        if !reached.stored.is_empty() {
            return Ok(reached);
        }
        if reached.failed.0.iter().any(|(_, error)| *error == ServerError::Precondition) {
            return Err(RequestError::Precondition.into());
        }
        if source.can_replay() {
            return Err(ShardFailure::Elsewhere(reached.failed));
        }
        Err(RequestError::BrokenOff { sent: source.length(), tried: reached.failed }.into())
    }

    /// Takes a blob of wrong bytes back wherever it went. Nobody was told of this version.
    async fn undo(&self, reached: &Reached) {
        for (server, _) in &reached.stored {
            let undone = self.servers.delete(server, self.blob.key, self.blob.version, self.blob.id).await;
            let (server, key, request_id) = (&server.id, self.blob.key, self.blob.id);
            tracing::error!(%server, %key, %request_id, ?undone, "the server received other bytes than were sent");
        }
    }

    /// Starts requests until enough run, as long as the body can be replayed.
    async fn fill(
        &'a self,
        source: &mut Source,
        candidates: &mut VecDeque<Arc<Server>>,
        needed: usize,
        reservation: &mut Reservation,
        running: &mut Running<'a>,
    ) -> Result<(), ShardFailure> {
        loop {
            while running.engaged() < needed && source.can_replay() {
                if running.refused_for_good() {
                    return Ok(());
                }
                let Some(server) = candidates.pop_front() else { break };
                if source.known_length().is_none() && self.fleet.needs_length(&server.id) {
                    running.want_length.push(server);
                } else {
                    self.start(source, server, running).await?;
                }
            }
            if running.engaged() > 0 || running.want_length.is_empty() || !source.can_replay() {
                break;
            }
            source.spool(self.spool_dir).await?;
            if !reservation.grow_to(source.length()) {
                return Err(no_room(source));
            }
            candidates.extend(running.want_length.drain(..));
        }
        // Those that want a length get their copies from the others, which costs no level.
        let short = running.engaged() + running.want_length.len() < needed;
        if short && needed > 1 && source.can_replay() && !source.has_ended() {
            // The level cannot be reached here, and no server has the last byte yet: better a shard where it can.
            let tried = std::mem::take(&mut running.reached.failed);
            return Err(if running.refused_for_good() {
                RequestError::Precondition.into()
            } else {
                ShardFailure::Elsewhere(tried)
            });
        }
        Ok(())
    }

    async fn start(
        &'a self,
        source: &mut Source,
        server: Arc<Server>,
        running: &mut Running<'a>,
    ) -> Result<(), ShardFailure> {
        running.complete = source.has_ended();
        let head = PutHead {
            key: self.blob.key.clone(),
            version: Some(self.blob.version),
            meta: self.blob.meta.clone(),
            length: source.known_length(),
            checksum: source.has_ended().then(|| source.checksum()),
            conditions: self.blob.conditions.clone(),
        };
        let (sender, body) = PutBody::channel(head.length);
        let target = Arc::clone(&server);
        let in_flight = self.fleet.begin(&server.id, Door::Write);
        let put = async move {
            let result = self.servers.put(&target, &head, body, self.blob.id).await;
            drop(in_flight);
            Outcome { server: target, had_length: head.length.is_some(), result }
        };
        running.puts.push(Box::pin(put));
        let mut position = 0;
        while let Some(bytes) = source.replay_from(position).await? {
            position += bytes.len() as u64;
            if !running.feed(self, &server, &sender, &Part::Bytes(bytes)).await {
                return Ok(());
            }
        }
        if source.has_ended() {
            running.feed(self, &server, &sender, &Part::End).await;
        } else {
            running.feeds.push((server, sender));
        }
        Ok(())
    }

    fn note(&self, server: &Server, result: &Result<Stored, ServerError>) {
        match result {
            Ok(_) => self.fleet.succeeded(&server.id, Door::Write),
            Err(error) => {
                self.fleet.failed(&server.id, Door::Write, error);
                metrics::counter!("backpack_coordinator_server_errors_total", "error" => error.label())
                    .increment(1);
                let (server, request_id, key) = (&server.id, self.blob.id, self.blob.key);
                tracing::warn!(%server, %error, %request_id, %key, "server did not take the upload");
            }
        }
    }
}

/// Our own nodes say what they received.
fn is_wrong(stored: &Stored, source: &Source) -> bool {
    stored.checksum.is_some_and(|received| received != source.checksum())
}

/// A body of unknown length outgrew the shard: elsewhere there may be room.
fn no_room(source: &Source) -> ShardFailure {
    if source.can_replay() {
        ShardFailure::Elsewhere(Tried::default())
    } else {
        RequestError::NoRoom(size::format(source.length())).into()
    }
}

impl Running<'_> {
    fn settle(&mut self, fanout: &Fanout<'_>, Outcome { server, had_length, result }: Outcome) {
        self.feeds.retain(|(fed, _)| fed.id != server.id);
        let result = match result {
            Ok(_) if !self.complete => {
                Err(ServerError::Broken("it answered before it had the whole body".to_owned()))
            }
            result => result,
        };
        fanout.note(&server, &result);
        match result {
            Ok(stored) => self.reached.stored.push((server, stored)),
            Err(ServerError::NeedsLength) if !had_length => self.want_length.push(server),
            Err(error) => self.reached.failed.0.push((server.id.clone(), error)),
        }
    }

    async fn settle_next(&mut self, fanout: &Fanout<'_>) {
        if let Some(outcome) = self.puts.next().await {
            self.settle(fanout, outcome);
        }
    }

    /// A condition that does not hold on one server is the answer; no other server is asked.
    fn refused_for_good(&self) -> bool {
        self.reached.failed.0.iter().any(|(_, error)| *error == ServerError::Precondition)
    }

    /// Hands a part to one server, settling requests that end meanwhile. `false` when its own request ended.
    async fn feed(&mut self, fanout: &Fanout<'_>, server: &Server, sender: &PutSender, part: &Part) -> bool {
        let send = async {
            match part {
                Part::Bytes(bytes) => sender.send(bytes.clone()).await,
                Part::End => {
                    sender.end().await;
                    true
                }
            }
        };
        tokio::pin!(send);
        loop {
            tokio::select! {
                biased;
                taken = &mut send => return taken,
                Some(outcome) = self.puts.next() => {
                    let own = outcome.server.id == server.id;
                    self.settle(fanout, outcome);
                    if own {
                        return false;
                    }
                }
            }
        }
    }

    /// Hands a part to every server. The slowest sets the pace, until it stalls and is given up.
    async fn feed_all(&mut self, fanout: &Fanout<'_>, part: &Part) {
        for (server, sender) in std::mem::take(&mut self.feeds) {
            if !self.is_running(&server) || !self.feed(fanout, &server, &sender, part).await {
                continue;
            }
            self.feeds.push((server, sender));
        }
    }

    fn is_running(&self, server: &Server) -> bool {
        let failed = self.reached.failed.0.iter().any(|(id, _)| *id == server.id);
        let stored = self.reached.stored.iter().any(|(done, _)| done.id == server.id);
        let refused = self.want_length.iter().any(|refused| refused.id == server.id);
        !failed && !stored && !refused
    }
}
