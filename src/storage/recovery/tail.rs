//! The end of the last volume. Only there can be writes that were never made durable, and only after the last clean point:
//! every record is verified whole. One that is not whole was being written when the process or the machine stopped, unless
//! a later record says that everything before it was synced: then it is damage, and stays to be reported. What is
//! left of unfinished writes is cut off, or covered with a gap where whole records follow.

use std::io;

use super::{Met, Recovery};
use crate::{
    model::{Checksum, Version},
    storage::{
        disk,
        index::Place,
        layout::CleanPoint,
        pread::read_full,
        record::{FIXED_BYTES, Head, Kind, NewHead, Seal},
        scan::{Scan, Step},
        verify::{self, Wrong},
        volume::Volume,
    },
};

/// Written again at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// What is not whole: damage, or a write that never ended.
struct Doubtful {
    start: u64,
    end: u64,
    /// If the head can be read.
    met: Option<Met>,
}

/// What the tail is.
struct Verified {
    /// Where its last whole record ends.
    end: u64,
    /// What comes before this was synced when something was written behind it.
    unsure: u64,
}

impl Recovery<'_> {
    pub(super) fn read_last(&mut self, volume: &Volume, start: u64, length: u64) -> io::Result<()> {
        let clean = self.clean.filter(|clean| clean.volume == volume.number);
        let clean = clean.map_or(start, |clean| clean.length.max(start));
        let clean = if volume.number == self.whole.volume() { clean.max(self.whole.offset()) } else { clean };
        self.whole_end = clean;
        self.read_heads(volume, start, clean, length)?;
        if length < clean {
            // Behind half a record nothing may be appended: it would be taken for the other half.
            self.goes_on = false;
            return Ok(());
        }
        let Verified { end, unsure } = self.verify_tail(volume, clean, length)?;
        volume.set_end(end);
        if !self.layout.may_change() {
            self.unfinished.extend((end < length).then_some(end..length));
            return Ok(());
        }
        if end != length {
            tracing::warn!(volume = volume.number, from = end, to = length, "an unfinished write is cut off");
            disk::set_len(&volume.file, end)?;
        }
        write_again(volume, unsure, end)?;
        // What is shown from now on must be durable, whoever wrote it.
        disk::sync_all(&volume.file)?;
        self.layout.save_clean_point(CleanPoint { volume: volume.number, length: end })
    }

    /// Takes the whole records after `start`.
    fn verify_tail(&mut self, volume: &Volume, start: u64, length: u64) -> io::Result<Verified> {
        let (mut end, mut unsure) = (start, start);
        let mut doubtful = Vec::new();
        let mut scan = Scan::new(volume, start, length);
        while let Some(step) = scan.next()? {
            match step {
                Step::Damaged { start, end: lost, unreadable: true } => {
                    self.met_unreadable(volume, &mut doubtful);
                    self.hidden(volume, start, lost);
                    (end, unsure) = (lost, lost);
                }
                Step::Damaged { start, end, .. } => doubtful.push(Doubtful { start, end, met: None }),
                Step::Record { offset, head } => {
                    if head.starts_batch {
                        unsure = offset;
                        doubtful.drain(..).for_each(|doubtful| self.take_damaged(volume, doubtful));
                    }
                    let (met, record_end) = (Met::of(volume, offset, &head), offset + head.record_length());
                    (self.on_read)(head.record_length(), self.to_read);
                    match self.tail_record(volume, offset, &head)? {
                        Ok(()) => {
                            self.take(&met.key, met.entry, met.facts);
                            end = record_end;
                        }
                        Err(Wrong::Unreadable) => {
                            self.met_unreadable(volume, &mut doubtful);
                            let _ =
                                self.damage.found(self.hash(&met.key), met.entry.place, Wrong::Unreadable);
                            self.take(&met.key, met.entry, met.facts);
                            (end, unsure) = (record_end, record_end);
                        }
                        Err(_) => doubtful.push(Doubtful { start: offset, end: record_end, met: Some(met) }),
                    }
                }
            }
        }
        for gap in doubtful.iter().filter(|doubtful| doubtful.end <= end) {
            self.sound_to = self.sound_to.min(Place::new(volume.number, gap.start));
            if self.layout.may_change() {
                self.cover(volume, gap)?;
            } else {
                self.unfinished.push(gap.start..gap.end);
            }
        }
        Ok(Verified { end, unsure })
    }

    /// What the disk cannot read is not what a crash leaves, and what was there may have said that all before it was synced.
    /// Nothing is appended behind it: that would be written to the sector that cannot be read.
    fn met_unreadable(&mut self, volume: &Volume, doubtful: &mut Vec<Doubtful>) {
        doubtful.drain(..).for_each(|doubtful| self.take_damaged(volume, doubtful));
        self.goes_on = false;
    }

    fn tail_record(&self, volume: &Volume, offset: u64, head: &Head<'_>) -> io::Result<Result<(), Wrong>> {
        match head.file() {
            Some(file) if self.layout.has_blob(file) => Ok(Ok(())),
            Some(_) => Ok(Err(Wrong::FileGone)),
            None => verify::data(&*volume.file, offset, head),
        }
    }

    /// Takes what was acknowledged and is not whole any more.
    fn take_damaged(&mut self, volume: &Volume, doubtful: Doubtful) {
        let Some(met) = doubtful.met else {
            self.hidden(volume, doubtful.start, doubtful.end);
            return;
        };
        // A missing file may have been replaced since; all files are checked at the end.
        if met.facts.file.is_none() {
            let _ = self.damage.found(self.hash(&met.key), met.entry.place, Wrong::Checksum);
        }
        self.take(&met.key, met.entry, met.facts);
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
            disk::write_at(&volume.file, &gap_head(&volume.seal, start, data_len as u32), start)?;
            start += FIXED_BYTES as u64 + data_len;
        }
        Ok(())
    }
}

/// Writes what is there once more, or the next sync may say too much: after one that failed, the system takes what it could
/// not write for written, and shows it until the power is cut.
fn write_again(volume: &Volume, start: u64, end: u64) -> io::Result<()> {
    let mut bytes = vec![0; end.saturating_sub(start).min(CHUNK_BYTES) as usize];
    let mut at = start;
    while at < end {
        let wanted = (end - at).min(CHUNK_BYTES) as usize;
        let read = read_full(&volume.file, &mut bytes[..wanted], at)?;
        if read < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        disk::write_at(&volume.file, &bytes[..wanted], at)?;
        at += wanted as u64;
    }
    Ok(())
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
