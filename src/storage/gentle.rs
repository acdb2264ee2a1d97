//! Reading what nobody asked for: at a limited speed, and without pushing out of the page cache what others read.
//!
//! What is in the page cache is taken from there, and stays. What is not is read in large pieces and dropped from the cache
//! again; the system reads nothing ahead.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io,
    num::NonZeroU64,
    path::Path,
};

use rustix::fs::{Advice, fadvise};

use super::{
    pread::{ReadAt, is_unreadable, read_cached},
    rewrite::GoOn,
};

/// Read at once: as much as a disk reads in the time of a few seeks.
const CHUNK_BYTES: usize = 1 << 20;
/// Pages of the cache.
const PAGE_BYTES: u64 = 4096;

/// A file that is read once, from front to back, more or less. Its errors are those of the file, and
/// [`io::ErrorKind::Interrupted`] when it was told not to go on.
pub struct Gentle<'a> {
    file: File,
    length: u64,
    chunk: RefCell<Vec<u8>>,
    chunk_at: Cell<u64>,
    /// Asked before each piece, with its bytes.
    go_on: RefCell<GoOn<'a>>,
}

impl<'a> Gentle<'a> {
    /// Opens a file.
    pub fn open(path: &Path, go_on: GoOn<'a>) -> io::Result<Self> {
        let file = File::open(path)?;
        // Best effort, here and below: it may be slower for others, never wrong.
        let _ = fadvise(&file, 0, None, Advice::Random);
        let length = file.metadata()?.len();
        let (chunk, chunk_at, go_on) = (RefCell::default(), Cell::new(0), RefCell::new(go_on));
        Ok(Self { file, length, chunk, chunk_at, go_on })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length when it was opened: nothing behind that is read.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the piece that begins with the page of that offset. What cannot be read behind the first page is left out.
    fn fill(&self, offset: u64) -> io::Result<()> {
        let start = offset - offset % PAGE_BYTES;
        let size = self.length.saturating_sub(start).min(CHUNK_BYTES as u64);
        if !(self.go_on.borrow_mut())(size) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut chunk = self.chunk.borrow_mut();
        chunk.resize(size as usize, 0);
        let cached = read_cached(&self.file, &mut chunk, start);
        let mut filled = cached;
        while filled < chunk.len() {
            match self.file.read_full(&mut chunk[filled..], start + filled as u64) {
                Ok(read) => {
                    filled += read;
                    chunk.truncate(filled);
                }
                // The disk cannot read some page of it: what is before that is found by halves.
                Err(error) if is_unreadable(&error) && chunk.len() - filled > PAGE_BYTES as usize => {
                    let half = (filled + (chunk.len() - filled) / 2).next_multiple_of(PAGE_BYTES as usize);
                    let less = half.min(chunk.len() - 1);
                    chunk.truncate(less);
                }
                Err(error) if filled == 0 => {
                    chunk.clear();
                    return Err(error);
                }
                Err(_) => chunk.truncate(filled),
            }
        }
        self.chunk_at.set(start);
        if let Some(read) = NonZeroU64::new((filled - cached) as u64) {
            let _ = fadvise(&self.file, start + cached as u64, Some(read), Advice::DontNeed);
        }
        Ok(())
    }
}

impl ReadAt for Gentle<'_> {
    fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let skip = |chunk: &[u8]| {
                let skip = at.checked_sub(self.chunk_at.get())?;
                usize::try_from(skip).ok().filter(|skip| *skip < chunk.len())
            };
            if skip(&self.chunk.borrow()).is_none() {
                self.fill(at)?;
            }
            let chunk = self.chunk.borrow();
            let Some(skip) = skip(&chunk) else { break };
            let length = (chunk.len() - skip).min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&chunk[skip..skip + length]);
            done += length;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::pread::broken::break_part;

    /// A file of three pieces and a bit.
    fn file() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 777).map(|n| (n / 3) as u8).collect();
        let path = dir.path().join("f");
        std::fs::write(&path, &bytes).unwrap();
        (dir, path, bytes)
    }

    #[test]
    fn all_of_a_file_is_read_once_in_pieces_of_any_size() {
        let (_dir, path, bytes) = file();
        for size in [7_000, 100_000, CHUNK_BYTES, 5 * CHUNK_BYTES] {
            let mut asked = 0;
            let mut go_on = |bytes| {
                asked += bytes;
                true
            };
            let gentle = Gentle::open(&path, &mut go_on).unwrap();
            let mut read = Vec::new();
            loop {
                let mut buffer = vec![0; size];
                let count = gentle.read_full(&mut buffer, read.len() as u64).unwrap();
                read.extend_from_slice(&buffer[..count]);
                if count < size {
                    break;
                }
            }
            drop(gentle);
            assert!(read == bytes, "{size}");
            assert!(asked <= bytes.len() as u64 + 4 * PAGE_BYTES, "{asked} bytes in pieces of {size}");
        }
    }

    #[test]
    fn a_page_that_cannot_be_read_costs_nothing_but_that_page() {
        let (_dir, path, bytes) = file();
        let bad = 1_500_000 / PAGE_BYTES * PAGE_BYTES;
        let _broken = break_part(&path, bad..bad + 1);
        let mut go_on = |_| true;
        let gentle = Gentle::open(&path, &mut go_on).unwrap();
        for at in (0..bytes.len() as u64).step_by(1000) {
            let mut buffer = [0; 1000];
            let read = gentle.read_full(&mut buffer, at);
            if at + 1000 > bad && at < bad + PAGE_BYTES {
                assert!(is_unreadable(&read.unwrap_err()), "{at}");
            } else {
                let there = &bytes[at as usize..bytes.len().min(at as usize + 1000)];
                assert!(read.unwrap() == there.len() && buffer[..there.len()] == *there, "{at}");
            }
        }
    }

    #[test]
    fn told_to_stop_it_reads_nothing() {
        let (_dir, path, _) = file();
        let mut go_on = |_| false;
        let gentle = Gentle::open(&path, &mut go_on).unwrap();
        let error = gentle.read_full(&mut [0; 10], 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
