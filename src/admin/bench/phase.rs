//! A phase: many requests of one kind, by a [`Schedule`], over connections that are opened before it starts.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    cpu,
    failure::{Failure, Kind},
    live::Live,
    measured::Measured,
    schedule::Schedule,
    tally::Tally,
    wire::Wire,
    work::{Verb, Work},
};
use crate::daemon::Shutdown;

/// A connection that could not be opened is tried again after this, so that a dead server is not hammered.
const PAUSE: Duration = Duration::from_millis(100);

/// The pacer looks at least this often whether the phase has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A phase.
pub struct Phase {
    /// What its requests share.
    pub work: Arc<Work>,
    /// What they do.
    pub verb: Verb,
    /// The blobs that they are about, in turn.
    pub blobs: Vec<u32>,
    /// When they start.
    pub schedule: Schedule,
    /// Connections.
    pub concurrency: usize,
}

/// A phase that runs.
struct Running {
    phase: Phase,
    started: OnceLock<Instant>,
    tally: Tally,
    /// The number of the next request.
    next: AtomicU64,
    /// In an open loop, how many requests are due that no connection has taken.
    due: Semaphore,
    /// Nothing begins any more.
    ended: AtomicBool,
}

impl Phase {
    /// Runs until all is sent, the time is over or `stop` begins, and what was sent is answered. Fails if there is no
    /// connection at all.
    pub async fn run(self, stop: &Shutdown) -> anyhow::Result<Measured> {
        let connections = self.concurrency.min(usize::try_from(self.schedule.total()).unwrap_or(usize::MAX));
        let wires = connect(&self, connections).await?;
        let running = Arc::new(Running {
            phase: self,
            started: OnceLock::new(),
            tally: Tally::default(),
            next: AtomicU64::new(0),
            due: Semaphore::new(0),
            ended: AtomicBool::new(false),
        });
        let cpu_before = cpu::seconds();
        running.started.get_or_init(Instant::now);
        let pacer = running.phase.schedule.rate.map(|_| {
            let running = running.clone();
            tokio::task::spawn_blocking(move || running.pace(connections))
        });
        let mut workers = JoinSet::new();
        for wire in wires {
            workers.spawn(running.clone().work(wire));
        }
        running.until_done(&mut workers, stop).await;
        let seconds = running.elapsed().as_secs_f64();
        running.end();
        if let Some(pacer) = pacer {
            pacer.await?;
        }
        let unsent = running.unsent();
        let cpu_seconds = cpu_before.and_then(|before| Some(cpu::seconds()? - before));
        Ok(Measured::of(&running.tally, &running.phase.schedule, unsent, seconds, cpu_seconds))
    }
}

/// Opens all connections at once, so that no request's latency has that in it.
async fn connect(phase: &Phase, count: usize) -> anyhow::Result<Vec<Wire>> {
    let mut wires: Vec<Wire> = (0..count).map(|_| phase.work.wire(phase.verb)).collect();
    let opened = join_all(wires.iter_mut().map(Wire::connect)).await;
    match opened.iter().all(Result::is_err).then(|| opened.into_iter().find_map(Result::err)).flatten() {
        Some(failure) => Err(anyhow::anyhow!("{failure}")),
        // Those that failed are tried again, and counted, by their first request.
        None => Ok(wires),
    }
}

impl Running {
    fn elapsed(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn end(&self) {
        self.ended.store(true, Relaxed);
        self.due.close();
    }

    /// Waits for the workers, and shows meanwhile how far they are.
    async fn until_done(&self, workers: &mut JoinSet<()>, stop: &Shutdown) {
        let mut live = Live::new(&self.phase);
        loop {
            tokio::select! {
                done = workers.join_next() => match done {
                    None => break,
                    Some(done) => done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
                },
                () = live.tick() => live.show(&self.tally),
                () = stop.wait(), if !self.ended.load(Relaxed) => self.end(),
            }
        }
        live.end();
    }

    /// One connection's life.
    async fn work(self: Arc<Self>, mut wire: Wire) {
        let blobs = &self.phase.blobs;
        while let Some(request) = self.next().await {
            let blob = blobs[(request % blobs.len() as u64) as usize];
            let sent = self.elapsed();
            let result = self.phase.work.request(self.phase.verb, blob, &mut wire).await;
            let ended = self.elapsed();
            let due = self.phase.schedule.due(request);
            let latency = ended.saturating_sub(due.unwrap_or(sent));
            self.tally.reconnects.fetch_add(wire.take_reconnects(), Relaxed);
            match result {
                Ok(bytes) => self.tally.done(bytes, latency, due.map(|_| ended - sent)),
                Err(failure) => self.failed(blob, &failure, latency).await,
            }
        }
    }

    /// The number of the next request, when it is due; `None` when there is none any more.
    async fn next(&self) -> Option<u64> {
        let schedule = &self.phase.schedule;
        if schedule.rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let now = self.elapsed();
        if self.ended.load(Relaxed) || !schedule.open(now) {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        let backlog = schedule.due_by(now).saturating_sub(number + 1);
        if backlog > 0 {
            self.tally.backlog_max.fetch_max(backlog, Relaxed);
        }
        (number < schedule.total()).then_some(number)
    }

    async fn failed(&self, blob: u32, failure: &Failure, latency: Duration) {
        let what = format!("{} {}", self.phase.verb.name(), self.phase.work.blobs.key(blob));
        self.tally.failed(&what, failure, latency);
        if self.phase.verb == Verb::Delete && failure.kind.knows_no_delete() {
            self.end();
        }
        if failure.kind == Kind::Connect {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says when requests are due. On a thread of its own: the runtime's timers are exact to a millisecond only, which would
    /// be in every latency.
    fn pace(&self, connections: usize) {
        let schedule = &self.phase.schedule;
        let mut released = 0;
        while released < schedule.total() && !self.ended.load(Relaxed) {
            let due = schedule.due_by(self.elapsed());
            self.due.add_permits((due - released) as usize);
            released = due;
            let next = schedule.due(due).unwrap_or_default();
            thread::sleep(next.saturating_sub(self.elapsed()).min(LOOK_EVERY));
        }
        // Those that wait find that there is nothing more.
        self.due.add_permits(connections);
    }

    /// How many requests were due and never sent. Their waiting is in the latencies: not to have asked is no excuse.
    fn unsent(&self) -> u64 {
        let schedule = &self.phase.schedule;
        let end = self.elapsed().min(schedule.within);
        let sent = self.next.load(Relaxed).min(schedule.total());
        let due = schedule.due_by(end);
        for request in sent..due {
            let waited = end.saturating_sub(schedule.due(request).unwrap_or(end));
            self.tally.latency.record(waited);
        }
        due.saturating_sub(sent)
    }
}
