//! The saved index as bytes: the file `INDEX`, drawn in `docs/format.md`. Who writes it when is in `saver`, what a start
//! makes of it in `restore`.
//!
//! It is a sequence of frames, each followed by the checksum of the whole file up to there. So nothing is believed before
//! all bytes before it were right, and a file that ends early, or goes on, is found by its last frame.

use std::{
    fs::File,
    io::{self, IoSlice, Read},
};

use super::{
    blocks::crc32c,
    damage::Stretch,
    disk,
    index::{Index, Place, TABLES},
    pread::read_full,
    verify::Wrong,
    volume::{SUPERBLOCK_BYTES, Volume},
};
use crate::model::Crc64;

const MAGIC: [u8; 8] = *b"BPINDEX\0";
/// Of the saved index. Another one is not read: the volumes are.
const FORMAT_VERSION: u32 = 2;
const END_BYTES: usize = 28;
const STRETCH_BYTES: usize = 24;
const VOLUME_BYTES: usize = 12;
/// So much is written between two syncs: a sync of everything at once would hold up those of the writer.
const SYNC_BYTES: usize = 4 << 20;
/// So much of a volume is remembered, by its checksum, of what lies before the end.
const MARK_BYTES: u64 = 4096;

/// Whose index it is, and from where on the volumes know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The store's id.
    pub store: [u8; 16],
    /// The hash of [`PROBE`]: with another function or seed the index says nothing.
    pub probe: u64,
    /// Every record before this place is in the index, unless another of its key replaced it. Some behind it may be.
    pub from: Place,
}

/// A key whose hash tells one hash function from another.
pub const PROBE: &[u8] = b"backpack";

/// What of the volumes the index was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Every record in the index lies before this place, and everything before it is durable and whole.
    pub end: Place,
    /// CRC-32C of up to 4 KiB before the end: if they are others, the volume was cut and written again.
    pub mark: u32,
    /// No whole file has an id from here on.
    pub next_file: u64,
    /// Stretches of volumes where no record can be read and nobody knows whose they were.
    pub stretches: Vec<(Place, Stretch)>,
    /// All volumes, ascending, with what of them is valid.
    pub volumes: Vec<(u32, u64)>,
}

/// The checksum of what lies before a place of a volume.
pub fn mark(volume: &Volume, offset: u64) -> io::Result<u32> {
    // The superblock may change: it speaks of the volume before.
    let start = offset.saturating_sub(MARK_BYTES).max(SUPERBLOCK_BYTES).min(offset);
    let mut bytes = vec![0; (offset - start) as usize];
    let read = read_full(&volume.file, &mut bytes, start)?;
    Ok(crc32c(&bytes[..read]))
}

/// Writes a saved index. The writers of blobs go on: each table is copied as it is when its turn comes.
pub struct Save<'f> {
    file: &'f File,
    crc: Crc64,
    payload: Vec<u8>,
    /// Bytes of the file so far, and of them those that were not synced.
    length: u64,
    unsynced: usize,
}

impl<'f> Save<'f> {
    /// Begins in an empty file.
    pub fn begin(file: &'f File, origin: &Origin) -> io::Result<Self> {
        let mut save = Self { file, crc: Crc64::default(), payload: Vec::new(), length: 0, unsynced: 0 };
        save.payload.extend_from_slice(&MAGIC);
        save.payload.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        save.payload.extend_from_slice(&(TABLES as u32).to_le_bytes());
        save.payload.extend_from_slice(&origin.store);
        save.payload.extend_from_slice(&origin.probe.to_le_bytes());
        save.payload.extend_from_slice(&origin.from.to_number().to_le_bytes());
        save.write_frame()?;
        Ok(save)
    }

    /// Writes that table. All of them must be written, in order.
    pub fn table(&mut self, index: &Index, number: usize) -> io::Result<()> {
        index.save_table(number, &mut self.payload);
        self.write_frame()
    }

    /// Writes the end, and makes the file durable.
    pub fn finish(mut self, extent: &Extent) -> io::Result<()> {
        self.payload.extend_from_slice(&extent.end.to_number().to_le_bytes());
        self.payload.extend_from_slice(&extent.mark.to_le_bytes());
        self.payload.extend_from_slice(&extent.next_file.to_le_bytes());
        self.payload.extend_from_slice(&(extent.stretches.len() as u64).to_le_bytes());
        for (place, stretch) in &extent.stretches {
            let fields = [place.to_number(), stretch.end, stretch.found_ms];
            fields.iter().for_each(|field| self.payload.extend_from_slice(&field.to_le_bytes()));
        }
        for (number, length) in &extent.volumes {
            self.payload.extend_from_slice(&number.to_le_bytes());
            self.payload.extend_from_slice(&length.to_le_bytes());
        }
        self.write_frame()?;
        disk::sync_data(self.file)
    }

    fn write_frame(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?.to_le_bytes();
        self.crc.update(&length);
        self.crc.update(&self.payload);
        self.payload.extend_from_slice(&self.crc.finish().0.to_le_bytes());
        let mut parts = [IoSlice::new(&length), IoSlice::new(&self.payload)];
        disk::write_parts_at(self.file, &mut parts, self.length)?;
        let written = length.len() + self.payload.len();
        self.length += written as u64;
        self.unsynced += written;
        self.payload.clear();
        if self.unsynced >= SYNC_BYTES {
            disk::sync_data(self.file)?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// Why a saved index is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Torn or damaged, of another storage or another program, or older than it may be.
    #[error("{0}")]
    Wrong(&'static str),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a saved index; takes only entries whose record is in a volume that `has` says is there. A volume is gone when its
/// records were moved: they are read where they are now.
pub fn load(
    file: &File,
    store: [u8; 16],
    probe: u64,
    has: impl Fn(u32) -> bool,
) -> Result<(Index, Place, Extent), Unusable> {
    let mut frames =
        Frames { file, left: file.metadata()?.len(), crc: Crc64::default(), payload: Vec::new() };
    let origin = read_origin(frames.next()?)?;
    if (origin.store, origin.probe) != (store, probe) {
        return Err(Unusable::Wrong("it is another storage's"));
    }
    let mut index = Index::default();
    for number in 0..TABLES {
        index
            .load_table(number, frames.next()?, &has)
            .ok_or(Unusable::Wrong("a table of it makes no sense"))?;
    }
    let extent = read_extent(frames.next()?).ok_or(Unusable::Wrong("its end makes no sense"))?;
    if frames.left > 0 {
        return Err(Unusable::Wrong("it goes on after its end"));
    }
    Ok((index, origin.from, extent))
}

fn read_origin(bytes: &[u8]) -> Result<Origin, Unusable> {
    let mut fields = Fields(bytes);
    if fields.take() != Some(MAGIC) {
        return Err(Unusable::Wrong("it is no index"));
    }
    if (fields.number(), fields.number()) != (Some(FORMAT_VERSION), Some(TABLES as u32)) {
        return Err(Unusable::Wrong("another version of the program wrote it"));
    }
    fields.origin().ok_or(Unusable::Wrong("its front makes no sense"))
}

fn read_extent(bytes: &[u8]) -> Option<Extent> {
    let (fixed, rest) = bytes.split_at_checked(END_BYTES)?;
    let mut fields = Fields(fixed);
    let end = Place::from_number(fields.long()?);
    let (mark, next_file, stretches) = (fields.number()?, fields.long()?, fields.long()?);
    let stretches = usize::try_from(stretches).ok()?.checked_mul(STRETCH_BYTES)?;
    let (stretches, volumes) = rest.split_at_checked(stretches)?;
    let stretch = |bytes| {
        let mut fields = Fields(bytes);
        let (place, end, found_ms) = (fields.long()?, fields.long()?, fields.long()?);
        Some((
            Place::from_number(place),
            Stretch { end, wrong: Wrong::NoRecord, found_ms, is_settled: false },
        ))
    };
    let stretches = stretches.chunks_exact(STRETCH_BYTES).map(stretch).collect::<Option<_>>()?;
    let entries = volumes.chunks_exact(VOLUME_BYTES);
    if !entries.remainder().is_empty() {
        return None;
    }
    let volume = |bytes| {
        let mut fields = Fields(bytes);
        Some((fields.number()?, fields.long()?))
    };
    Some(Extent { end, mark, next_file, stretches, volumes: entries.map(volume).collect::<Option<_>>()? })
}

/// Reads numbers one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn origin(&mut self) -> Option<Origin> {
        let (store, probe, from) = (self.take()?, self.long()?, self.long()?);
        self.0.is_empty().then_some(Origin { store, probe, from: Place::from_number(from) })
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Reads frame after frame.
struct Frames<'f> {
    file: &'f File,
    /// Bytes of the file that were not read yet: no frame can be longer.
    left: u64,
    crc: Crc64,
    payload: Vec<u8>,
}

impl Frames<'_> {
    fn next(&mut self) -> Result<&[u8], Unusable> {
        let length = self.take::<4>()?;
        self.crc.update(&length);
        let length = u64::from(u32::from_le_bytes(length));
        self.left = self.left.checked_sub(length).ok_or(Unusable::Wrong("it is not whole"))?;
        self.payload.resize(length as usize, 0);
        let mut file = self.file;
        file.read_exact(&mut self.payload)?;
        self.crc.update(&self.payload);
        if self.take()? != self.crc.finish().0.to_le_bytes() {
            return Err(Unusable::Wrong("its checksum is wrong"));
        }
        Ok(&self.payload)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        self.left = self.left.checked_sub(N as u64).ok_or(Unusable::Wrong("it is not whole"))?;
        let mut bytes = [0; N];
        let mut file = self.file;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use proptest::prelude::*;

    use super::*;
    use crate::storage::{
        index::Entry,
        record::{FileRef, Kind},
    };

    const STORE: [u8; 16] = [3; 16];

    fn extent() -> Extent {
        let volumes = vec![(1, 1 << 33), (3, 700)];
        let stretch = |end| Stretch { end, wrong: Wrong::NoRecord, found_ms: 17, is_settled: false };
        let stretches = vec![(Place::new(1, 100), stretch(200)), (Place::new(3, 64), stretch(600))];
        Extent { end: Place::new(3, 700), mark: 5, next_file: 12, stretches, volumes }
    }

    /// Blobs, tombstones and files; where each is, by its hash.
    fn index(count: u64) -> (Index, Vec<(u64, Entry)>) {
        let (index, mut all, mut random) = (Index::default(), Vec::new(), fastrand::Rng::with_seed(count));
        for n in 1..=count {
            let place = Place::new(if n % 3 == 0 { 1 } else { 3 }, 64 + n * 41);
            let (kind, data_len) = match n % 5 {
                0 => (Kind::Tombstone, 0),
                1 => (Kind::File, 0),
                _ => (Kind::Blob, n as u32),
            };
            let entry = Entry::new(place, 41, data_len, kind);
            let hash = random.u64(..);
            index.put(hash, None, entry, (kind == Kind::File).then_some(FileRef { id: n, length: 1000 + n }));
            all.push((hash, entry));
        }
        (index, all)
    }

    /// All entries, with the lengths of their blobs.
    fn entries(index: &Index) -> Vec<(Entry, u64)> {
        let mut all = Vec::new();
        index.for_each(|entry, length| all.push((entry, length)));
        all.sort_unstable_by_key(|(entry, _)| entry.place);
        all
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn saved(index: &Index) -> Vec<u8> {
        let mut file = file_of(&[]);
        let origin = Origin { store: STORE, probe: 9, from: Place::new(1, 64) };
        let mut save = Save::begin(&file, &origin).unwrap();
        (0..TABLES).for_each(|number| save.table(index, number).unwrap());
        save.finish(&extent()).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn load_bytes(bytes: &[u8], store: [u8; 16], probe: u64) -> Result<(Index, Place, Extent), Unusable> {
        load(&file_of(bytes), store, probe, |_| true)
    }

    #[test]
    fn what_is_saved_comes_back() {
        for count in [0, 1, 5000] {
            let (index, all) = index(count);
            let (loaded, from, found) = load_bytes(&saved(&index), STORE, 9).unwrap();
            assert_eq!((from, found), (Place::new(1, 64), extent()));
            assert!(all.iter().all(|(hash, entry)| loaded.candidates(*hash).iter().any(|one| one == entry)));
            assert_eq!(entries(&loaded), entries(&index));
            let sorted = |index: &Index| {
                let mut files = index.files();
                files.sort_unstable_by_key(|one| one.place);
                files
            };
            assert_eq!(sorted(&loaded), sorted(&index));
        }
    }

    #[test]
    fn entries_of_a_volume_that_is_gone_are_left_out() {
        let (index, all) = index(300);
        let (loaded, ..) = load(&file_of(&saved(&index)), STORE, 9, |number| number == 3).unwrap();
        for (hash, entry) in &all {
            assert_eq!(loaded.holds(*hash, entry.place), entry.place.volume() == 3);
        }
        assert_eq!(entries(&loaded).len(), 200);
        assert!(loaded.files().iter().all(|one| one.place.volume() == 3));
    }

    #[test]
    fn a_flip_in_any_byte_and_every_cut_are_found() {
        let bytes = saved(&index(20).0);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(load_bytes(&flipped, STORE, 9).is_err(), "byte {at}");
        }
        for cut in 0..bytes.len() {
            assert!(load_bytes(&bytes[..cut], STORE, 9).is_err(), "cut at {cut}");
        }
        assert!(load_bytes(&[&bytes[..], &[0]].concat(), STORE, 9).is_err());
        assert!(load_bytes(&[&bytes[..], &bytes[..]].concat(), STORE, 9).is_err());
    }

    #[test]
    fn one_of_another_storage_or_of_other_hashes_is_not_used() {
        let bytes = saved(&index(20).0);
        assert!(matches!(load_bytes(&bytes, [4; 16], 9), Err(Unusable::Wrong(_))));
        assert!(matches!(load_bytes(&bytes, STORE, 8), Err(Unusable::Wrong(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            length in proptest::option::of(0_u32..400),
        ) {
            if let Some((front, length)) = bytes.first_chunk_mut().zip(length) {
                *front = length.to_le_bytes();
            }
            prop_assert!(load_bytes(&bytes, STORE, 9).is_err());
        }

        /// Behind a checksum that is right, as nobody but this program writes them: no panic all the same.
        #[test]
        fn any_table_and_any_end_are_read_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            count in proptest::option::of(0_u32..30),
        ) {
            if let Some((front, count)) = bytes.first_chunk_mut().zip(count) {
                *front = count.to_le_bytes();
            }
            let mut index = Index::default();
            let taken = index.load_table(0, &bytes, |_| true).is_some();
            prop_assert!(taken || entries(&index).is_empty());
            prop_assert!(read_extent(&bytes).is_none() || bytes.len() >= END_BYTES);
        }
    }
}
