//! Writing at the end of a volume: all of it or, as far as readers and the next start can tell, nothing.

use std::{
    fs::File,
    io::{self, IoSlice},
    sync::Arc,
};

use super::{
    layout::{Layout, sync_folder},
    volume::{SUPERBLOCK_BYTES, Superblock, Volume, open_file},
};

/// The system takes at most this many parts at once (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// What the writer does to a volume's file. A trait, so that tests can make it fail.
pub trait AppendFile: Send {
    /// Writes some of the parts there; says how many bytes.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

impl AppendFile for Arc<File> {
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, parts, offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Makes what the writer writes through; [`through_system`] outside tests.
pub type Wrap = fn(Arc<File>) -> Box<dyn AppendFile>;

/// Straight to the system.
pub fn through_system(file: Arc<File>) -> Box<dyn AppendFile> {
    Box::new(file)
}

/// The volume that is written to.
pub struct Tail {
    file: Box<dyn AppendFile>,
    /// For readers.
    pub volume: Arc<Volume>,
}

impl Tail {
    /// Goes on at the end of a volume.
    pub fn resume(volume: Arc<Volume>, wrap: Wrap) -> Self {
        Self { file: wrap(volume.file.clone()), volume }
    }

    /// Begins a volume. What could not be finished is removed again.
    pub fn create(layout: &Layout, superblock: &Superblock, wrap: Wrap, durable: bool) -> io::Result<Self> {
        let path = layout.volume(superblock.number);
        File::options().create_new(true).write(true).open(&path)?;
        Self::begin(layout, superblock, wrap, durable).inspect_err(|_| {
            // The next start would remove it too: it holds no record.
            let _ = std::fs::remove_file(&path);
        })
    }

    fn begin(layout: &Layout, superblock: &Superblock, wrap: Wrap, durable: bool) -> io::Result<Self> {
        let file = Arc::new(open_file(&layout.volume(superblock.number))?);
        let volume = Volume::new(superblock.store, superblock.number, file.clone(), SUPERBLOCK_BYTES);
        let tail = Self { file: wrap(file), volume: Arc::new(volume) };
        write_all(tail.file.as_ref(), &mut [IoSlice::new(&superblock.encode())], 0)?;
        if durable {
            tail.file.sync()?;
            sync_folder(&layout.volumes())?;
        }
        Ok(tail)
    }

    /// Where the next record goes.
    pub fn end(&self) -> u64 {
        self.volume.end()
    }

    /// Appends the parts, durably if asked; readers do not see them yet. After an error the volume may hold any part
    /// of them.
    pub fn append(&self, parts: &mut [IoSlice<'_>], durable: bool) -> Result<(), AppendError> {
        write_all(self.file.as_ref(), parts, self.end()).map_err(AppendError::Write)?;
        if durable { self.sync().map_err(AppendError::Sync) } else { Ok(()) }
    }

    /// Cuts off what an append left.
    pub fn cut(&self) -> io::Result<()> {
        self.file.truncate(self.end())
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
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

fn write_all(file: &dyn AppendFile, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_at(&parts[..parts.len().min(MAX_PARTS)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
