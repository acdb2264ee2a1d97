//! Streams one body to several servers of one shard at once, replacing servers that fail or are late by others.

use std::{collections::VecDeque, path::Path, sync::Arc};

use http::HeaderMap;

use super::{
    error::{RequestError, Tried},
    fleet::{Door, Fleet},
    lag::Patience,
    running::{Known, Part, Running},
    source::Source,
    usage::Reservation,
};
use crate::{
    client::{PutHead, ServerError, Servers, Stored},
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
    Elsewhere {
        /// What they said.
        tried: Tried,
        /// How many servers the upload left because they were late, here and before.
        left: u32,
        /// Some of them may only be slow: later this shard may be tried once more.
        slow: bool,
    },
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
    /// How long a server may keep the upload waiting.
    pub patience: Patience,
    /// Where bodies are spooled for servers that want a length.
    pub spool_dir: &'a Path,
    /// What is stored.
    pub blob: Blob<'a>,
}

/// The shard that an upload goes to.
pub struct Place<'p> {
    /// Its servers that were not asked yet, the best first.
    pub candidates: VecDeque<Arc<Server>>,
    /// How many of them are to have the blob.
    pub needed: usize,
    /// What is set aside there for the blob.
    pub reservation: &'p mut Reservation,
    /// How many servers of other shards the upload left because they were late.
    pub left: u32,
    /// Whether another shard could take the upload.
    pub elsewhere: &'p (dyn Fn() -> bool + Send + Sync),
}

impl<'a> Fanout<'a> {
    /// Streams the body to as many of the candidates as are needed, the first ones first. `Ok` says which servers have it:
    /// at least one, but fewer than needed where servers failed after the point of replay.
    pub async fn run(&'a self, source: &mut Source, place: &mut Place<'_>) -> Result<Reached, ShardFailure> {
        let mut running = Running::new(self, place.left);
        loop {
            self.fill(source, place, &mut running).await?;
            // Those who are late have nothing to say any more once enough others have the blob.
            if !running.goes_on() || running.reached.stored.len() >= place.needed {
                break;
            }
            if source.has_ended() {
                running.next_event(place, Known::of(source)).await;
                continue;
            }
            let part = tokio::select! {
                part = source.next() => part?,
                () = running.settle_next() => continue,
            };
            if !place.reservation.grow_to(source.length()) {
                return Err(no_room(source));
            }
            if let Some(bytes) = part {
                running.feed(&Part::Bytes(bytes), None, place, Known::of(source)).await;
            }
            if source.has_ended() {
                running.feed(&Part::End, None, place, Known::of(source)).await;
            }
        }
        let left = running.left();
        self.conclude(source, running.end(), left).await
    }

    /// The server that is asked before all others, as things stand.
    pub fn first<'p>(&self, place: &'p Place<'_>) -> Option<&'p Arc<Server>> {
        let candidates = &place.candidates;
        candidates.iter().find(|server| self.answers(server)).or(candidates.front())
    }

    /// As far as is known.
    fn answers(&self, server: &Server) -> bool {
        !self.fleet.is_down(&server.id, Door::Write)
    }

    async fn conclude(&self, source: &Source, reached: Reached, left: u32) -> Result<Reached, ShardFailure> {
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
            return Err(ShardFailure::Elsewhere { tried: reached.failed, left, slow: false });
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
        place: &mut Place<'_>,
        running: &mut Running<'a>,
    ) -> Result<(), ShardFailure> {
        place.candidates.extend(running.take_again());
        loop {
            while running.engaged() < place.needed && source.can_replay() {
                if running.refused_for_good() {
                    return Ok(());
                }
                let Some(server) = self.next_candidate(place, running) else { break };
                if source.known_length().is_none() && self.fleet.needs_length(&server.id) {
                    running.want_length.push(server);
                } else {
                    self.start(source, server, place, running).await?;
                }
            }
            if running.engaged() > 0 || running.want_length.is_empty() || !source.can_replay() {
                break;
            }
            source.spool(self.spool_dir).await?;
            if !place.reservation.grow_to(source.length()) {
                return Err(no_room(source));
            }
            place.candidates.extend(running.want_length.drain(..));
        }
        if !source.can_replay() {
            return Ok(());
        }
        // Those that want a length get their copies from the others, which costs no level.
        let short = running.engaged() + running.want_length.len() < place.needed;
        let no_level = short && place.needed > 1 && !source.has_ended();
        let is_lost = running.engaged() == 0 && (running.has_late() || !place.candidates.is_empty());
        if no_level || is_lost && (place.elsewhere)() {
            // The level cannot be reached here, and no server has the last byte yet; or none of them answers. Better a
            // shard where it can.
            return Err(if running.refused_for_good() {
                RequestError::Precondition.into()
            } else {
                ShardFailure::Elsewhere {
                    slow: running.has_late(),
                    left: running.left(),
                    tried: running.said(),
                }
            });
        }
        Ok(())
    }

    /// The next server to ask: one that answers, as far as is known. Where none does, any is worth a try, but not in the
    /// place of one that is late, nor where another shard answers.
    fn next_candidate(&self, place: &mut Place<'_>, running: &Running<'_>) -> Option<Arc<Server>> {
        if let Some(next) = place.candidates.iter().position(|server| self.answers(server)) {
            return place.candidates.remove(next);
        }
        let is_lost = running.has_late() || running.engaged() == 0 && (place.elsewhere)();
        if is_lost { None } else { place.candidates.pop_front() }
    }

    async fn start(
        &'a self,
        source: &mut Source,
        server: Arc<Server>,
        place: &Place<'_>,
        running: &mut Running<'a>,
    ) -> Result<(), ShardFailure> {
        let head = PutHead {
            key: self.blob.key.clone(),
            version: Some(self.blob.version),
            meta: self.blob.meta.clone(),
            length: source.known_length(),
            checksum: source.has_ended().then(|| source.checksum()),
            conditions: self.blob.conditions.clone(),
        };
        let whole = source.whole();
        let (id, is_whole) = (server.id.clone(), whole.is_some());
        running.start(server, head, whole);
        if is_whole {
            return Ok(());
        }
        let mut position = 0;
        while let Some(bytes) = source.replay_from(position).await? {
            position += bytes.len() as u64;
            running.feed(&Part::Bytes(bytes), Some(&id), place, Known::of(source)).await;
        }
        if source.has_ended() {
            running.feed(&Part::End, Some(&id), place, Known::of(source)).await;
        }
        Ok(())
    }
}

/// Our own nodes say what they received.
fn is_wrong(stored: &Stored, source: &Source) -> bool {
    stored.checksum.is_some_and(|received| received != source.checksum())
}

/// A body of unknown length outgrew the shard: elsewhere there may be room.
fn no_room(source: &Source) -> ShardFailure {
    if source.can_replay() {
        ShardFailure::Elsewhere { tried: Tried::default(), left: 0, slow: false }
    } else {
        RequestError::NoRoom(size::format(source.length())).into()
    }
}
