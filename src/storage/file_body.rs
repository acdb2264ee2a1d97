//! A blob that gets a file of its own, while it is received.

use std::{fs::File, io, sync::Arc};

use bytes::BytesMut;
use tokio::task::JoinHandle;

use super::{
    StorageError, SyncMode, budget::Reservation, disk, doomed::Doomed, health::write_error, record::FileRef,
    shared::Shared, whole::Encoder,
};

/// Bytes are collected up to here before they are written, where there is memory for it; such a blob takes twice that at most.
const WRITE_BYTES: usize = 1 << 20;

/// The same where there is none left: very many may come at once, and slowly.
const LEAST_WRITE_BYTES: usize = 64 << 10;

/// So much of a file is written between two syncs of it. Unless it is synced as it comes, all of a large one is written to the
/// disk while its uploader waits for the answer: longer than anybody waits for a disk, and everybody else's syncs wait too.
const SYNC_BYTES: u64 = 32 << 20;

/// A file being received; removed unless it is finished and its record is written.
pub struct FileBody {
    shared: Arc<Shared>,
    id: u64,
    file: Arc<File>,
    path: Doomed,
    encoder: Encoder,
    pending: BytesMut,
    /// [`WRITE_BYTES`] or [`LEAST_WRITE_BYTES`].
    write_bytes: usize,
    /// What `pending` may take.
    _share: Reservation,
    /// Bytes of the file that are written.
    written: u64,
    /// The last sync on the way, of what was written when it began.
    syncing: Option<(u64, JoinHandle<io::Result<()>>)>,
    length: u64,
}

impl FileBody {
    /// Begins a file.
    pub async fn create(shared: Arc<Shared>) -> Result<Self, StorageError> {
        let id = shared.next_file();
        let path = shared.layout.tmp(id);
        let (file, path) = blocking(&shared, "make a file for a blob", move || {
            let file = disk::create_new(&path)?;
            Ok((file, Doomed::new(path)))
        })
        .await?;
        let mut share = shared.files_budget.share();
        let has_memory = share.grow_to(2 * WRITE_BYTES as u64);
        Ok(Self {
            shared,
            id,
            file: Arc::new(file),
            path,
            encoder: Encoder::default(),
            pending: BytesMut::new(),
            write_bytes: if has_memory { WRITE_BYTES } else { LEAST_WRITE_BYTES },
            _share: share,
            written: 0,
            syncing: None,
            length: 0,
        })
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.length += bytes.len() as u64;
        for part in bytes.chunks(self.write_bytes) {
            self.encoder.push(part, &mut self.pending);
            if self.pending.len() >= self.write_bytes {
                self.write_pending().await?;
            }
        }
        Ok(())
    }

    async fn write_pending(&mut self) -> Result<(), StorageError> {
        let (file, mut pending) = (self.file.clone(), std::mem::take(&mut self.pending));
        let offset = self.written;
        self.written += pending.len() as u64;
        self.pending = blocking(&self.shared, "write a blob's file", move || {
            disk::write_at(&file, &pending, offset)?;
            pending.clear();
            Ok(pending)
        })
        .await?;
        self.sync_on_the_way().await
    }

    /// Begins a sync of what is written, each [`SYNC_BYTES`], once the one before is done: a disk that is slower than the
    /// upload slows it down. An upload that is given up leaves its sync to end by itself.
    async fn sync_on_the_way(&mut self) -> Result<(), StorageError> {
        let began_at = self.syncing.as_ref().map_or(0, |(began_at, _)| *began_at);
        if self.shared.options.sync == SyncMode::Never || self.written - began_at < SYNC_BYTES {
            return Ok(());
        }
        self.synced_so_far().await?;
        let file = self.file.clone();
        self.syncing = Some((self.written, tokio::task::spawn_blocking(move || disk::sync_data(&file))));
        Ok(())
    }

    /// Waits for the sync on the way. The system tells of bytes that could not be written once, so they are lost if it fails.
    async fn synced_so_far(&mut self) -> Result<(), StorageError> {
        let Some((_, syncing)) = self.syncing.take() else { return Ok(()) };
        done(&self.shared, "sync a part of a blob's file", syncing).await
    }

    /// Makes the file durable under its final name. It is valid once a record names it.
    pub async fn finish(mut self) -> Result<(FileRef, Doomed), StorageError> {
        self.encoder.finish(&mut self.pending);
        self.synced_so_far().await?;
        let reference = FileRef { id: self.id, length: self.length };
        let Self { shared, id, file, mut path, pending, written, .. } = self;
        let (to, folder) = (shared.layout.blob(id), shared.layout.blob_folder(id));
        let durable = shared.options.sync != SyncMode::Never;
        let layout = shared.clone();
        let path = blocking(&shared, "finish a blob's file", move || {
            disk::write_at(&file, &pending, written)?;
            if durable {
                // Before the rename, or a crash could leave the name without the bytes.
                disk::sync_data(&file)?;
            }
            layout.layout.make_blob_folder(id)?;
            path.rename(&to)?;
            if durable {
                disk::sync_folder(&folder)?;
            } else {
                layout.unsynced_files.lock().push(id);
            }
            Ok(path)
        })
        .await?;
        Ok((reference, path))
    }
}

/// Does that on a thread that may wait for the disk, and notes when the disk is full.
async fn blocking<T: Send + 'static>(
    shared: &Shared,
    context: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StorageError> {
    done(shared, context, tokio::task::spawn_blocking(work)).await
}

/// What such work came to.
async fn done<T>(shared: &Shared, context: &str, work: JoinHandle<io::Result<T>>) -> Result<T, StorageError> {
    let done = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| write_error(context, error)).inspect_err(|error| {
        if matches!(error, StorageError::Full) {
            shared.health.set_full(true);
        }
    })
}
