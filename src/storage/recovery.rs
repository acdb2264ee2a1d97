//! The start: the index is built from the heads of all records, and what a crash left at the end is put in order.
//!
//! Only the last volume can hold writes that were never made durable, and only after the last clean point. There every
//! record is verified whole. One that is not whole was being written when the process or the machine stopped, unless
//! a later record says that everything before it was synced: then it is damage, and stays to be reported. What is
//! left of unfinished writes is cut off, or covered with a gap where whole records follow.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    sync::Arc,
};

use super::{
    damage::Damage,
    index::{Entry, Index, Place},
    layout::{CleanPoint, Layout, sync_folder},
    lookup::{Facts, current},
    options::{OpenError, Options},
    record::{FIXED_BYTES, FileRef, Head, Kind, NewHead, Seal},
    scan::{Scan, Step, data_matches},
    shared::Found,
    totals::{Counted, Totals},
    volume::{SUPERBLOCK_BYTES, Superblock, SuperblockError, Volume, Volumes, open_file},
    whole,
};
use crate::model::{Checksum, Version};

/// Builds everything that is known at the start from what is on the disk.
pub fn recover(layout: &Layout, options: &Options) -> Result<Found, OpenError> {
    let mut recovery = Recovery {
        layout,
        options,
        index: Index::default(),
        volumes: Volumes::default(),
        totals: Totals::default(),
        damage: Damage::default(),
        files: Vec::new(),
        goes_on: true,
    };
    let opened = open_volumes(layout)?;
    for (at, volume) in opened.iter().enumerate() {
        recovery.read_volume(volume, opened.get(at + 1))?;
    }
    let next_file = recovery.check_files().map_err(OpenError::io("check the files of blobs"))?;
    let Recovery { index, volumes, totals, damage, goes_on, .. } = recovery;
    tracing::info!(volumes = opened.len(), numbers = ?totals.numbers(), damaged = damage.count(), "storage read");
    Ok(Found { index, volumes, totals, damage, next_file, goes_on })
}

/// A volume's file, its number, its length, and its superblock if that can be read.
struct Opened {
    number: u32,
    file: Arc<File>,
    length: u64,
    superblock: Option<Superblock>,
}

fn open_volumes(layout: &Layout) -> Result<Vec<Opened>, OpenError> {
    let numbers = layout.volume_numbers().map_err(OpenError::io("list the volumes"))?;
    let last = numbers.last().copied();
    let mut opened = Vec::with_capacity(numbers.len());
    for number in numbers {
        let volume = open_volume(layout, number)?;
        let begun_only = volume.superblock.is_none() && volume.length <= SUPERBLOCK_BYTES;
        if begun_only && Some(number) == last {
            // The superblock is durable before the first record is written: there is none.
            tracing::warn!(volume = number, "a volume that was only begun is removed");
            fs::remove_file(layout.volume(number))
                .and_then(|()| sync_folder(&layout.volumes()))
                .map_err(OpenError::io(format!("remove volume {number}")))?;
        } else {
            opened.push(volume);
        }
    }
    Ok(opened)
}

fn open_volume(layout: &Layout, number: u32) -> Result<Opened, OpenError> {
    let path = layout.volume(number);
    let refuse = |reason: String| OpenError::Format { path: path.clone(), reason };
    if number == 0 || number > Place::MAX_VOLUME {
        return Err(refuse(format!("volumes have numbers from 1 to {}", Place::MAX_VOLUME)));
    }
    let io_error = || OpenError::io(format!("open volume {number}"));
    let file = open_file(&path).map_err(io_error())?;
    let length = file.metadata().map_err(io_error())?.len();
    if length >> 40 != 0 {
        return Err(refuse("longer than any volume".to_owned()));
    }
    let superblock = match Volume::superblock(&file, layout.store, number).map_err(io_error())? {
        Ok(superblock) => Some(superblock),
        Err(SuperblockError::Refused(reason)) => return Err(refuse(reason)),
        Err(SuperblockError::Damaged) => None,
    };
    Ok(Opened { number, file: Arc::new(file), length, superblock })
}

struct Recovery<'a> {
    layout: &'a Layout,
    options: &'a Options,
    index: Index,
    volumes: Volumes,
    totals: Totals,
    damage: Damage,
    /// Every whole file that a record named, with the record.
    files: Vec<(u64, Place, FileRef)>,
    /// The last volume may be appended to.
    goes_on: bool,
}

/// A record, apart from the bytes it was read from.
struct Met {
    key: Vec<u8>,
    entry: Entry,
    facts: Facts,
    /// Where in the volume its data is.
    data_at: u64,
}

impl Met {
    fn of(volume: &Volume, offset: u64, head: &Head<'_>) -> Self {
        let place = Place::new(volume.number, offset);
        let entry = Entry::new(place, head.length(), head.data_len, head.kind);
        let data_at = offset + head.length() as u64;
        Self { key: head.key.to_vec(), entry, facts: Facts::of(head), data_at }
    }
}

/// What is not whole: damage, or a write that never ended.
struct Doubtful {
    start: u64,
    end: u64,
    /// If the head can be read.
    met: Option<Met>,
}

impl Recovery<'_> {
    fn read_volume(&mut self, opened: &Opened, next: Option<&Opened>) -> Result<(), OpenError> {
        let number = opened.number;
        let volume = Arc::new(Volume::new(self.layout.store, number, opened.file.clone(), opened.length));
        self.volumes.add(volume.clone());
        if opened.superblock.is_none() {
            self.damage.found_stretch(number, 0, SUPERBLOCK_BYTES);
        }
        let read = if next.is_some() {
            // What the next volume does not vouch for was never acknowledged.
            let vouched = next.and_then(|next| next.superblock).filter(|next| next.previous == number);
            let end = vouched.map_or(opened.length, |next| next.previous_length);
            self.read_heads(&volume, end.min(opened.length), end)
        } else {
            self.read_last(&volume, opened.length)
        };
        read.map_err(OpenError::io(format!("read volume {number}")))
    }

    /// Takes all records up to `end`, where the file should reach at least to `expected`.
    fn read_heads(&mut self, volume: &Volume, end: u64, expected: u64) -> io::Result<()> {
        volume.set_end(end);
        let mut scan = Scan::new(volume, SUPERBLOCK_BYTES, end);
        let mut sound_end = SUPERBLOCK_BYTES;
        while let Some(step) = scan.next()? {
            match step {
                Step::Record { offset, head } => {
                    sound_end = offset + head.record_length();
                    self.take(Met::of(volume, offset, &head));
                }
                Step::Damaged { end: damaged, .. } if damaged == end && end < expected => {}
                Step::Damaged { start, end } => self.damage.found_stretch(volume.number, start, end),
            }
        }
        if end < expected {
            self.damage.found_stretch(volume.number, sound_end, expected);
        }
        Ok(())
    }

    fn read_last(&mut self, volume: &Volume, length: u64) -> io::Result<()> {
        let clean = self.layout.clean_point().filter(|clean| clean.volume == volume.number);
        let clean = clean.map_or(SUPERBLOCK_BYTES, |clean| clean.length);
        self.read_heads(volume, clean.min(length), clean)?;
        if length < clean {
            // Behind half a record nothing may be appended: it would be taken for the other half.
            self.goes_on = false;
            return Ok(());
        }
        let end = self.verify_tail(volume, clean, length)?;
        volume.set_end(end);
        if end != length {
            tracing::warn!(volume = volume.number, from = end, to = length, "an unfinished write is cut off");
            volume.file.set_len(end)?;
        }
        // What is shown from now on must be durable, whoever wrote it.
        volume.file.sync_all()?;
        self.layout.save_clean_point(CleanPoint { volume: volume.number, length: end })
    }

    /// Takes the whole records after `start`; says where the last of them ends.
    fn verify_tail(&mut self, volume: &Volume, start: u64, length: u64) -> io::Result<u64> {
        let mut end = start;
        let mut doubtful = Vec::new();
        let mut scan = Scan::new(volume, start, length);
        while let Some(step) = scan.next()? {
            match step {
                Step::Damaged { start, end } => doubtful.push(Doubtful { start, end, met: None }),
                Step::Record { offset, head } => {
                    if head.starts_batch {
                        doubtful.drain(..).for_each(|doubtful| self.take_damaged(volume, doubtful));
                    }
                    let (met, record_end) = (Met::of(volume, offset, &head), offset + head.record_length());
                    if self.is_whole(volume, &met) {
                        self.take(met);
                        end = record_end;
                    } else {
                        doubtful.push(Doubtful { start: offset, end: record_end, met: Some(met) });
                    }
                }
            }
        }
        for gap in doubtful.iter().filter(|doubtful| doubtful.end <= end) {
            self.cover(volume, gap)?;
        }
        Ok(end)
    }

    fn is_whole(&self, volume: &Volume, met: &Met) -> bool {
        let Met { entry, facts, data_at, .. } = met;
        match facts.file {
            Some(file) => fs::metadata(self.layout.blob(file.id))
                .is_ok_and(|found| found.len() == whole::file_length(file.length)),
            None if entry.kind == Kind::Blob => {
                data_matches(&volume.file, *data_at, u64::from(entry.data_len), facts.checksum)
            }
            None => true,
        }
    }

    /// Takes what was acknowledged and is not whole any more.
    fn take_damaged(&mut self, volume: &Volume, doubtful: Doubtful) {
        let Some(met) = doubtful.met else {
            self.damage.found_stretch(volume.number, doubtful.start, doubtful.end);
            return;
        };
        // A missing file may have been replaced since; all files are checked at the end.
        if met.facts.file.is_none() {
            let _ = self.damage.found(met.entry.place, "the bytes do not match their checksum");
        }
        self.take(met);
    }

    /// Covers what a crash left between whole records, so that it is never met again.
    fn cover(&self, volume: &Volume, gap: &Doubtful) -> io::Result<()> {
        tracing::warn!(
            volume = volume.number,
            from = gap.start,
            to = gap.end,
            "an unfinished write is covered"
        );
        let mut start = gap.start;
        while gap.end - start >= FIXED_BYTES as u64 {
            let data_len = (gap.end - start - FIXED_BYTES as u64).min(u64::from(u32::MAX));
            volume.file.write_all_at(&gap_head(&volume.seal, start, data_len as u32), start)?;
            start += FIXED_BYTES as u64 + data_len;
        }
        Ok(())
    }

    /// Takes a record into the index if it is the newest of its key. Of two equal ones the later is the better: it
    /// was written because the other was damaged.
    fn take(&mut self, met: Met) {
        let Met { key, entry, facts, .. } = met;
        if entry.kind == Kind::Gap {
            return;
        }
        let hash = (self.options.key_hash)(&key, self.layout.hash_seed);
        if let Some(file) = facts.file {
            self.files.push((hash, entry.place, file));
        }
        let old = current(&self.index, &self.volumes, hash, &key, None);
        let rank = |facts: &Facts| (facts.version, facts.kind == Kind::Tombstone);
        if old.and_then(|old| old.facts).is_some_and(|old| rank(&old) > rank(&facts)) {
            self.damage.replaced(entry.place);
            return;
        }
        self.index.put(hash, old.map(|old| old.entry.place), entry);
        self.volumes.now_live(entry.place, facts.record_length);
        if let Some(old) = old {
            self.volumes.now_dead(old.entry.place, old.record_length());
        }
        let counted = Counted { kind: entry.kind, length: facts.length };
        self.totals.replace(counted, old.map(|old| old.counted()));
        if let Some(old) = old {
            self.damage.replaced(old.entry.place);
        }
    }

    /// Finds missing files, removes those that no record needs, and says which id was never used.
    fn check_files(&mut self) -> io::Result<u64> {
        let mut on_disk: HashMap<u64, u64> = self.layout.blobs()?.into_iter().collect();
        let named = self.files.iter().map(|(_, _, file)| file.id);
        let next = named.chain(on_disk.keys().copied()).max().map_or(1, |id| id.saturating_add(1));
        for (_, place, file) in self.files.iter().filter(|(hash, place, _)| self.index.holds(*hash, *place)) {
            if on_disk.remove(&file.id) != Some(whole::file_length(file.length)) {
                let _ = self.damage.found(*place, "its file is gone or has another length");
            }
        }
        if self.damage.has_stretches() && !on_disk.is_empty() {
            // A record that cannot be read may name them.
            tracing::warn!(
                files = on_disk.len(),
                "files that no record names are kept because of the damage"
            );
            return Ok(next);
        }
        for id in on_disk.into_keys() {
            tracing::info!(file = format!("{id:016x}"), "a file that no record names is removed");
            fs::remove_file(self.layout.blob(id))?;
        }
        Ok(next)
    }
}

fn gap_head(seal: &Seal, offset: u64, data_len: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED_BYTES);
    let head = NewHead {
        kind: Kind::Gap,
        starts_batch: false,
        version: Version::from_bytes([0; 16]),
        checksum: Checksum(0),
        data_len,
        key: &[],
        pairs: &[],
        file: None,
        sums: &[],
    };
    head.encode(&mut out, seal, offset);
    out
}
