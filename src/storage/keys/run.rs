//! A run, open for reading: an immutable file of keys in order. `docs/format.md` draws it.
//!
//! Nothing of it is kept in memory: what is looked for is found by reading a block of each level, from the top down.
//! Blocks that are needed often are in the page cache.

use std::{
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    block::{Block, MAX_BLOCK_BYTES, RunSeal},
    entry::{KeyEntry, take},
    reach::Reach,
};
use crate::storage::{index::Place, pread::read_full};

/// Every run begins with these bytes.
pub const MAGIC: [u8; 8] = *b"BPKEYS\0\0";
/// Of runs. Another one is not read: the volumes are.
pub const FORMAT_VERSION: u32 = 1;
/// Magic, version, store, range, checksum.
pub const FRONT_BYTES: usize = 48;
/// What stands at the end.
pub const TRAILER_BYTES: usize = 32;
/// A volume in the list before the trailer.
pub const VOLUME_BYTES: usize = 12;

/// Why a file is not used as a run.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Torn, damaged, of another storage or another program.
    #[error("{0}")]
    Wrong(&'static str),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A run that turned out to be damaged while it was read.
#[derive(Debug)]
pub struct BadRun(pub Arc<Run>);

/// A run.
#[derive(Debug)]
pub struct Run {
    /// It has every record of these places that was needed when it was made.
    pub range: Range<Place>,
    /// Bytes of its file.
    pub bytes: u64,
    /// Its file.
    pub path: PathBuf,
    file: File,
    seal: RunSeal,
    /// Where the block at the top is, if there is any.
    root: Option<u64>,
    /// Where the blocks end.
    blocks_end: u64,
}

impl Run {
    /// Opens that store's run; says what it was made of. Its blocks are verified when they are read.
    pub fn open(path: &Path, store: [u8; 16]) -> Result<(Self, Reach), Unusable> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut front = [0; FRONT_BYTES];
        read_exact(&file, &mut front, 0)?;
        let (range, seal) = read_front(&front, store).map_err(Unusable::Wrong)?;
        let at = bytes.checked_sub(TRAILER_BYTES as u64).ok_or(Unusable::Wrong("it is not whole"))?;
        let mut trailer = [0; TRAILER_BYTES];
        read_exact(&file, &mut trailer, at)?;
        let trailer = Trailer::decode(&trailer, &seal, at).ok_or(Unusable::Wrong("its end is damaged"))?;
        let list_bytes = u64::from(trailer.volumes) * VOLUME_BYTES as u64;
        let blocks_end = at.checked_sub(list_bytes).filter(|end| *end >= FRONT_BYTES as u64);
        let blocks_end = blocks_end.ok_or(Unusable::Wrong("its end makes no sense"))?;
        // No longer than the file is, and the checksum was right.
        let mut list = vec![0; list_bytes as usize];
        read_exact(&file, &mut list, blocks_end)?;
        if seal.sum(blocks_end, &list) != trailer.volumes_sum {
            return Err(Unusable::Wrong("its list of volumes is damaged"));
        }
        let reach = Reach { end: trailer.end, mark: trailer.mark, volumes: read_volumes(&list) };
        let root = (trailer.root > 0).then_some(trailer.root);
        Ok((Self { range, bytes, path: path.into(), file, seal, root, blocks_end }, reach))
    }

    /// The keys from that one on.
    pub fn seek(self: &Arc<Self>, from: &[u8]) -> Result<Cursor, BadRun> {
        let mut cursor = Cursor { run: self.clone(), block: None, next_at: self.blocks_end };
        let Some(mut at) = self.root else { return Ok(cursor) };
        let mut block = self.block(at)?;
        while block.level > 0 {
            let child = last_child(&mut block, from).filter(|child| *child < at).ok_or_else(|| self.bad())?;
            let below = self.block(child)?;
            if below.level + 1 != block.level {
                return Err(self.bad());
            }
            (at, block) = (child, below);
        }
        cursor.next_at = at + block.length() as u64;
        cursor.block = Some(block);
        Ok(cursor)
    }

    fn bad(self: &Arc<Self>) -> BadRun {
        BadRun(self.clone())
    }

    /// The block at that offset. One that the disk cannot read is as good as damaged.
    fn block(self: &Arc<Self>, at: u64) -> Result<Block, BadRun> {
        let available = self.blocks_end.saturating_sub(at).min(MAX_BLOCK_BYTES as u64);
        let mut bytes = vec![0; available as usize];
        let read = read_full(&self.file, &mut bytes, at).map_err(|_| self.bad())?;
        bytes.truncate(read);
        Block::decode(bytes, &self.seal, at).map_err(|_| self.bad())
    }
}

/// Of the blocks below, the last one that begins before that key or with it; else the first.
fn last_child(block: &mut Block, key: &[u8]) -> Option<u64> {
    let mut child = None;
    loop {
        match block.next(|bytes| take(bytes).map(u64::from_le_bytes)) {
            Ok(Some(at)) if child.is_none() || block.key() <= key => child = Some(at),
            Ok(_) => return child,
            Err(_) => return None,
        }
    }
}

/// A place among the keys of a run.
#[derive(Debug)]
pub struct Cursor {
    run: Arc<Run>,
    block: Option<Block>,
    next_at: u64,
}

impl Cursor {
    /// The next key, in order. After [`Run::seek`] some keys before the one that was asked for may come.
    pub fn next(&mut self) -> Result<Option<(Vec<u8>, KeyEntry)>, BadRun> {
        while let Some(block) = &mut self.block {
            match block.next(KeyEntry::decode) {
                Ok(Some(entry)) => return Ok(Some((block.key().to_vec(), entry))),
                Ok(None) => self.block = self.next_block()?,
                Err(_) => return Err(self.run.bad()),
            }
        }
        Ok(None)
    }

    fn next_block(&mut self) -> Result<Option<Block>, BadRun> {
        while self.next_at < self.run.blocks_end {
            let block = self.run.block(self.next_at)?;
            self.next_at += block.length() as u64;
            // Those of the levels above stand between.
            if block.level == 0 {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }
}

/// What stands at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Where the block at the top is; 0 for none.
    pub root: u64,
    /// See [`Reach::end`].
    pub end: Place,
    /// See [`Reach::mark`].
    pub mark: u32,
    /// How many volumes are in the list before it.
    pub volumes: u32,
    /// CRC-32C of that list.
    pub volumes_sum: u32,
}

impl Trailer {
    /// The trailer as bytes, at that offset.
    pub fn encode(&self, seal: &RunSeal, offset: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        for number in [self.root, self.end.to_number()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.mark, self.volumes, self.volumes_sum] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&seal.sum(offset, &out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; TRAILER_BYTES], seal: &RunSeal, offset: u64) -> Option<Self> {
        let (mut fields, sum) = bytes.split_last_chunk::<4>()?;
        if seal.sum(offset, fields).to_le_bytes() != *sum {
            return None;
        }
        let mut long = || take(&mut fields).map(u64::from_le_bytes);
        let (root, end) = (long()?, long()?);
        let mut number = || take(&mut fields).map(u32::from_le_bytes);
        let (mark, volumes, volumes_sum) = (number()?, number()?, number()?);
        Some(Self { root, end: Place::from_number(end), mark, volumes, volumes_sum })
    }
}

/// The front of a run.
pub fn front(store: [u8; 16], range: &Range<Place>) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRONT_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&store);
    out.extend_from_slice(&range.start.to_number().to_le_bytes());
    out.extend_from_slice(&range.end.to_number().to_le_bytes());
    let sum = RunSeal::new(store, range.start, range.end).sum(0, &out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn read_front(bytes: &[u8; FRONT_BYTES], store: [u8; 16]) -> Result<(Range<Place>, RunSeal), &'static str> {
    let (mut fields, sum) = bytes.split_last_chunk::<4>().ok_or("it is not whole")?;
    let whole = fields;
    if take(&mut fields) != Some(MAGIC) {
        return Err("it is no run");
    }
    if take(&mut fields).map(u32::from_le_bytes) != Some(FORMAT_VERSION) {
        return Err("another version of the program wrote it");
    }
    if take(&mut fields) != Some(store) {
        return Err("it is another storage's");
    }
    let mut place = || take(&mut fields).map(|number| Place::from_number(u64::from_le_bytes(number)));
    let (from, to) = place().zip(place()).ok_or("it is not whole")?;
    let seal = RunSeal::new(store, from, to);
    if seal.sum(0, whole).to_le_bytes() != *sum || from >= to {
        return Err("its front is damaged");
    }
    Ok((from..to, seal))
}

fn read_volumes(list: &[u8]) -> Vec<(u32, u64)> {
    let (volumes, _) = list.as_chunks::<VOLUME_BYTES>();
    let volume = |mut bytes: &[u8]| {
        Some((u32::from_le_bytes(take(&mut bytes)?), u64::from_le_bytes(take(&mut bytes)?)))
    };
    volumes.iter().filter_map(|bytes| volume(bytes)).collect()
}

fn read_exact(file: &File, bytes: &mut [u8], at: u64) -> Result<(), Unusable> {
    if read_full(file, bytes, at)? < bytes.len() {
        return Err(Unusable::Wrong("it is not whole"));
    }
    Ok(())
}
