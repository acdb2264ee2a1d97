//! One comparison of one shard.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};

use super::{
    Found, Keeper,
    pages::{Asker, Keys, Spans},
    record::Going,
    span::Span,
    survey::Survey,
    verdict::{Held, Verdict, verdict},
    work::{Sink, Work},
};
use crate::{
    client::{ServerError, Servers},
    cluster::edit::EditError,
    daemon::unix_ms,
    http::RequestId,
    model::{ClusterMap, Key, Operation, Server, ServerId, Shard, Task, Version},
    queue::QueueError,
};

/// Keys asked for at the same time of servers that cannot list.
const LOOKS_AT_ONCE: usize = 32;
/// Lines of a page of damage.
const DAMAGED_LIMIT: usize = 1000;
/// What a server says is wrong with a stretch of a volume that hides records.
const NO_RECORD: &str = "no_record";

/// Why a comparison did not come to its end. What was queued by then stays queued.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// A server failed in the middle.
    #[error("server {server}: {error}")]
    Server {
        /// Which.
        server: ServerId,
        /// How.
        error: ServerError,
    },
    /// The queue takes no tasks.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// What is known of comparisons cannot be read or written.
    #[error(transparent)]
    Record(#[from] EditError),
    /// There are not two servers that could be compared.
    #[error("{0}")]
    Nothing(String),
    /// A server has as many tasks as the queue should hold. It goes on when some are done.
    #[error(
        "server {server} has as many tasks waiting as the queue should hold: run it again when they are done"
    )]
    NoRoom {
        /// Which.
        server: ServerId,
    },
    /// Another process goes on with it.
    #[error("another process took this comparison over")]
    TakenOver,
    /// Not one copy could be made.
    #[error("no copy can be made: {0}")]
    NotCarried(String),
}

/// One comparison of one shard.
pub struct Scrub<'a> {
    /// The map, for addresses.
    pub map: &'a ClusterMap,
    /// The shard.
    pub shard: &'a Shard,
    /// Only what this server lacks.
    pub only: Option<&'a ServerId>,
    /// Connections to servers.
    pub servers: Arc<Servers>,
    /// Where what is missing goes.
    pub sink: Sink<'a>,
    /// So long it is waited until the queue has room for more tasks of a server.
    pub patience: Duration,
    /// Told now and then what was found so far.
    pub progress: &'a (dyn Fn(&Found) + Send + Sync),
}

/// What a comparison found that is not remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What it found.
    pub found: Found,
    /// When the oldest write was made that is missing somewhere, milliseconds since 1970; `u64::MAX` if none is.
    pub oldest_missing_ms: u64,
}

struct Run<'a> {
    scrub: &'a Scrub<'a>,
    asker: &'a Asker,
    survey: &'a Survey,
    /// Those of the survey, in the order in which they are judged.
    servers: &'a [Arc<Server>],
    work: Work<'a>,
    going: Going,
    deletes_since_ms: u64,
    hidden: Vec<Hidden>,
}

/// A stretch of a server's volume of which nobody knows whose records it held.
struct Hidden {
    server: Arc<Server>,
    place: String,
}

impl Scrub<'_> {
    /// Compares, from the first key to the last, or from where the one before was left. It is remembered unless it is only a
    /// look, or only about one server.
    pub async fn run(&self, mut keeper: Keeper) -> Result<Found, ScrubError> {
        if !matches!(self.sink, Sink::Queue(_)) || self.only.is_some() {
            return Ok(self.look(&keeper).await?.found);
        }
        let (going, settled_ms) = keeper.begin(&self.shard.servers).await?;
        match self.compare(going, settled_ms, Some(&mut keeper)).await {
            Ok((going, hidden)) => {
                // Before servers may forget: what they forgot must not be asked of others.
                let settled_ms = keeper.end(&going).await?;
                self.settle(&going.found, settled_ms).await;
                if going.found.who.is_complete() {
                    self.settle_stretches(&hidden).await;
                }
                Ok(going.found)
            }
            Err(ScrubError::TakenOver) => Err(ScrubError::TakenOver),
            Err(error @ ScrubError::NoRoom { .. }) => {
                keeper.leave(None).await;
                Err(error)
            }
            Err(error) => {
                keeper.leave(Some(&error.to_string())).await;
                Err(error)
            }
        }
    }

    /// Compares, and remembers nothing of it.
    pub async fn look(&self, keeper: &Keeper) -> Result<Looked, ScrubError> {
        let settled_ms = keeper.read().await?.settled_ms;
        let (Going { found, oldest_missing_ms, .. }, _) =
            self.compare(Going::fresh(unix_ms()), settled_ms, None).await?;
        Ok(Looked { found, oldest_missing_ms })
    }

    /// Tells the servers which deletes they may forget. One that is not told keeps them until it is.
    async fn settle(&self, found: &Found, before_ms: u64) {
        let id = RequestId::fresh();
        let servers = self.map.servers_of(self.shard);
        let tell = servers.filter(|server| found.who.compared.contains(&server.id)).map(|server| {
            let id = &id;
            async move {
                if let Err(error) = self.servers.settle_deletes(server, before_ms, id).await {
                    tracing::debug!(server = %server.id, %error, "the server was not told which deletes are settled");
                }
            }
        });
        join_all(tell).await;
    }

    /// Tells the servers that what these stretches held was sought: all servers were compared since they were seen, and whatever
    /// was missing is on the queue. Until one is told it knows of damage.
    async fn settle_stretches(&self, hidden: &[Hidden]) {
        let id = RequestId::fresh();
        let mut down = None;
        for Hidden { server, place } in hidden.iter() {
            // There may be very many; the next comparison tells it.
            if down == Some(&server.id) {
                continue;
            }
            if let Err(error) = self.servers.settle_stretch(server, place, &id).await {
                tracing::debug!(server = %server.id, place, %error, "the server was not told that a stretch is settled");
                down = error.is_down().then_some(&server.id);
            }
        }
    }

    /// Compares; gives with what it found the stretches that it saw when it began.
    async fn compare(
        &self,
        going: Going,
        deletes_since_ms: u64,
        mut keeper: Option<&mut Keeper>,
    ) -> Result<(Going, Vec<Hidden>), ScrubError> {
        let asker = Asker { servers: self.servers.clone(), id: RequestId::fresh() };
        let (survey, who) = Survey::of(self.shard, self.map, self.only, &asker).await;
        let servers = survey.servers();
        if survey.listing.is_empty() || servers.len() < 2 {
            return Err(ScrubError::Nothing(who.why_nothing()));
        }
        let behind = match &keeper {
            // Gone on with from the middle, it says nothing of what came before.
            Some(keeper) if going.after.is_none() => keeper.close_behind(&servers).await?,
            _ => Vec::new(),
        };
        let work = Work::new(self.sink.clone(), self.map, &servers, self.patience).await?;
        let (asker, survey, servers) = (&asker, &survey, &servers);
        let hidden = Vec::new();
        let mut run = Run { scrub: self, asker, survey, servers, work, going, deletes_since_ms, hidden };
        run.going.found.who.add(who);
        // Gone on with, it was asked for already.
        if run.going.after.is_none() {
            run.damaged().await?;
        }
        run.spans(keeper.as_deref_mut()).await?;
        run.work.flush(&mut run.going.found).await?;
        if let Some(keeper) = keeper {
            keeper.end_behind(&behind).await?;
        }
        Ok((run.going, run.hidden))
    }
}

impl Run<'_> {
    /// What servers know to be damaged, and have not got again.
    async fn damaged(&mut self) -> Result<(), ScrubError> {
        let survey = self.survey;
        for server in &survey.listing {
            let mut after: Option<String> = None;
            loop {
                let (servers, id) = (&self.asker.servers, &self.asker.id);
                let ask = || servers.damaged(server, after.as_deref(), DAMAGED_LIMIT, id);
                let page = self.asker.patiently(&server.id, ask).await?;
                for line in &page {
                    // Damage without a key is seen where listings differ.
                    let Some(key) = &line.key else {
                        if line.what == NO_RECORD {
                            self.hidden.push(Hidden { server: server.clone(), place: line.place.clone() });
                        }
                        continue;
                    };
                    let op = if line.deleted { Operation::Delete } else { Operation::Copy };
                    if line.deleted && line.version.is_none() || !self.is_wanted(&server.id) {
                        continue;
                    }
                    self.going.found.damaged += 1;
                    self.going.oldest_missing_ms =
                        self.going.oldest_missing_ms.min(line.version.map_or(0, Version::unix_ms));
                    self.going.found.example(key);
                    let others = self.servers.iter().filter(|other| other.id != server.id);
                    let from = others.map(|other| other.id.clone()).collect();
                    let task = self.task(op, key, line.version, from, &server.id, 0);
                    self.work.add(task, &mut self.going.found).await?;
                }
                match page.last().filter(|_| page.len() == DAMAGED_LIMIT) {
                    Some(last) => after = Some(last.place.clone()),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn spans(&mut self, mut keeper: Option<&mut Keeper>) -> Result<(), ScrubError> {
        let (asker, listing) = (self.asker, &self.survey.listing);
        let mut spans = Spans::new(asker, listing, self.going.after.clone(), self.deletes_since_ms);
        while let Some(span) = spans.next().await? {
            // What servers that cannot list hold, digests do not say.
            if span.differs() || !self.survey.asked.is_empty() {
                self.keys(&span, keeper.as_deref_mut()).await?;
            } else {
                self.going.found.keys += span.keys();
            }
            self.passed(span.until, keeper.as_deref_mut()).await?;
        }
        Ok(())
    }

    /// All up to that key was compared.
    async fn passed(&mut self, key: Option<Key>, keeper: Option<&mut Keeper>) -> Result<(), ScrubError> {
        self.going.after = key;
        (self.scrub.progress)(&self.going.found);
        if let Some(keeper) = keeper.filter(|keeper| keeper.is_due()) {
            self.work.flush(&mut self.going.found).await?;
            keeper.save(&self.going).await?;
        }
        Ok(())
    }

    /// Goes over a span key by key.
    async fn keys(&mut self, span: &Span, mut keeper: Option<&mut Keeper>) -> Result<(), ScrubError> {
        let mut keys = Keys::of(self.asker, &self.survey.listing, span);
        loop {
            let mut batch = Vec::with_capacity(LOOKS_AT_ONCE);
            while batch.len() < LOOKS_AT_ONCE
                && let Some(next) = keys.next().await?
            {
                batch.push(next);
            }
            let is_last = batch.len() < LOOKS_AT_ONCE;
            self.look(&mut batch).await?;
            for (key, held) in &batch {
                self.judge(key, held).await?;
            }
            self.going.found.keys += batch.len() as u64;
            if let Some((last, _)) = batch.pop() {
                self.passed(Some(last), keeper.as_deref_mut()).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Asks the servers that cannot list what they hold under these keys.
    async fn look(&self, batch: &mut [(Key, Vec<Held>)]) -> Result<(), ScrubError> {
        for server in &self.survey.asked {
            let looks = batch.iter().map(|(key, _)| self.asker.look(server, key));
            let looked = try_join_all(looks).await?;
            batch.iter_mut().zip(looked).for_each(|((_, held), looked)| held.push(looked));
        }
        Ok(())
    }

    async fn judge(&mut self, key: &Key, held: &[Held]) -> Result<(), ScrubError> {
        let (op, version, length, holders, lacking) = match verdict(held, self.deletes_since_ms) {
            Verdict::Same => return Ok(()),
            Verdict::Conflict(version) => {
                tracing::warn!(%key, %version, "servers hold different bytes of one version: nothing is done");
                self.going.found.conflicts += 1;
                self.going.found.example(key);
                return Ok(());
            }
            Verdict::Lack { op, version, length, holders, lacking } => {
                (op, version, length, holders, lacking)
            }
        };
        self.going.oldest_missing_ms = self.going.oldest_missing_ms.min(version.unix_ms());
        let from: Vec<ServerId> = match op {
            Operation::Copy => holders.iter().map(|at| self.servers[*at].id.clone()).collect(),
            Operation::Delete => Vec::new(),
        };
        for at in lacking {
            let to = self.servers[at].id.clone();
            if !self.is_wanted(&to) {
                continue;
            }
            match op {
                Operation::Copy => self.going.found.missing_copies += 1,
                Operation::Delete => self.going.found.missing_deletes += 1,
            }
            self.going.found.example(key);
            let task = self.task(op, key, Some(version), from.clone(), &to, length);
            self.work.add(task, &mut self.going.found).await?;
        }
        Ok(())
    }

    fn is_wanted(&self, server: &ServerId) -> bool {
        self.scrub.only.is_none_or(|only| only == server)
    }

    fn task(
        &self,
        op: Operation,
        key: &Key,
        version: Option<Version>,
        from: Vec<ServerId>,
        to: &ServerId,
        length: u64,
    ) -> Task {
        Task {
            op,
            shard: Some(self.scrub.shard.id.clone()),
            key: key.clone(),
            version,
            from,
            to: to.clone(),
            length,
            // So long it has been missing, as far as anybody knows.
            created_ms: version.map_or_else(unix_ms, Version::unix_ms).min(unix_ms()),
            request_id: self.asker.id.as_str().to_owned(),
        }
    }
}
