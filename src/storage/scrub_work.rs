//! What the scrub reads and verifies: a volume, a file of a blob. What is wrong is noted as damage, unless it is not the
//! newest of its key: then nobody needs it.

use std::{fs::File, io, ops::Range};

use super::{
    disk,
    gentle::Gentle,
    index::{Entry, InFile, Place},
    lookup::read_head_with,
    record::{Head, Kind},
    rewrite::GoOn,
    scan::{Scan, Step},
    shared::Shared,
    verify::{self, Wrong},
    volume::{SUPERBLOCK_BYTES, Superblock, Volume},
};
use crate::daemon::unix_ms;

/// A superblock may be written while it is read.
const SUPERBLOCK_TRIES: usize = 3;
/// Parts without records that are looked up together, for that goes through the whole index.
const HIDDEN_AT_ONCE: usize = 1000;

/// Told how far a walk is: where in the volume.
pub type Reached<'a> = &'a mut dyn FnMut(u64);

/// Verifies a volume, from an offset where a record begins up to `end`. One that compaction removed is passed over: what is
/// needed of it was verified when it was moved. Errors as those of [`Gentle`].
pub fn volume(
    shared: &Shared,
    volume: &Volume,
    from: u64,
    end: u64,
    go_on: GoOn<'_>,
    reached: Reached<'_>,
) -> io::Result<()> {
    let gentle = match Gentle::open(&shared.layout.volume(volume.number), go_on) {
        Ok(gentle) => gentle,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut from = from;
    if from < SUPERBLOCK_BYTES {
        superblock(shared, volume, gentle.file())?;
        from = SUPERBLOCK_BYTES;
        reached(from);
    }
    let mut hidden = Vec::new();
    let walked = walk(shared, volume, &gentle, (from, end), &mut hidden, reached);
    note_hidden(shared, volume, &hidden);
    walked
}

fn walk(
    shared: &Shared,
    volume: &Volume,
    gentle: &Gentle<'_>,
    (from, end): (u64, u64),
    hidden: &mut Vec<Range<u64>>,
    reached: Reached<'_>,
) -> io::Result<()> {
    let mut scan = Scan::through(gentle, &volume.seal, from, end);
    while let Some(step) = scan.next()? {
        match step {
            Step::Record { offset, head } => {
                record(shared, volume, gentle, offset, &head)?;
                reached(offset + head.record_length());
            }
            Step::Damaged { start, end, .. } => {
                hidden.push(start..end);
                if hidden.len() >= HIDDEN_AT_ONCE {
                    note_hidden(shared, volume, &std::mem::take(hidden));
                }
                reached(end);
            }
        }
    }
    Ok(())
}

fn record(
    shared: &Shared,
    volume: &Volume,
    gentle: &Gentle<'_>,
    offset: u64,
    head: &Head<'_>,
) -> io::Result<()> {
    let (hash, place) = (shared.hash(head.key), Place::new(volume.number, offset));
    match verify::record(gentle, offset, head)? {
        Ok(()) => {
            // What is wrong with the file of a blob is not seen here.
            let is_mended = |wrong| head.kind != Kind::File || is_of_head(wrong);
            if shared.damage.wrong(place).is_some_and(is_mended) {
                shared.damage.is_sound(place);
            }
        }
        Err(wrong) => found(shared, hash, place, wrong),
    }
    Ok(())
}

fn is_of_head(wrong: Wrong) -> bool {
    matches!(wrong, Wrong::Head | Wrong::Meta)
}

/// Notes a damaged record if it is the newest of its key.
fn found(shared: &Shared, hash: u64, place: Place, wrong: Wrong) {
    if shared.index.holds(hash, place) {
        let _ = shared.damage.found(hash, place, wrong);
        shared.scrub.count_found();
    }
}

/// Where no head can be read the index knows whose records were needed. If it does not, that was noted at the start.
fn note_hidden(shared: &Shared, volume: &Volume, hidden: &[Range<u64>]) {
    if hidden.is_empty() {
        return;
    }
    tracing::warn!(volume = volume.number, ?hidden, "no records can be read in these parts of a volume");
    for (hash, entry) in shared.index.within(volume.number, hidden) {
        found(shared, hash, entry.place, Wrong::Head);
    }
}

fn superblock(shared: &Shared, volume: &Volume, file: &File) -> io::Result<()> {
    for _ in 0..SUPERBLOCK_TRIES {
        if Volume::superblock(file, shared.layout.store, volume.number)?.is_ok() {
            shared.damage.superblock_is_sound(volume.number);
            return Ok(());
        }
    }
    if shared.volumes.get(volume.number).is_none() {
        return Ok(());
    }
    shared.damage.found_stretch(volume.number, 0, SUPERBLOCK_BYTES, Wrong::Superblock);
    shared.scrub.count_found();
    match mend_superblock(shared, volume) {
        Ok(true) => {
            tracing::warn!(volume = volume.number, "the superblock was written again");
            shared.damage.superblock_is_sound(volume.number);
        }
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(volume = volume.number, %error, "the superblock cannot be written again")
        }
    }
    Ok(())
}

/// Writes a superblock again: all that it says is known while the engine runs, but when the volume was made. Not if the
/// volume before it lost its end, of which it is the only witness.
fn mend_superblock(shared: &Shared, volume: &Volume) -> io::Result<bool> {
    // Compaction writes superblocks too, and removes the volumes that they name.
    let _alone = shared.superblocks.lock();
    let previous = shared.volumes.before(volume.number);
    let (previous, previous_length) = previous.map_or((0, 0), |previous| (previous.number, previous.end()));
    if previous > 0 && shared.damage.hides_records(previous, previous_length, u64::MAX) {
        return Ok(false);
    }
    let (store, number) = (shared.layout.store, volume.number);
    let superblock = Superblock { store, number, previous, previous_length, created_ms: unix_ms() };
    let file = disk::open(&shared.layout.volume(number))?;
    superblock.write(&file)?;
    Ok(true)
}

/// Verifies a record that was damaged once. Errors as those of [`Gentle`].
pub fn look_again(shared: &Shared, place: Place, hash: u64, go_on: GoOn<'_>) -> io::Result<()> {
    let Some(volume) = shared.volumes.get(place.volume()) else { return Ok(()) };
    let path = shared.layout.volume(volume.number);
    let gentle = Gentle::open(&path, &mut *go_on)?;
    let mut scan = Scan::through(&gentle, &volume.seal, place.offset(), volume.end());
    if let Some(Step::Record { offset, head }) = scan.next()? {
        record(shared, &volume, &gentle, offset, &head)?;
    }
    match shared.index.file(hash, place) {
        Some(of) => file(shared, InFile { hash, place, file: of }, go_on),
        None => Ok(()),
    }
}

/// Verifies the file of a blob. One that was replaced or deleted meanwhile is passed over. Errors as those of [`Gentle`].
pub fn file(shared: &Shared, one: InFile, go_on: GoOn<'_>) -> io::Result<()> {
    let Some(entry) = entry_of(shared, one) else { return Ok(()) };
    let checksum = read_head_with(&shared.volumes, &entry, |head| head.checksum);
    let verified = match Gentle::open(&shared.layout.blob(one.file.id), go_on) {
        Ok(gentle) => verify::file(&gentle, gentle.length(), one.file.length, checksum)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Wrong::FileGone),
        Err(error) => return Err(error),
    };
    // Compaction may have moved the record.
    let Some(entry) = entry_of(shared, one) else { return Ok(()) };
    match verified {
        Err(wrong) => found(shared, one.hash, entry.place, wrong),
        Ok(()) if shared.damage.wrong(entry.place).is_some_and(|wrong| !is_of_head(wrong)) => {
            shared.damage.is_sound(entry.place);
        }
        Ok(()) => {}
    }
    Ok(())
}

/// The entry that names that file now.
fn entry_of(shared: &Shared, one: InFile) -> Option<Entry> {
    let names = |entry: &Entry| shared.index.file(one.hash, entry.place).is_some_and(|file| file == one.file);
    shared.index.candidates(one.hash).into_iter().find(names)
}
