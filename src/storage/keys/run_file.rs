//! Writing a run: keys come in order and go out block by block, with one block of each level in memory.

use std::{fs::File, io, ops::Range};

use super::{
    block::{NewBlock, RunSeal},
    entry::KeyEntry,
    reach::Reach,
    run::{Trailer, front},
};
use crate::storage::{disk, index::Place};

/// Written with one call.
const WRITE_BYTES: usize = 256 << 10;
/// So much is written between two syncs: a sync of everything at once would hold up those of the writer.
const SYNC_BYTES: usize = 4 << 20;

/// Blocks of one level.
#[derive(Debug, Default)]
struct Level {
    block: NewBlock,
    /// Blocks that were written, and where the last one is.
    written: u64,
    last_at: u64,
}

/// A run that is being written to an empty file.
#[derive(Debug)]
pub struct RunFile {
    file: File,
    seal: RunSeal,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    unsynced: usize,
    levels: Vec<Level>,
    value: Vec<u8>,
}

impl RunFile {
    /// Begins a run of that range.
    pub fn begin(file: File, store: [u8; 16], range: &Range<Place>) -> Self {
        let seal = RunSeal::new(store, range.start, range.end);
        let buffer = front(store, range);
        Self { file, seal, buffer, offset: 0, unsynced: 0, levels: Vec::new(), value: Vec::new() }
    }

    /// Adds a key, which is greater than all before it.
    pub fn add(&mut self, key: &[u8], entry: &KeyEntry) -> io::Result<()> {
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        entry.encode(&mut value);
        self.add_to(0, key, &value)?;
        self.value = value;
        if self.buffer.len() >= WRITE_BYTES { self.write_out() } else { Ok(()) }
    }

    fn add_to(&mut self, level: usize, key: &[u8], value: &[u8]) -> io::Result<()> {
        if level == self.levels.len() {
            // Each level is less than a fifth of the one below, so there are few.
            self.levels.push(Level::default());
        }
        if !self.levels[level].block.is_empty() && !self.levels[level].block.fits(key, value) {
            self.end_block(level)?;
        }
        self.levels[level].block.add(key, value);
        Ok(())
    }

    /// Ends the block of a level, and tells the level above.
    fn end_block(&mut self, level: usize) -> io::Result<()> {
        let at = self.offset + self.buffer.len() as u64;
        let number = u8::try_from(level).map_err(io::Error::other)?;
        let of = &mut self.levels[level];
        let first = of.block.finish(&self.seal, at, number, &mut self.buffer);
        (of.written, of.last_at) = (of.written + 1, at);
        self.add_to(level + 1, &first, &at.to_le_bytes())
    }

    /// Ends all blocks; says where the one at the top is, 0 if there is none.
    fn end_blocks(&mut self) -> io::Result<u64> {
        let mut level = 0;
        while level < self.levels.len() {
            if !self.levels[level].block.is_empty() {
                self.end_block(level)?;
            }
            // The level above has one entry then, which nobody needs.
            if self.levels[level].written == 1 {
                return Ok(self.levels[level].last_at);
            }
            level += 1;
        }
        Ok(0)
    }

    fn write_out(&mut self) -> io::Result<()> {
        disk::write_at(&self.file, &self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.unsynced += self.buffer.len();
        self.buffer.clear();
        if self.unsynced >= SYNC_BYTES {
            disk::sync_data(&self.file)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes the end, and makes the file durable. What it was made of must be durable.
    pub fn finish(mut self, reach: &Reach) -> io::Result<()> {
        let root = self.end_blocks()?;
        let list_at = self.offset + self.buffer.len() as u64;
        let start = self.buffer.len();
        for (number, length) in &reach.volumes {
            self.buffer.extend_from_slice(&number.to_le_bytes());
            self.buffer.extend_from_slice(&length.to_le_bytes());
        }
        let trailer = Trailer {
            root,
            end: reach.end,
            mark: reach.mark,
            volumes: u32::try_from(reach.volumes.len()).map_err(io::Error::other)?,
            volumes_sum: self.seal.sum(list_at, &self.buffer[start..]),
        };
        let trailer_at = self.offset + self.buffer.len() as u64;
        self.buffer.extend_from_slice(&trailer.encode(&self.seal, trailer_at));
        self.write_out()?;
        disk::sync_all(&self.file)
    }
}
