//! A small durable map of bytes to bytes in key order, for the parts that run with nothing installed: the embedded map
//! store and the embedded queue. It is LMDB, because several processes may have it open at once, so that
//! `backpack-admin` works on a one-machine system that is running.
//!
//! - [`Store`]: open, read, write
//! - [`Reader`], [`Writer`]: what a read and a write can do
//! - `writer`: the thread that commits many writes with one fsync
//! - `registry`: one environment per directory and process, however often it is opened
//!
//! All users of a directory share one key space: the map store's keys start with `map/`, the queue's with `queue/`.
//! Processes that share a directory must see each other's process ids (one container or the host): LMDB finds dead
//! readers by them. The directory must not be on a network file system.

mod registry;
#[cfg(test)]
mod tests;
mod txn;
mod writer;

use std::{path::Path, sync::Arc};

use tokio::sync::{oneshot, watch};

pub use txn::{Reader, Writer};

/// The data folder in `embedded:<dir>`, which stands where programs are given ZooKeeper's servers; `None` for those. The map
/// store lives in `<dir>/map`, the queue in `<dir>/queue`.
pub fn data_dir(zk_servers: &str) -> Option<&Path> {
    zk_servers.strip_prefix("embedded:").map(Path::new)
}

/// The longest key in bytes, LMDB's limit. Keys have at least one byte.
pub const MAX_KEY_BYTES: usize = 511;

/// Why the store did not do what was asked. A write that failed changed nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No room: the disk is full, or the store reached its greatest size. Reads and deletes go on.
    #[error("the store in {0} is full")]
    Full(String),
    /// A key is empty or longer than [`MAX_KEY_BYTES`].
    #[error("a key of the embedded store has 1 to {MAX_KEY_BYTES} bytes, this one has {0}")]
    BadKey(usize),
    /// The files were written by a later version of this program.
    #[error("{dir} was written in format {found}: this program knows only format {known}, use a newer one")]
    Format {
        /// The store's directory.
        dir: String,
        /// As it stands in the files.
        found: String,
        /// What this program reads.
        known: &'static str,
    },
    /// The disk or the files failed.
    #[error("{context}: {source}")]
    Failed {
        /// What was being done: "open /data/embedded".
        context: String,
        /// What LMDB or the system said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The write panicked, or the store is being closed. Nothing was changed.
    #[error("the write was given up")]
    GivenUp,
}

/// A store that is open. Clones are the same store; so is a second [`Store::open`] of the same directory. It is closed
/// when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<registry::Open>,
}

impl Store {
    /// Opens the store in `dir`; makes the directory (readable by its owner only) where missing.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self { inner: registry::open(dir)? })
    }

    /// Reads from one snapshot. Never waits for writers, here or in other processes. Keep it short: while it runs, space
    /// that writers free is not used again.
    pub fn read<T, E: From<Error>>(&self, f: impl FnOnce(&Reader<'_>) -> Result<T, E>) -> Result<T, E> {
        self.inner.lmdb.read(f)
    }

    /// Runs `f` on the writer thread and answers when what it wrote is durable. If `f` fails, nothing it wrote remains.
    /// Writes that wait at the same time share one commit; each sees what the ones before it wrote.
    ///
    /// If the returned future is dropped, the write may be made all the same.
    pub async fn write<T, E>(
        &self,
        f: impl FnOnce(&mut Writer<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.inner.writes.send(writer::boxed(f, answer)).await?;
        answered.await.unwrap_or_else(|_| Err(Error::GivenUp.into()))
    }

    /// The id of the last transaction, of this process or another: it grows whenever something changed. Commits of this
    /// process are seen at once, those of others within 100 ms (`writer::POLL_EVERY`).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "embedded::Store({})", self.inner.lmdb.dir.display())
    }
}
