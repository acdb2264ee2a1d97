//! The records of some places, from the volumes themselves.

use std::{io, ops::Range, sync::Arc};

use crate::storage::{
    index::Place,
    record::{Head, Kind},
    scan::{Scan, Step},
    volume::{SUPERBLOCK_BYTES, Volume},
};

/// Gives the records of these places to `with`, until that says `false`; says up to where. Damage, which was reported
/// when it was met first, is skipped.
pub fn walk(
    volumes: &[Arc<Volume>],
    range: &Range<Place>,
    mut with: impl FnMut(Place, &Head<'_>) -> bool,
) -> io::Result<Place> {
    let (first, last) = (range.start.volume(), range.end.volume());
    for volume in volumes.iter().filter(|volume| (first..=last).contains(&volume.number)) {
        let start = if volume.number == first { range.start.offset() } else { 0 };
        let end = if volume.number == last { range.end.offset() } else { u64::MAX };
        let mut scan = Scan::new(volume, start.max(SUPERBLOCK_BYTES), end.min(volume.end()));
        while let Some(step) = scan.next()? {
            let Step::Record { offset, head } = step else { continue };
            let goes_on = head.kind == Kind::Gap || with(Place::new(volume.number, offset), &head);
            if !goes_on {
                return Ok(Place::new(volume.number, offset + head.record_length()));
            }
        }
    }
    Ok(range.end)
}
