//! Whether writes are taken, and what disk errors mean for that.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;
use rustix::io::Errno;

use super::StorageError;

/// Whether writes are taken.
#[derive(Debug, Default)]
pub struct Health {
    read_only: RwLock<Option<String>>,
    full: AtomicBool,
}

impl Health {
    /// Takes no writes any more because of a fault; the first reason stays.
    pub fn set_read_only(&self, reason: &str) {
        if self.end_writes(reason) {
            tracing::error!(reason, "the storage takes no writes any more");
        }
    }

    /// Takes no writes any more because it was asked to close.
    pub fn close(&self) {
        self.end_writes("it is closed");
    }

    fn end_writes(&self, reason: &str) -> bool {
        let mut read_only = self.read_only.write();
        let first = read_only.is_none();
        if first {
            *read_only = Some(reason.to_owned());
        }
        first
    }

    /// Why no writes are taken, if so.
    pub fn read_only(&self) -> Option<String> {
        self.read_only.read().clone()
    }

    /// An error if no writes are taken.
    pub fn check(&self) -> Result<(), StorageError> {
        self.read_only().map_or(Ok(()), |reason| Err(StorageError::ReadOnly(reason)))
    }

    /// Whether the last blob found no room.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A blob found no room, or found some.
    pub fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::Relaxed) != full {
            tracing::warn!(full, "the disk is full: blobs are refused, or taken again");
        }
    }
}

/// Whether the system says that there is no room.
pub fn is_full(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOSPC.raw_os_error()) || code == Some(Errno::DQUOT.raw_os_error())
}

/// What the caller is told of a failed write.
pub fn write_error(context: &str, source: io::Error) -> StorageError {
    if is_full(&source) {
        StorageError::Full
    } else {
        StorageError::Io { context: context.to_owned(), source }
    }
}
