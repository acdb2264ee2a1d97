//! Walking through a volume from head to head without reading the data between them, whatever the bytes are.
//!
//! Where no head is, the walk goes on at the next one: found by its first bytes and proven by its checksum. What was
//! skipped is reported.

use std::{io, ops::Range};

use super::{
    pread::{ReadAt, is_unreadable},
    record::{FIXED_BYTES, Head, HeadError, MAGIC, Seal},
    volume::Volume,
};

/// Read at once where records are small: many heads with one read.
const WIDE_BYTES: usize = 256 << 10;
/// Read at once where records are big: little more than the head.
const NARROW_BYTES: usize = 8 << 10;
/// What a disk cannot read is given up in pieces of this size.
const SECTOR_BYTES: usize = 4096;

/// What stands at a place of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A record that lies inside the volume. Its data was not read.
    Record {
        /// Where it begins.
        offset: u64,
        /// Its head.
        head: Head<'a>,
    },
    /// No record, up to `end`.
    Damaged {
        /// The first byte.
        start: u64,
        /// After the last byte.
        end: u64,
        /// The disk could not read all of it.
        unreadable: bool,
    },
}

/// A walk through a volume.
pub struct Scan<'v> {
    seal: &'v Seal,
    window: Window<'v>,
    position: u64,
    end: u64,
}

impl<'v> Scan<'v> {
    /// Walks from `start`, where a record begins, to `end`.
    pub fn new(volume: &'v Volume, start: u64, end: u64) -> Self {
        Self::through(&*volume.file, &volume.seal, start, end)
    }

    /// As [`Scan::new`], reading the volume with that seal through `from`.
    pub fn through(from: &'v dyn ReadAt, seal: &'v Seal, start: u64, end: u64) -> Self {
        let window =
            Window { from, bytes: Vec::new(), start, served: 0, searching: false, unreadable: Vec::new() };
        Self { seal, window, position: start, end }
    }

    /// The next record or damaged stretch; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Step<'_>>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let start = self.position;
        let Some(head_len) = self.head_at(start)? else {
            self.position = self.find_record(start + 1)?;
            let unreadable = self.window.met_unreadable(start, self.position);
            return Ok(Some(Step::Damaged { start, end: self.position, unreadable }));
        };
        self.window.served += 1;
        let bytes = self.window.at(start, head_len, self.end)?;
        // Twice because a borrow of the window cannot be returned and moved on in one function.
        let Some(head) = Head::decode_again(bytes) else {
            return Err(io::Error::other("the volume changed while it was read"));
        };
        self.position = start + head.record_length();
        Ok(Some(Step::Record { offset: start, head }))
    }

    /// The length of the head at `offset`, if there is one whose record lies inside.
    fn head_at(&mut self, offset: u64) -> io::Result<Option<usize>> {
        let mut need = FIXED_BYTES;
        loop {
            let bytes = self.window.at(offset, need, self.end)?;
            match Head::decode(bytes, self.seal, offset) {
                Ok(head) => {
                    let inside = head.record_length() <= self.end - offset;
                    return Ok(inside.then_some(head.length()));
                }
                Err(HeadError::Incomplete(more)) if more > need => need = more,
                Err(_) => return Ok(None),
            }
        }
    }

    /// The first place from `offset` on where a record is, or the end.
    fn find_record(&mut self, mut offset: u64) -> io::Result<u64> {
        self.window.searching = true;
        while offset < self.end {
            let bytes = self.window.at(offset, FIXED_BYTES, self.end)?;
            match bytes.windows(MAGIC.len()).position(|three| three == MAGIC) {
                Some(at) => {
                    offset += at as u64;
                    if self.head_at(offset)?.is_some() {
                        break;
                    }
                    offset += 1;
                }
                // The magic may begin in the last two bytes.
                None => offset += bytes.len().saturating_sub(MAGIC.len() - 1).max(1) as u64,
            }
        }
        self.window.searching = false;
        Ok(offset.min(self.end))
    }
}

/// The part of the file that was read last.
struct Window<'v> {
    from: &'v dyn ReadAt,
    bytes: Vec<u8>,
    start: u64,
    /// Records that began in it.
    served: u64,
    searching: bool,
    /// Sectors that the disk could not read, from where the walk is now.
    unreadable: Vec<Range<u64>>,
}

impl Window<'_> {
    /// The bytes from `offset` on: at least `need`, fewer only at the end of the walk or of the file.
    fn at(&mut self, offset: u64, need: usize, end: u64) -> io::Result<&[u8]> {
        let available = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let need = need.min(available);
        if self.skip_to(offset, need).is_none() {
            let size = if self.is_wide(offset) { WIDE_BYTES } else { NARROW_BYTES };
            self.fill(offset, size.max(need).min(available))?;
        }
        let skip = self.skip_to(offset, 0).unwrap_or(self.bytes.len());
        let length = available.min(self.bytes.len() - skip);
        Ok(&self.bytes[skip..skip + length])
    }

    fn skip_to(&self, offset: u64, need: usize) -> Option<usize> {
        let skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (self.bytes.len().checked_sub(skip)? >= need).then_some(skip)
    }

    /// Whether many records will be met in what is read next, going by the last ones.
    fn is_wide(&self, offset: u64) -> bool {
        let average = offset.saturating_sub(self.start) / self.served.max(1);
        self.searching || average < 4 * NARROW_BYTES as u64
    }

    fn fill(&mut self, offset: u64, size: usize) -> io::Result<()> {
        self.start = offset;
        self.served = 0;
        self.bytes.resize(size, 0);
        match self.from.read_full(&mut self.bytes, offset) {
            Ok(read) => self.bytes.truncate(read),
            Err(error) if is_unreadable(&error) => {
                tracing::error!(offset, %error, "the disk cannot read this part of a volume");
                self.fill_by_sectors(offset)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the disk could not read all of that part, which was walked through just now.
    fn met_unreadable(&mut self, start: u64, end: u64) -> bool {
        let any = self.unreadable.iter().any(|sector| sector.start < end && start < sector.end);
        self.unreadable.retain(|sector| sector.end > end);
        any
    }

    /// Reads what can be read; the rest is zeros, which are no record.
    fn fill_by_sectors(&mut self, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < self.bytes.len() {
            let at = offset + done as u64;
            // Sectors of the disk, not of what is read.
            let size = SECTOR_BYTES - (at % SECTOR_BYTES as u64) as usize;
            let end = (done + size).min(self.bytes.len());
            let sector = &mut self.bytes[done..end];
            match self.from.read_full(sector, at) {
                Ok(_) => {}
                Err(error) if is_unreadable(&error) => {
                    sector.fill(0);
                    self.unreadable.push(at..at + sector.len() as u64);
                }
                Err(error) => return Err(error),
            }
            done = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{Checksum, Version},
        storage::{
            record::{Kind, NewHead},
            verify,
        },
    };

    const STORE: [u8; 16] = [3; 16];

    fn record(key: &[u8], data: &[u8], offset: u64) -> Vec<u8> {
        let sums = crate::storage::blocks::block_sums(data);
        let head = NewHead {
            kind: Kind::Blob,
            starts_batch: true,
            version: Version::from_parts(1, 1),
            checksum: Checksum::of(data),
            data_len: data.len() as u32,
            key,
            pairs: &[],
            file: None,
            sums: if sums.len() > 1 { &sums } else { &[] },
        };
        let mut out = Vec::new();
        head.encode(&mut out, &Seal::new(STORE, 1), offset);
        out.extend_from_slice(data);
        out
    }

    /// Walks through these bytes: the records' keys, and every byte that was skipped. Checks that the steps follow
    /// each other without a hole.
    fn walk(bytes: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        let volume = Volume::new(STORE, 1, Arc::new(file), bytes.len() as u64);
        let mut scan = Scan::new(&volume, 0, bytes.len() as u64);
        let (mut keys, mut skipped, mut at) = (Vec::new(), 0, 0);
        while let Some(step) = scan.next().unwrap() {
            match step {
                Step::Record { offset, head } => {
                    assert_eq!(offset, at);
                    keys.push(head.key.to_vec());
                    at = offset + head.record_length();
                    assert_eq!(verify::record(&*volume.file, offset, &head).unwrap(), Ok(()));
                }
                Step::Damaged { start, end, .. } => {
                    assert!(start == at && end > start);
                    skipped += end - start;
                    at = end;
                }
            }
        }
        assert_eq!(at, bytes.len() as u64);
        (keys, skipped)
    }

    fn pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        let size = prop_oneof![5 => 0_usize..300, 2 => 5_000_usize..40_000, 1 => 70_000_usize..400_000];
        let bytes = (size, any::<u8>(), any::<bool>()).prop_map(|(size, fill, magic)| {
            let mut bytes = vec![fill; size];
            if magic {
                bytes.chunks_exact_mut(4).for_each(|four| four.copy_from_slice(b"BPr\x01"));
            }
            bytes
        });
        proptest::collection::vec((any::<bool>(), bytes), 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Records of all sizes with anything between them, even what looks like heads.
        #[test]
        fn every_record_is_found_whatever_lies_between(pieces in pieces()) {
            let (mut bytes, mut keys, mut junk) = (Vec::new(), Vec::new(), 0);
            for (n, (is_record, piece)) in pieces.into_iter().enumerate() {
                if is_record {
                    let key = format!("key/{n}").into_bytes();
                    bytes.extend(record(&key, &piece, bytes.len() as u64));
                    keys.push(key);
                } else {
                    junk += piece.len() as u64;
                    bytes.extend(piece);
                }
            }
            prop_assert_eq!(walk(&bytes), (keys, junk));
        }

        #[test]
        fn any_bytes_are_walked_through(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(walk(&bytes), (Vec::new(), bytes.len() as u64));
        }
    }
}
