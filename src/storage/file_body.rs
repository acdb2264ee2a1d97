//! A blob that gets a file of its own, while it is received.

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use bytes::BytesMut;

use super::{
    StorageError, SyncMode, doomed::Doomed, health::write_error, layout::sync_folder, record::FileRef,
    shared::Shared, whole::Encoder,
};

/// Bytes are collected up to here before they are written; such a blob takes twice that at most.
const WRITE_BYTES: usize = 1 << 20;

/// A file being received; removed unless it is finished and its record is written.
pub struct FileBody {
    shared: Arc<Shared>,
    id: u64,
    file: Arc<File>,
    path: Doomed,
    encoder: Encoder,
    pending: BytesMut,
    length: u64,
}

impl FileBody {
    /// Begins a file.
    pub async fn create(shared: Arc<Shared>) -> Result<Self, StorageError> {
        let id = shared.next_file();
        let path = shared.layout.tmp(id);
        let (file, path) = blocking(&shared, "make a file for a blob", move || {
            let file = File::options().create_new(true).write(true).open(&path)?;
            Ok((file, Doomed::new(path)))
        })
        .await?;
        let encoder = Encoder::default();
        Ok(Self { shared, id, file: Arc::new(file), path, encoder, pending: BytesMut::new(), length: 0 })
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.length += bytes.len() as u64;
        for part in bytes.chunks(WRITE_BYTES) {
            self.encoder.push(part, &mut self.pending);
            if self.pending.len() >= WRITE_BYTES {
                self.write_pending().await?;
            }
        }
        Ok(())
    }

    async fn write_pending(&mut self) -> Result<(), StorageError> {
        let (file, mut pending) = (self.file.clone(), std::mem::take(&mut self.pending));
        self.pending = blocking(&self.shared, "write a blob's file", move || {
            (&*file).write_all(&pending)?;
            pending.clear();
            Ok(pending)
        })
        .await?;
        Ok(())
    }

    /// Makes the file durable under its final name. It is valid once a record names it.
    pub async fn finish(mut self) -> Result<(FileRef, Doomed), StorageError> {
        self.encoder.finish(&mut self.pending);
        let reference = FileRef { id: self.id, length: self.length };
        let Self { shared, id, file, mut path, pending, .. } = self;
        let (to, folder) = (shared.layout.blob(id), shared.layout.blob_folder(id));
        let durable = shared.options.sync != SyncMode::Never;
        let layout = shared.clone();
        let path = blocking(&shared, "finish a blob's file", move || {
            (&*file).write_all(&pending)?;
            if durable {
                // Before the rename, or a crash could leave the name without the bytes.
                file.sync_data()?;
            }
            layout.layout.make_blob_folder(id)?;
            path.rename(&to)?;
            if durable {
                sync_folder(&folder)?;
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
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| write_error(context, error)).inspect_err(|error| {
        if matches!(error, StorageError::Full) {
            shared.health.set_full(true);
        }
    })
}
