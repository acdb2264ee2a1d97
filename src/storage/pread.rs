//! Reading at a place of a file: at once where the page cache has it, else on a thread that may wait.
//!
//! Sending every read to such a thread doubles the cost of a small one; waiting inline stops everybody else.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, ReadWriteFlags},
};

use super::{
    buffers::{Buffer, Buffers},
    disk::without_access_time,
};

/// Reads for requests, counted by whether they had to wait for the disk.
#[derive(Debug, Default)]
pub struct Reads {
    buffers: Arc<Buffers>,
    from_memory: AtomicU64,
    from_disk: AtomicU64,
}

impl Reads {
    /// So many bytes from `offset` on; fewer where the file ends before.
    pub async fn read(&self, file: &Arc<File>, length: usize, offset: u64) -> io::Result<Buffer> {
        let (mut buffer, cached) = match self.begin(file, length, offset) {
            (buffer, cached) if cached == length => return Ok(buffer),
            begun => begun,
        };
        self.from_disk.fetch_add(1, Ordering::Relaxed);
        let file = file.clone();
        let task = tokio::task::spawn_blocking(move || {
            let read = read_full(&file, &mut buffer.as_mut()[cached..], offset + cached as u64)?;
            buffer.truncate(cached + read);
            Ok(buffer)
        });
        task.await.map_err(io::Error::other)?
    }

    /// So many bytes from `offset` on, if the page cache has all of them.
    pub fn cached(&self, file: &File, length: usize, offset: u64) -> Option<Buffer> {
        let (buffer, cached) = self.begin(file, length, offset);
        (cached == length).then_some(buffer)
    }

    /// Reads what the page cache has, and says how much that is.
    fn begin(&self, file: &File, length: usize, offset: u64) -> (Buffer, usize) {
        let mut buffer = self.buffers.take(length);
        let cached = read_cached(file, buffer.as_mut(), offset);
        self.from_memory.fetch_add(u64::from(cached == length), Ordering::Relaxed);
        (buffer, cached)
    }

    /// Opens a file for reading.
    pub async fn open(&self, path: PathBuf) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::CACHED) {
            Ok(file) => file.into(),
            // Its name is not in memory, or it is not there, or a system that cannot tell.
            Err(_) => {
                tokio::task::spawn_blocking(move || File::open(path)).await.map_err(io::Error::other)??
            }
        };
        Ok(without_access_time(file))
    }

    /// How many reads found everything in memory, and how many went to the disk.
    pub fn counts(&self) -> (u64, u64) {
        (self.from_memory.load(Ordering::Relaxed), self.from_disk.load(Ordering::Relaxed))
    }
}

/// How many bytes could be read without waiting.
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    #[cfg(test)]
    if broken::meets(file, offset, buffer.len()) {
        return 0;
    }
    loop {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => return read,
            Err(Errno::INTR) => {}
            // It cannot tell, but has everything in memory, unless it was swapped out: then we wait.
            Err(Errno::OPNOTSUPP) if is_on_tmpfs(file) => {
                return read_full(file, buffer, offset).unwrap_or(0);
            }
            // Not in memory, or a file system that cannot tell.
            Err(_) => return 0,
        }
    }
}

fn is_on_tmpfs(file: &File) -> bool {
    // TMPFS_MAGIC of statfs(2).
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == 0x0102_1994)
}

/// What is read at places of. A trait, so that the scrub reads in its own way what others read straight from the file.
pub trait ReadAt {
    /// As [`read_full`].
    fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(self, buffer, offset)
    }
}

/// Fills the buffer from `offset` on, as far as the file reaches; waits for the disk.
pub fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(test)]
    if broken::meets(file, offset, buffer.len()) {
        return Err(Errno::IO.into());
    }
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether the disk says that it cannot read this part any more, as against failing altogether.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// Parts of files that the disk cannot read, as far as tests are concerned.
#[cfg(test)]
pub mod broken {
    use std::{
        fs::File,
        ops::Range,
        os::unix::fs::MetadataExt,
        sync::atomic::{AtomicBool, Ordering},
    };

    use parking_lot::Mutex;

    /// Spares all other tests the look at the file.
    static ANY: AtomicBool = AtomicBool::new(false);
    static PARTS: Mutex<Vec<(u64, u64, Range<u64>)>> = Mutex::new(Vec::new());

    /// A part of a file that cannot be read while this lives.
    pub struct Broken(u64, u64, Range<u64>);

    /// From now on that part of the file cannot be read, by whatever name it is opened.
    #[must_use]
    pub fn break_part(path: &std::path::Path, part: Range<u64>) -> Broken {
        let found = std::fs::metadata(path).unwrap();
        PARTS.lock().push((found.dev(), found.ino(), part.clone()));
        ANY.store(true, Ordering::SeqCst);
        Broken(found.dev(), found.ino(), part)
    }

    impl Drop for Broken {
        fn drop(&mut self) {
            let Self(dev, ino, part) = self;
            PARTS.lock().retain(|(d, i, p)| (d, i, p) != (dev, ino, part));
        }
    }

    pub fn meets(file: &File, offset: u64, length: usize) -> bool {
        if !ANY.load(Ordering::SeqCst) {
            return false;
        }
        let found = file.metadata().unwrap();
        let (start, end) = (offset, offset + length as u64);
        let parts = PARTS.lock();
        parts.iter().any(|(dev, ino, part)| {
            (*dev, *ino) == (found.dev(), found.ino()) && start < part.end && part.start < end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_what_is_there_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = Arc::new(File::open(path).unwrap());
        let reads = Reads::default();
        let read = async |length, offset| reads.read(&file, length, offset).await.unwrap().freeze();
        assert_eq!(read(4, 3).await, "3456");
        assert_eq!(read(20, 8).await, "89");
        assert_eq!(read(5, 100).await, "");
        assert_eq!(read(0, 0).await, "");
    }
}
