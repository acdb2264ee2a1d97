//! A storage whose disk may stop answering: every call ends within a deadline, and once many were given up no more are made,
//! so that requests are refused at once instead of piling up. Where the disk goes on, so does the storage, by itself.
//!
//! A thread that waits for a disk cannot be called back. What was given up is waited for aside: while that lasts, the
//! disk counts as hung.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::poll;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    model::{Checksum, Key, Version},
    storage::{
        AtHand, Blob, BlobInfo, BlobWriter, Damaged, Found, Listed, NewBlob, Spot, Storage, StorageError,
        Usage, Written,
    },
};

/// Calls that were given up and did not end yet; past that no more are made. One may be a bad sector, and each holds a
/// thread.
const MAX_STUCK: usize = 16;

/// Reads, or writes: one of them may hang while the other goes on.
#[derive(Debug)]
struct Door {
    deadline: Duration,
    stuck: AtomicUsize,
    /// Calls that are seen to their end aside, until the storage is closed.
    aside: TaskTracker,
    closed: CancellationToken,
}

/// Calls whose callers went away and that did not end yet; past that no more are made, or callers who do not wait would leave any
/// number behind. Those whose callers wait are no more than there are connections.
const MAX_ASIDE: usize = 4096;

/// A call that was given up, counted until dropped.
struct Stuck(Arc<Door>);

impl Stuck {
    fn new(door: Arc<Door>) -> Self {
        door.stuck.fetch_add(1, Relaxed);
        Self(door)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Relaxed);
    }
}

/// A call that is under way. Dropped before its end it is seen to its end aside.
struct Call<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    door: Arc<Door>,
    started: Instant,
}

impl<T: Send + 'static> Future for Call<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Call<T> {
    fn drop(&mut self) {
        let (Some(work), Ok(runtime)) = (self.work.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (door, started, closed) = (self.door.clone(), self.started, self.door.closed.clone());
        let see_to_its_end = async move {
            tokio::pin!(work);
            let left = door.deadline.saturating_sub(started.elapsed());
            if timeout(left, &mut work).await.is_err() {
                let _stuck = Stuck::new(door);
                work.await;
            }
        };
        self.door.aside.spawn_on(closed.run_until_cancelled_owned(see_to_its_end), &runtime);
    }
}

impl Door {
    fn new(deadline: Duration) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            stuck: AtomicUsize::new(0),
            aside: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Waits for nothing aside any more. Nothing is left of it when this returns, but threads that wait for the disk.
    async fn close(&self) {
        self.closed.cancel();
        self.aside.close();
        self.aside.wait().await;
    }

    /// Nothing more is sent to the disk for now.
    fn is_shut(&self) -> bool {
        self.stuck.load(Relaxed) >= MAX_STUCK || self.aside.len() >= MAX_ASIDE
    }

    /// Does the work if the disk may answer, and waits for it no longer than the deadline. How many wait says nothing of the disk.
    async fn pass<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        if self.is_shut() {
            return Err(StorageError::Hung(self.deadline));
        }
        let mut work: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(work);
        // What is in memory needs no clock.
        if let Poll::Ready(result) = poll!(&mut work) {
            return result;
        }
        let call = Call { work: Some(work), door: self.clone(), started: Instant::now() };
        timeout(self.deadline, call).await.unwrap_or(Err(StorageError::Hung(self.deadline)))
    }
}

/// A storage whose calls end in time.
pub struct Guarded {
    storage: Arc<dyn Storage>,
    reads: Arc<Door>,
    writes: Arc<Door>,
}

impl Guarded {
    /// Each call ends within the deadline.
    pub fn new(storage: Arc<dyn Storage>, deadline: Duration) -> Self {
        Self { storage, reads: Door::new(deadline), writes: Door::new(deadline) }
    }

    /// How many reads and writes have waited for longer than the deadline and go on waiting.
    pub fn stuck(&self) -> (usize, usize) {
        (self.reads.stuck.load(Relaxed), self.writes.stuck.load(Relaxed))
    }

    /// Why the disk counts as hung, if it does.
    pub fn hangs(&self) -> Option<String> {
        let (reads, writes) = self.stuck();
        let seconds = self.reads.deadline.as_secs();
        (reads + writes > 0).then(|| {
            format!("the disk does not answer: {reads} reads and {writes} writes wait for over {seconds} s")
        })
    }
}

#[async_trait]
impl Storage for Guarded {
    fn id(&self) -> Version {
        self.storage.id()
    }

    async fn create(&self, blob: NewBlob) -> Result<Box<dyn BlobWriter>, StorageError> {
        let storage = self.storage.clone();
        let writer = self.writes.pass(async move { storage.create(blob).await }).await?;
        Ok(Box::new(Writer { writer: Some(writer), door: self.writes.clone() }))
    }

    fn at_hand(&self, key: &Key) -> Option<Arc<AtHand>> {
        // What is in memory could be had, but whoever asks in different ways should be told the same.
        if self.reads.is_shut() { None } else { self.storage.at_hand(key) }
    }

    async fn open(&self, key: &Key) -> Result<Option<Found>, StorageError> {
        let (storage, key) = (self.storage.clone(), key.clone());
        let found = self.reads.pass(async move { storage.open(&key).await }).await?;
        Ok(found.map(|found| match found {
            Found::Blob(blob) => {
                Found::Blob(Box::new(Opened { blob: Arc::from(blob), door: self.reads.clone() }))
            }
            tombstone @ Found::Tombstone(_) => tombstone,
        }))
    }

    async fn delete(&self, key: &Key, version: Version) -> Result<Written, StorageError> {
        let (storage, key) = (self.storage.clone(), key.clone());
        self.writes.pass(async move { storage.delete(&key, version).await }).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, StorageError> {
        let (storage, prefix, after) = (self.storage.clone(), prefix.to_owned(), after.map(str::to_owned));
        self.reads.pass(async move { storage.list(&prefix, after.as_deref(), limit).await }).await
    }

    fn usage(&self) -> Usage {
        self.storage.usage()
    }

    fn pause_compaction(&self, paused: bool) {
        self.storage.pause_compaction(paused);
    }

    fn pause_scrub(&self, paused: bool) {
        self.storage.pause_scrub(paused);
    }

    fn start_scrub(&self) {
        self.storage.start_scrub();
    }

    fn settle_deletes(&self, before_ms: u64) {
        self.storage.settle_deletes(before_ms);
    }

    fn settle_stretch(&self, spot: Spot) {
        self.storage.settle_stretch(spot);
    }

    async fn damaged(&self, after: Option<Spot>, limit: usize) -> Result<Vec<Damaged>, StorageError> {
        let storage = self.storage.clone();
        self.reads.pass(async move { storage.damaged(after, limit).await }).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.reads.close().await;
        self.writes.close().await;
        self.storage.close().await
    }
}

/// A blob being written. `None`: a call was given up, and what there is is not whole.
struct Writer {
    writer: Option<Box<dyn BlobWriter>>,
    door: Arc<Door>,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let Some(mut writer) = self.writer.take() else { return Err(StorageError::Hung(self.door.deadline)) };
        let work = async move {
            let written = writer.write(bytes).await;
            Ok((writer, written))
        };
        let (writer, written) = self.door.pass(work).await?;
        self.writer = Some(writer);
        written
    }

    fn checksum(&self) -> Checksum {
        self.writer.as_ref().map_or_else(|| Checksum::of(b""), |writer| writer.checksum())
    }

    async fn commit(mut self: Box<Self>) -> Result<Written, StorageError> {
        let Some(writer) = self.writer.take() else { return Err(StorageError::Hung(self.door.deadline)) };
        self.door.pass(writer.commit()).await
    }
}

/// A blob open for reading.
struct Opened {
    blob: Arc<dyn Blob>,
    door: Arc<Door>,
}

#[async_trait]
impl Blob for Opened {
    fn info(&self) -> &BlobInfo {
        self.blob.info()
    }

    async fn read(&self, start: u64, end: u64) -> Result<Bytes, StorageError> {
        let blob = self.blob.clone();
        self.door.pass(async move { blob.read(start, end).await }).await
    }
}
