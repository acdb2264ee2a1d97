//! The writer thread: all writes that wait are made in one transaction and made durable by one fsync. Each runs in a
//! transaction nested in it, so that one that fails leaves nothing while the others commit.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    Error,
    txn::{Lmdb, Writer},
};

/// How soon commits of other processes are seen: soon enough for a person at a terminal, and one look costs nothing.
pub const POLL_EVERY: Duration = Duration::from_millis(100);

/// How often slots of readers that died are freed: they hold back the space that writers free.
const CLEAR_READERS_EVERY: Duration = Duration::from_secs(10);

/// Writes that may wait at once, and so the most that one commit carries; further callers wait for their turn.
const MAX_WAITING: usize = 1024;

/// Where writes are handed to the thread. The thread ends when the last of these is dropped.
pub(super) struct Writes {
    queue: Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Writes {
    /// Hands over a write, waiting for room in the queue.
    pub(super) async fn send(&self, write: Box<dyn Write>) -> Result<(), Error> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| Error::GivenUp)?;
        self.queue.send(Waiting { write, _permit: permit }).map_err(|_| Error::GivenUp)
    }
}

struct Waiting {
    write: Box<dyn Write>,
    _permit: OwnedSemaphorePermit,
}

/// A write in the queue, whatever it returns.
pub(super) trait Write: Send {
    /// Runs it. `false`: it failed, its changes must be thrown away.
    fn run(&mut self, writer: &mut Writer<'_>) -> bool;

    /// Tells the caller how it ended; `Err` where what it wrote could not be made durable.
    fn answer(self: Box<Self>, durable: Result<(), Error>);
}

/// The one implementation of [`Write`]: a closure, then its result, and who waits for it.
struct Job<F, T, E> {
    f: Option<F>,
    result: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
}

/// A closure as a write in the queue.
pub(super) fn boxed<F, T, E>(f: F, answer: oneshot::Sender<Result<T, E>>) -> Box<dyn Write>
where
    F: FnOnce(&mut Writer<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    Box::new(Job { f: Some(f), result: None, answer })
}

impl<F, T, E> Write for Job<F, T, E>
where
    F: FnOnce(&mut Writer<'_>) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn run(&mut self, writer: &mut Writer<'_>) -> bool {
        let Some(f) = self.f.take() else { return false };
        let result = catch_unwind(AssertUnwindSafe(|| f(writer)));
        let result = result.unwrap_or_else(|_| Err(Error::GivenUp.into()));
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, durable: Result<(), Error>) {
        let result = match (self.result, durable) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::GivenUp.into()),
        };
        // A caller that no longer waits has no use for the answer.
        let _ = self.answer.send(result);
    }
}

/// Starts the thread. It also looks for commits of other processes and tells `changes`.
pub(super) fn start(lmdb: Lmdb, changes: watch::Sender<u64>) -> std::io::Result<Writes> {
    let (queue, writes) = mpsc::channel();
    let room = Arc::new(Semaphore::new(MAX_WAITING));
    std::thread::Builder::new().name("embedded-store".into()).spawn(move || run(&lmdb, &writes, &changes))?;
    Ok(Writes { queue, room })
}

fn run(lmdb: &Lmdb, writes: &Receiver<Waiting>, changes: &watch::Sender<u64>) {
    let mut cleared = Instant::now();
    loop {
        match writes.recv_timeout(POLL_EVERY) {
            Ok(first) => {
                let batch = std::iter::once(first).chain(writes.try_iter()).take(MAX_WAITING).collect();
                write_batch(lmdb, batch, changes);
            }
            Err(RecvTimeoutError::Timeout) => tell(lmdb, changes),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if cleared.elapsed() >= CLEAR_READERS_EVERY {
            cleared = Instant::now();
            if let Err(error) = lmdb.env.clear_stale_readers() {
                tracing::warn!("free the slots of dead readers in {}: {error}", lmdb.dir.display());
            }
        }
    }
}

fn tell(lmdb: &Lmdb, changes: &watch::Sender<u64>) {
    let last = lmdb.last_change();
    changes.send_if_modified(|seen| std::mem::replace(seen, last) != last);
}

/// Makes a batch durable and answers its callers; `changes` is told first, so that who got an answer finds the change there.
fn write_batch(lmdb: &Lmdb, mut batch: Vec<Waiting>, changes: &watch::Sender<u64>) {
    let durable = commit(lmdb, &mut batch);
    if let Err(error) = &durable {
        tracing::error!("{} writes failed: {error}", batch.len());
    }
    tell(lmdb, changes);
    for waiting in batch {
        waiting.write.answer(durable.clone());
    }
}

fn commit(lmdb: &Lmdb, batch: &mut [Waiting]) -> Result<(), Error> {
    let begin = |e| lmdb.error("begin a write in", e);
    let mut txn = lmdb.env.write_txn().map_err(begin)?;
    for waiting in batch {
        let mut nested = lmdb.writer(lmdb.env.nested_write_txn(&mut txn).map_err(begin)?);
        if waiting.write.run(&mut nested) {
            nested.commit()?;
        }
    }
    txn.commit().map_err(|e| lmdb.error("commit", e))
}
