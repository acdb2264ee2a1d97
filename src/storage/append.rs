//! Writing at the end of a volume: all of it or, as far as readers and the next start can tell, nothing.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use super::{
    disk,
    layout::Layout,
    volume::{SUPERBLOCK_BYTES, Superblock, Volume},
};

/// The volume that is written to.
pub struct Tail {
    /// For readers too.
    pub volume: Arc<Volume>,
}

impl Tail {
    /// Begins a volume. What could not be finished is removed again.
    pub fn create(layout: &Layout, superblock: &Superblock, durable: bool) -> io::Result<Self> {
        let path = layout.volume(superblock.number);
        let file = Arc::new(disk::create_new(&path)?);
        let volume = Volume::new(superblock.store, superblock.number, file, SUPERBLOCK_BYTES);
        let tail = Self { volume: Arc::new(volume) };
        match tail.begin(layout, superblock, durable) {
            Ok(()) => Ok(tail),
            Err(error) => {
                // The next start would remove it too: it holds no record.
                let _ = disk::remove(&path);
                Err(error)
            }
        }
    }

    fn begin(&self, layout: &Layout, superblock: &Superblock, durable: bool) -> io::Result<()> {
        disk::write_at(&self.volume.file, &superblock.encode(), 0)?;
        if durable {
            self.sync()?;
            disk::sync_folder(&layout.volumes())?;
        }
        Ok(())
    }

    /// Where the next record goes.
    pub fn end(&self) -> u64 {
        self.volume.end()
    }

    /// Appends the parts, durably if asked; readers do not see them yet. After an error the volume may hold any part
    /// of them.
    pub fn append(&self, parts: &mut [IoSlice<'_>], durable: bool) -> Result<(), AppendError> {
        disk::write_parts_at(&self.volume.file, parts, self.end()).map_err(AppendError::Write)?;
        if durable { self.sync().map_err(AppendError::Sync) } else { Ok(()) }
    }

    /// Cuts off what an append left.
    pub fn cut(&self) -> io::Result<()> {
        disk::set_len(&self.volume.file, self.end())
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> io::Result<()> {
        disk::sync_data(&self.volume.file)
    }
}

/// Which step of an append failed.
#[derive(Debug)]
pub enum AppendError {
    /// The write: nothing of it was durable yet.
    Write(io::Error),
    /// The sync: what is on the disk is not known, and asking again would not tell.
    Sync(io::Error),
}
