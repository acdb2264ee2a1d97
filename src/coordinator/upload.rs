//! One upload: choose a shard, stream the body to it, try the next shard where that fails, then make it safe.

use std::{collections::HashSet, sync::Arc, time::Instant};

use http::{HeaderMap, Request, header, request};

use super::{
    Coordinator,
    error::{RequestError, Tried},
    fanout::{Blob, Fanout, Place, Reached, ShardFailure},
    finish::Finish,
    fleet::Door,
    lag::Patience,
    placement::{self, NoShard},
    replay::Kept,
    source::Source,
    tasks::{PushedAhead, TaskOrigin},
    usage::Reservation,
};
use crate::{
    http::{Answer, Payload, RequestBody, RequestId, headers, verify::Expected},
    model::{ClusterMap, Key, Meta, PoolName, Server, Shard, ShardId, Version, WriteLevel, size},
};

/// An upload that fails in so many shards fails: each may cost a connection time-out per server, and a client waits.
const MAX_SHARDS_TRIED: usize = 4;

/// A write that finds a newer version of its key gets a version beyond that one, so often: after the first time only those
/// who write the same key at the same moment can still be ahead.
pub(super) const MAX_VERSIONS_TRIED: usize = 4;

/// What a client asks for beside the bytes.
struct Order {
    pool: PoolName,
    level: WriteLevel,
    meta: Meta,
    conditions: HeaderMap,
    expected: Expected,
}

impl Order {
    fn read(map: &ClusterMap, head: &request::Parts) -> Result<Self, RequestError> {
        let bad = |error: &dyn std::fmt::Display| RequestError::Bad(error.to_string());
        let pool = choose_pool(map, head)?;
        Ok(Self {
            level: write_level(map, &pool, &head.headers)?,
            pool,
            meta: Meta::from_headers(&head.headers).map_err(|error| bad(&error))?,
            conditions: headers::pick(&head.headers, &[header::IF_MATCH, header::IF_NONE_MATCH]),
            expected: Expected::from_headers(&head.headers).map_err(|error| bad(&error))?,
        })
    }
}

/// The pool a request names, else the one that its `Host` chooses, else the default pool.
fn choose_pool(map: &ClusterMap, head: &request::Parts) -> Result<PoolName, RequestError> {
    if let Some(name) = text(&head.headers, headers::POOL)? {
        return name.parse().map_err(|error| RequestError::Bad(format!("{}: {error}", headers::POOL)));
    }
    let host = text(&head.headers, header::HOST).ok().flatten().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    let chosen =
        map.pools.iter().find(|(_, pool)| pool.hosts.iter().any(|named| named.eq_ignore_ascii_case(host)));
    Ok(chosen.map(|(name, _)| name.clone()).unwrap_or_default())
}

/// The write level a request asks for, else the pool's.
pub(super) fn write_level(
    map: &ClusterMap,
    pool: &PoolName,
    asked: &HeaderMap,
) -> Result<WriteLevel, RequestError> {
    match text(asked, headers::WRITE)? {
        Some(level) => level.parse().map_err(RequestError::Bad),
        None => Ok(map.pool(pool).write),
    }
}

/// A header's text; one that is no text is the client's mistake.
fn text(from: &HeaderMap, name: http::HeaderName) -> Result<Option<&str>, RequestError> {
    let Some(value) = from.get(&name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| RequestError::Bad(format!("the value of {name} is no text")))
}

/// An upload that is stored on at least one server of a shard.
struct Placed {
    shard: Arc<Shard>,
    reached: Reached,
    reservation: Reservation,
    ahead: Option<PushedAhead>,
}

impl Coordinator {
    /// Takes an upload. When this returns `Ok`, the blob has its copies or a durable task for each that is missing.
    pub(super) async fn upload(
        self: &Arc<Self>,
        request: Request<Payload>,
        key: Key,
        id: &RequestId,
    ) -> Result<Answer, RequestError> {
        let (coordinator, id) = (Arc::clone(self), id.clone());
        // A task of its own: a client that goes away once the last byte is on its way to the servers must not leave a
        // blob that is stored, but neither counted nor copied. One that goes earlier ends the body with an error.
        // In a box, because tokio moves what it is given several times, and this has several KiB.
        let taken = self.tasks.spawn(Box::pin(async move {
            let started = Instant::now();
            let uploaded = coordinator.take(request, key, id).await;
            coordinator.count_upload(&uploaded, started);
            uploaded
        }));
        taken.await.unwrap_or_else(|error| Err(RequestError::Internal(error.to_string())))
    }

    async fn take(&self, request: Request<Payload>, key: Key, id: RequestId) -> Result<Answer, RequestError> {
        let (head, body) = request.into_parts();
        let map = self.known_map().await?;
        let order = Order::read(&map, &head)?;
        // Its values hold the buffer that they were read into.
        drop(head);
        let body = RequestBody::new(body, self.config.max_body, self.config.body_idle())
            .map_err(|error| RequestError::Source(error.into()))?;
        let kept = Kept::new(&self.replays, self.config.replay);
        let mut source = Source::new(body, order.expected.verifier(), kept);
        let mut versions_tried = 0;
        loop {
            let version = self.clock.next();
            versions_tried += 1;
            let blob = Blob { key: &key, version, meta: &order.meta, conditions: &order.conditions, id: &id };
            let fanout = Fanout {
                servers: &self.servers,
                fleet: &self.fleet,
                patience: Patience { first: self.config.patience(), last: self.servers.timeouts().answer },
                spool_dir: &self.config.spool_dir,
                blob,
            };
            match self.store_and_finish(&map, &order.pool, order.level, &fanout, &mut source).await {
                Err(RequestError::Superseded { held }) => {
                    self.follow(held);
                    if versions_tried == MAX_VERSIONS_TRIED || !source.can_replay() {
                        return Err(RequestError::Superseded { held });
                    }
                }
                done => return done,
            }
        }
    }

    /// Takes it with one version.
    async fn store_and_finish(
        &self,
        map: &Arc<ClusterMap>,
        pool: &PoolName,
        level: WriteLevel,
        fanout: &Fanout<'_>,
        source: &mut Source,
    ) -> Result<Answer, RequestError> {
        let Placed { shard, reached, reservation, ahead } =
            self.store_somewhere(map, pool, level, fanout, source).await?;
        for seen in reached.stored.iter().filter_map(|(_, stored)| stored.clock) {
            self.clock.follow(seen);
        }
        let finish = Finish {
            wanted: level.copies(shard.servers.len()),
            length: source.length(),
            checksum: source.checksum(),
            map: Arc::clone(map),
            shard,
            key: fanout.blob.key.clone(),
            version: fanout.blob.version,
            id: fanout.blob.id.clone(),
        };
        finish.run(self, reached, reservation, ahead).await
    }

    /// A server holds a newer version than this coordinator gave: another one's clock is ahead, or a write came in between.
    pub(super) fn follow(&self, held: Version) {
        metrics::counter!("backpack_coordinator_superseded_total").increment(1);
        if !self.clock.follow(held) {
            tracing::warn!(%held, "a server holds a version more than a day in the future: its key cannot be written before");
        }
    }

    /// Streams the body to a shard that takes it.
    async fn store_somewhere(
        &self,
        map: &ClusterMap,
        pool: &PoolName,
        level: WriteLevel,
        fanout: &Fanout<'_>,
        source: &mut Source,
    ) -> Result<Placed, RequestError> {
        // Shards that failed, and the last one.
        let mut tried_shards = HashSet::new();
        let mut slow_shards = HashSet::new();
        let (mut tried, mut attempts, mut servers_left) = (Tried::default(), 0, 0);
        loop {
            // A body of unknown length wants at least the room that it can be replayed with.
            let need = source.known_length().unwrap_or(source.length().max(self.config.replay));
            let shard = match self.choose(map, pool, need, level, &tried_shards) {
                Ok(shard) if attempts < MAX_SHARDS_TRIED => shard,
                Ok(_) => return Err(no_server(fanout, tried)),
                Err(_) if !tried.0.is_empty() => return Err(no_server(fanout, tried)),
                Err(NoShard::NoneWritable) => return Err(RequestError::NoneWritable),
                Err(NoShard::NoRoom) => return Err(RequestError::NoRoom(size::format(need))),
                Err(NoShard::AllDown) => return Err(no_server(fanout, tried)),
            };
            attempts += 1;
            let mut reservation = self.usage.reserve(&shard, need);
            tried_shards.insert(shard.id.clone());
            source.gather().await?;
            // One that was only slow is as good as another.
            let excluded = tried_shards.difference(&slow_shards).cloned().chain([shard.id.clone()]).collect();
            let elsewhere =
                || attempts < MAX_SHARDS_TRIED && self.has_another(map, pool, need, level, &excluded);
            let needed = level.copies(shard.servers.len());
            let servers = self.order_for_write(map, &shard, source.known_length().is_some());
            let mut place = Place {
                candidates: placement::candidates(&shard, servers, needed).into(),
                needed,
                reservation: &mut reservation,
                left: servers_left,
                elsewhere: &elsewhere,
            };
            let ahead = self.push_ahead(map, &shard, fanout, source, &place);
            match fanout.run(source, &mut place).await {
                Ok(reached) => return Ok(Placed { shard, reached, reservation, ahead }),
                Err(ShardFailure::Over(error)) => return Err(error),
                Err(ShardFailure::Elsewhere { tried: said, left, slow }) => {
                    tried.0.extend(said.0);
                    servers_left = servers_left.max(left);
                    for slow in slow_shards.drain() {
                        tried_shards.remove(&slow);
                    }
                    if slow {
                        slow_shards.insert(shard.id.clone());
                    }
                }
            }
        }
    }

    /// Begins to push the tasks that the upload is about to leave, while one server stores it: of one copy of a body that is all here.
    /// `None` if they are to be pushed once it is stored.
    ///
    /// Only where all servers are nodes of ours: a task that is left of an upload that was not stored, with this process dead, finds there
    /// that its version is not to be had. Other servers know no versions: it would copy what stood there before.
    fn push_ahead(
        &self,
        map: &ClusterMap,
        shard: &Shard,
        fanout: &Fanout<'_>,
        source: &Source,
        place: &Place<'_>,
    ) -> Option<PushedAhead> {
        // With conditions, the servers decide whether there is an upload at all.
        let is_sure = place.needed == 1 && source.whole().is_some() && fanout.blob.conditions.is_empty();
        let is_sure = is_sure && shard.servers.iter().all(|id| map.live.contains(id));
        let holder = fanout.first(place).filter(|_| is_sure)?.id.clone();
        let Blob { key, version, id, .. } = fanout.blob;
        let origin = TaskOrigin { shard: &shard.id, key, version: Some(version), id };
        let holders = [holder];
        let others = shard.servers.iter().filter(|id| **id != holders[0]);
        let tasks: Vec<_> = others.map(|to| origin.copy(&holders, to, source.length())).collect();
        let push = if tasks.is_empty() { None } else { self.begin_push(&tasks, &holders) }?;
        let [holder] = holders;
        Some(PushedAhead { holder, push })
    }

    /// A shard with as many servers that answer as the level asks for; where there is none, one with any; where there is
    /// none either, one with servers that failed lately is still worth a try.
    fn choose(
        &self,
        map: &ClusterMap,
        pool: &PoolName,
        need: u64,
        level: WriteLevel,
        tried: &HashSet<ShardId>,
    ) -> Result<Arc<Shard>, NoShard> {
        let used = |shard: &Shard| self.usage.used(shard);
        let enough = |shard: &Shard| self.has_enough(map, shard, level);
        let one = |shard: &Shard| self.answering(map, shard, level) > 0;
        let any = |shard: &Shard| takers(map, shard, level).next().is_some();
        let random = fastrand::f64();
        let mut chosen = Err(NoShard::AllDown);
        for answers in [&enough as &dyn Fn(&Shard) -> bool, &one, &any] {
            if matches!(chosen, Err(NoShard::AllDown)) {
                chosen = placement::choose_shard(map, pool, need, tried, used, answers, random);
            }
        }
        chosen
    }

    /// Whether another shard has as many servers that answer as the level asks for.
    fn has_another(
        &self,
        map: &ClusterMap,
        pool: &PoolName,
        need: u64,
        level: WriteLevel,
        tried: &HashSet<ShardId>,
    ) -> bool {
        let used = |shard: &Shard| self.usage.used(shard);
        let enough = |shard: &Shard| self.has_enough(map, shard, level);
        placement::choose_shard(map, pool, need, tried, used, enough, 0.0).is_ok()
    }

    /// Whether as many servers of a shard answer as an upload of that level needs.
    fn has_enough(&self, map: &ClusterMap, shard: &Shard, level: WriteLevel) -> bool {
        self.answering(map, shard, level) >= level.copies(shard.servers.len())
    }

    /// How many servers of a shard take an upload of that level, as far as is known.
    fn answering(&self, map: &ClusterMap, shard: &Shard, level: WriteLevel) -> usize {
        takers(map, shard, level).filter(|server| !self.fleet.is_down(&server.id, Door::Write)).count()
    }
}

/// The servers of a shard that an upload of that level may go to.
fn takers<'a>(
    map: &'a ClusterMap,
    shard: &'a Shard,
    level: WriteLevel,
) -> impl Iterator<Item = &'a Arc<Server>> {
    let needed = level.copies(shard.servers.len());
    map.servers_of(shard).filter(move |server| placement::may_take(shard, &server.id, needed))
}

fn no_server(fanout: &Fanout<'_>, tried: Tried) -> RequestError {
    RequestError::NoServer { key: fanout.blob.key.to_string(), tried }
}
