//! The first step of a start: the saved index, if it is what the volumes say. Else it is ignored, and the start reads all
//! volumes.

use std::{fs::File, io, time::Instant};

use super::{
    checkpoint::{Extent, PROBE, Unusable, load, mark},
    index::{Entry, Index, Place},
    layout::Layout,
    opened::Opened,
    options::Options,
    pread::is_unreadable,
    record::Kind,
    scan::{Scan, Step},
    volume::{SUPERBLOCK_BYTES, Volume},
};

/// What was saved, and is still true.
pub struct Restored {
    /// The index.
    pub index: Index,
    /// The volumes know more from here on.
    pub from: Place,
    /// What the index was made of.
    pub extent: Extent,
}

/// Takes the saved index, opened before the volumes were. One that cannot be used is removed: what the start does to the
/// volumes now, the next one must not take for what was saved.
pub fn restore(
    layout: &Layout,
    options: &Options,
    saved: Option<File>,
    volumes: &mut [Opened],
) -> io::Result<Option<Restored>> {
    let started = Instant::now();
    match try_restore(layout, options, saved, volumes) {
        Ok(Some(restored)) => {
            tracing::info!(took = ?started.elapsed(), from = ?restored.from, "the saved index is used");
            Ok(Some(restored))
        }
        Ok(None) => {
            tracing::info!("no index was saved: all volumes are read");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, "the saved index cannot be used: all volumes are read");
            if layout.may_change() {
                layout.index.remove()?;
            }
            Ok(None)
        }
    }
}

fn try_restore(
    layout: &Layout,
    options: &Options,
    saved: Option<File>,
    volumes: &mut [Opened],
) -> Result<Option<Restored>, Unusable> {
    let Some(file) = saved else { return Ok(None) };
    let probe = (options.key_hash)(PROBE, layout.hash_seed);
    let mut there = vec![false; volumes.last().map_or(0, |last| last.volume.number as usize + 1)];
    volumes.iter().for_each(|opened| there[opened.volume.number as usize] = true);
    let has = |number: u32| there.get(number as usize) == Some(&true);
    let (index, from, extent) = load(&file, layout.store, probe, has)?;
    let saved = Restored { index, from, extent };
    let Restored { extent, .. } = &saved;
    let lengths = volumes
        .iter()
        .map(|opened| (opened.volume.number, opened.valid_length(), opened.length_is_guessed()));
    if from > extent.end {
        return Err(Unusable::Wrong("it ends before it begins"));
    }
    agrees(extent.end, &extent.volumes, &lengths.collect::<Vec<_>>()).map_err(Unusable::Wrong)?;
    let last = volumes.iter().find(|opened| opened.volume.number == extent.end.volume());
    if let Some(last) = last {
        let number = last.volume.number;
        match mark(&last.volume, extent.end.offset()) {
            Ok(found) if found == extent.mark => {}
            Err(error) if !is_unreadable(&error) => return Err(error.into()),
            // What was saved was durable, so no crash does that.
            _ if saved.knows(&last.volume, |key| (options.key_hash)(key, layout.hash_seed))? => {
                tracing::error!(number, "the last bytes of a volume are damaged");
            }
            _ => return Err(Unusable::Wrong("the last volume was cut and written again")),
        }
    }
    // Where the superblock that said so is damaged, the index says how much of a volume is valid.
    let guessed = volumes.iter_mut().filter(|opened| opened.length_is_guessed());
    for opened in guessed.filter(|opened| opened.volume.number < extent.end.volume()) {
        if let Some((_, length)) = extent.volumes.iter().find(|(number, _)| *number == opened.volume.number) {
            opened.set_length(*length);
        }
    }
    Ok(Some(saved))
}

impl Restored {
    /// Whether every record that can be read in the volume where the index ends is one it knows, or one it knows a later
    /// one of the key of, and none is where another should be. Then what cannot be read is damage, of which the index
    /// says whose it is; else the volume was written again since.
    fn knows(&self, volume: &Volume, hash: impl Fn(&[u8]) -> u64) -> io::Result<bool> {
        let Self { index, from, extent } = self;
        let (mut met, mut hidden) = (0, Vec::new());
        let mut scan = Scan::new(volume, SUPERBLOCK_BYTES, volume.end());
        while let Some(step) = scan.next()? {
            match step {
                Step::Damaged { start, end, .. } => hidden.push(start..end),
                Step::Record { offset, .. } if offset >= extent.end.offset() => break,
                Step::Record { offset, head } => {
                    let place = Place::new(volume.number, offset);
                    let entry = Entry::new(place, head.length(), head.data_len, head.kind);
                    let of_key = index.candidates(hash(head.key));
                    let is_known = of_key.iter().any(|one| *one == entry);
                    met += usize::from(is_known);
                    let may_be_unknown = head.kind == Kind::Gap
                        || place >= *from
                        || of_key.iter().any(|later| later.place > place);
                    let crosses_the_end = offset + head.record_length() > extent.end.offset();
                    if !is_known && !may_be_unknown || crosses_the_end {
                        return Ok(false);
                    }
                }
            }
        }
        let mut known = 0;
        index.for_each(|entry, _| known += usize::from(entry.place.volume() == volume.number));
        Ok(known == met + index.within(volume.number, &hidden).len())
    }
}

/// Whether volumes (number, valid bytes, whether that is a guess; ascending) still hold what was made of them when they were
/// `known` (number, valid bytes; ascending) and ended at `end`. One that is gone was compacted: what of it is still valid stands
/// behind the others now.
pub fn agrees(end: Place, known: &[(u32, u64)], volumes: &[(u32, u64, bool)]) -> Result<(), &'static str> {
    let last = volumes.last().map_or(0, |(number, ..)| *number);
    if last < end.volume() {
        return Err("the last volume is gone");
    }
    for &(number, length, is_guessed) in volumes.iter().filter(|(number, ..)| *number <= end.volume()) {
        let Ok(at) = known.binary_search_by_key(&number, |(known, _)| *known) else {
            return Err("there is a volume that it does not know");
        };
        let saved = known[at].1;
        // The last one may have grown since. Of one whose length is a guess it may be the end that was never acknowledged.
        let may_be_longer = is_guessed || number == end.volume();
        if length < saved || length > saved && !may_be_longer {
            return Err("a volume has another length");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_may_grow_at_the_end_and_go_but_not_change() {
        let (end, known) = (Place::new(7, 500), [(3, 100), (5, 200), (7, 500)]);
        let agrees = |volumes: &[(u32, u64)]| {
            let sure = volumes.iter().map(|&(number, length)| (number, length, false));
            super::agrees(end, &known, &sure.collect::<Vec<_>>()).is_ok()
        };
        assert!(agrees(&[(3, 100), (5, 200), (7, 500)]));
        assert!(agrees(&[(3, 100), (5, 200), (7, 900), (8, 64)]));
        assert!(agrees(&[(7, 500)]) && agrees(&[(5, 200), (9, 64)]), "the others were compacted");
        assert!(!agrees(&[(3, 100), (5, 200), (7, 499)]));
        assert!(!agrees(&[(3, 101), (5, 200), (7, 500)]) && !agrees(&[(3, 99), (5, 200), (7, 500)]));
        assert!(!agrees(&[(3, 100), (4, 64), (5, 200), (7, 500)]));
        assert!(!agrees(&[]) && !agrees(&[(3, 100), (5, 200)]), "compaction leaves the last one");
        let guessed = |length| super::agrees(end, &known, &[(3, length, true), (7, 500, false)]).is_ok();
        assert!(
            guessed(100) && guessed(101) && !guessed(99),
            "more than is valid may be there, but not less"
        );
    }
}
