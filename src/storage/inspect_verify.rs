//! Every byte of a data directory read and compared with what was written, from outside: see [`super::inspect`].
//!
//! A whole file may go at any time, because its blob was replaced. So one that is missing counts as damage only if a second
//! look, begun after it was missed, still finds the newest record of its key naming it: a file goes when the record that
//! replaces it is on the disk.

use std::{cell::RefCell, collections::HashSet, fs::File, io, ops::Range};

use serde::Serialize;

use super::{
    index::Place,
    inspect::{Inspection, Met, Record, reading},
    options::OpenError,
    pread::{ReadAt, is_unreadable, read_full},
    record::FileRef,
    recovery::OnRead,
    shared::SavedIndex,
    verify::{self, Wrong},
    volume::SUPERBLOCK_BYTES,
    whole,
};
use crate::model::{Checksum, Version};

/// Something that is not what was written.
#[derive(Debug, Clone, Copy)]
pub struct Damage<'a> {
    /// The volume's number.
    pub volume: u32,
    /// The first byte in the volume that it is about.
    pub start: u64,
    /// After the last one.
    pub end: u64,
    /// What is wrong.
    pub wrong: Wrong,
    /// Whose it is, if the head can be read.
    pub blob: Option<DamagedBlob<'a>>,
}

/// Whose record is damaged.
#[derive(Debug, Clone, Copy)]
pub struct DamagedBlob<'a> {
    /// The key's bytes.
    pub key: &'a [u8],
    /// Which write it is.
    pub version: Version,
    /// Bytes of the blob.
    pub length: u64,
    /// It is the newest of its key. Else nobody needs it any more.
    pub is_live: bool,
}

impl<'a> DamagedBlob<'a> {
    fn of(record: &Record<'a>) -> Self {
        let Record { is_live, head, .. } = record;
        Self { key: head.key, version: head.version, length: head.blob_length(), is_live: *is_live }
    }
}

/// What was read, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// Volumes.
    pub volumes: u64,
    /// Records.
    pub records: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Whole files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// How many damages there are.
    pub damaged: u64,
    /// Bytes that were never acknowledged: being written, or left by a crash.
    pub unfinished_bytes: u64,
    /// Whole files that no record names; the next start removes them, unless there is damage that may hide a record.
    pub unnamed_files: u64,
    /// Their bytes.
    pub unnamed_bytes: u64,
    /// What became of the saved index.
    pub saved_index: SavedIndex,
}

impl Inspection {
    /// Reads all volumes, or one of them, and the whole files that their records name. Says what is damaged as it is found.
    pub fn verify(
        mut self,
        only: Option<u32>,
        on_read: OnRead<'_>,
        on_damage: &mut dyn FnMut(Damage<'_>),
    ) -> Result<Verified, OpenError> {
        self.has(only)?;
        let of = self.bytes_to_read(only);
        let mut read = |bytes| on_read(bytes, of);
        let mut check = Check::new(self.saved, &mut read, on_damage);
        while let Some(opened) = self.next_volume(only) {
            let number = opened.volume.number;
            if !opened.is_sound() {
                check.damaged(number, 0..SUPERBLOCK_BYTES, Wrong::Superblock, None);
            }
            let walked = self.walk_through(&opened, &mut |met| check.meet(&self, &opened.volume.file, met));
            walked.map_err(reading(number))?;
            check.sum.volumes += 1;
        }
        let unnamed = match only {
            None => self.unnamed_files().map_err(OpenError::io("list the files of blobs"))?,
            Some(_) => Vec::new(),
        };
        check.look_again(&self, unnamed)?;
        Ok(check.sum)
    }

    fn bytes_to_read(&self, only: Option<u32>) -> u64 {
        let is_wanted = |number: u32| only.is_none_or(|only| only == number);
        let volumes = self.opened.iter().filter(|opened| is_wanted(opened.volume.number));
        let volumes: u64 = volumes.map(|opened| opened.volume.end()).sum();
        let files = self.index.files();
        let files = files.iter().filter(|one| is_wanted(one.place.volume()));
        files.fold(volumes, |sum, one| sum.saturating_add(whole::file_length(one.file.length)))
    }

    /// Files that no live record names, with their lengths.
    fn unnamed_files(&self) -> io::Result<Vec<(u64, u64)>> {
        let named: HashSet<u64> = self.index.files().iter().map(|one| one.file.id).collect();
        Ok(self.layout.blobs()?.into_iter().filter(|(id, _)| !named.contains(id)).collect())
    }
}

/// A blob whose file is missing, or has another length.
struct Missed {
    place: Place,
    end: u64,
    file: FileRef,
    wrong: Wrong,
    key: Vec<u8>,
    version: Version,
}

struct Check<'a> {
    sum: Verified,
    missed: Vec<Missed>,
    read: &'a mut dyn FnMut(u64),
    on_damage: &'a mut dyn FnMut(Damage<'_>),
}

impl<'a> Check<'a> {
    fn new(
        saved_index: SavedIndex,
        read: &'a mut dyn FnMut(u64),
        on_damage: &'a mut dyn FnMut(Damage<'_>),
    ) -> Self {
        let sum = Verified {
            volumes: 0,
            records: 0,
            bytes: 0,
            files: 0,
            file_bytes: 0,
            damaged: 0,
            unfinished_bytes: 0,
            unnamed_files: 0,
            unnamed_bytes: 0,
            saved_index,
        };
        Self { sum, missed: Vec::new(), read, on_damage }
    }

    fn damaged(&mut self, volume: u32, bytes: Range<u64>, wrong: Wrong, blob: Option<DamagedBlob<'_>>) {
        self.sum.damaged += 1;
        (self.on_damage)(Damage { volume, start: bytes.start, end: bytes.end, wrong, blob });
    }

    /// Always goes on.
    fn meet(&mut self, inspection: &Inspection, volume: &File, met: Met<'_>) -> io::Result<bool> {
        match met {
            Met::Record(record) => self.meet_record(inspection, volume, &record)?,
            Met::Damaged { volume, bytes } => {
                (self.read)(bytes.end - bytes.start);
                self.damaged(volume, bytes, Wrong::NoRecord, None);
            }
            Met::Unfinished { bytes, .. } => self.sum.unfinished_bytes += bytes.end - bytes.start,
        }
        Ok(true)
    }

    fn meet_record(&mut self, inspection: &Inspection, volume: &File, record: &Record<'_>) -> io::Result<()> {
        let Record { offset, head, .. } = record;
        let bytes = *offset..offset + head.record_length();
        self.sum.records += 1;
        self.sum.bytes += head.record_length();
        (self.read)(head.record_length());
        if let Err(wrong) = verify::record(volume, *offset, head)? {
            self.damaged(record.volume, bytes.clone(), wrong, Some(DamagedBlob::of(record)));
        }
        // The file of a record that was replaced is gone, as it must be.
        let Some(file) = head.file().filter(|_| record.is_live) else { return Ok(()) };
        match self.verify_file(inspection, file, head.checksum)? {
            Ok(()) => {}
            Err(wrong @ (Wrong::FileGone | Wrong::FileLength)) => self.missed.push(Missed {
                place: Place::new(record.volume, *offset),
                end: bytes.end,
                file,
                wrong,
                key: head.key.to_vec(),
                version: head.version,
            }),
            Err(wrong) => self.damaged(record.volume, bytes, wrong, Some(DamagedBlob::of(record))),
        }
        Ok(())
    }

    fn verify_file(
        &mut self,
        inspection: &Inspection,
        file: FileRef,
        checksum: Checksum,
    ) -> io::Result<Result<(), Wrong>> {
        let opened = match File::open(inspection.layout.blob(file.id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Wrong::FileGone)),
            Err(error) if is_unreadable(&error) => return Ok(Err(Wrong::Unreadable)),
            opened => opened?,
        };
        let on_disk = opened.metadata()?.len();
        self.sum.files += 1;
        self.sum.file_bytes += on_disk;
        let counted = Counted { file: opened, read: RefCell::new(&mut *self.read) };
        verify::file(&counted, on_disk, file.length, Some(checksum))
    }

    /// Counts as damage what was missed and is still missed, as files without a record those that still have none.
    fn look_again(&mut self, before: &Inspection, unnamed: Vec<(u64, u64)>) -> Result<(), OpenError> {
        if self.missed.is_empty() && unnamed.is_empty() {
            return Ok(());
        }
        let now = Inspection::open(&before.dir, &mut |_, _| {})?;
        let named: HashSet<u64> = now.index.files().iter().map(|one| one.file.id).collect();
        for missed in std::mem::take(&mut self.missed) {
            if named.contains(&missed.file.id) {
                let Missed { place, end, file, wrong, ref key, version } = missed;
                let blob = DamagedBlob { key, version, length: file.length, is_live: true };
                self.damaged(place.volume(), place.offset()..end, wrong, Some(blob));
            }
        }
        for (_, bytes) in
            unnamed.iter().filter(|(id, _)| !named.contains(id) && now.layout.blob(*id).exists())
        {
            self.sum.unnamed_files += 1;
            self.sum.unnamed_bytes += bytes;
        }
        Ok(())
    }
}

/// A file whose bytes are counted as they are read.
struct Counted<'a> {
    file: File,
    read: RefCell<&'a mut dyn FnMut(u64)>,
}

impl ReadAt for Counted<'_> {
    fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.read.borrow_mut())(buffer.len() as u64);
        read_full(&self.file, buffer, offset)
    }
}
