//! The start: what the saved index does not have is taken from the heads of records, and what a crash left at the end
//! is put in order. Without a saved index the heads of all records are read.
//!
//! - `tail`: the end of the last volume, where alone there may be writes that were never made durable

mod tail;

use std::{collections::HashMap, io, ops::Range};

use super::{
    damage::{Damage, Stretch},
    disk,
    index::{Entry, InFile, Index, Place},
    layout::{CleanPoint, Layout},
    lookup::{Facts, current},
    opened::{Opened, open_volumes},
    options::{OpenError, Options},
    record::{Head, Kind},
    restore::{Restored, restore},
    scan::{Scan, Step},
    shared::{Found, SavedIndex},
    totals::{Counted, Numbers, Totals},
    verify::Wrong,
    volume::{SUPERBLOCK_BYTES, Volume, Volumes},
    whole,
};

/// Told of bytes of volumes that were read, and of how many there are to read in all.
pub type OnRead<'a> = &'a mut dyn FnMut(u64, u64);

/// Builds everything that is known at the start from what is on the disk. Where the directory is only looked at, nothing
/// is put in order: what would be cut off or covered is in [`Found::unfinished`], and whole files are not compared.
pub fn recover(layout: &Layout, options: &Options, on_read: OnRead<'_>) -> Result<Found, OpenError> {
    if layout.may_change() {
        // Which volumes there are must not change any more: a process that was killed may have made or removed one last.
        disk::sync_folder(&layout.volumes()).map_err(OpenError::io("sync the folder of volumes"))?;
    }
    // Before the volumes: who writes on meanwhile may save more than we see of them.
    let saved = layout.index.open().map_err(OpenError::io("open the saved index"))?;
    let clean = layout.clean_point();
    let mut opened = open_volumes(layout)?;
    let has_saved = saved.is_some();
    let restored =
        restore(layout, options, saved, &mut opened).map_err(OpenError::io("remove a wrong index"))?;
    let mut recovery = Recovery::new(layout, options, restored, clean, on_read);
    recovery.to_read = opened.iter().map(|opened| recovery.to_read_of(opened)).sum();
    // All of them first: a saved index may know records that are met later.
    opened.iter().for_each(|opened| recovery.volumes.add(opened.volume.clone()));
    recovery.count_restored();
    recovery.keep_damage(&opened);
    for (at, volume) in opened.iter().enumerate() {
        let is_last = at + 1 == opened.len();
        let read = recovery.read_volume(volume, is_last);
        read.map_err(OpenError::io(format!("read volume {}", volume.volume.number)))?;
    }
    if layout.may_change() {
        recovery.check_files().map_err(OpenError::io("check the files of blobs"))?;
    }
    let keys_until = recovery.keys_until();
    let Recovery {
        index,
        volumes,
        totals,
        damage,
        goes_on,
        from,
        read_bytes,
        next_file,
        unsynced_files,
        unfinished,
        whole_end,
        used_saved,
        ..
    } = recovery;
    damage.prune(&index);
    tracing::info!(
        volumes = opened.len(), read_bytes, numbers = ?totals.numbers(), damaged = damage.count(), "storage read"
    );
    Ok(Found {
        index,
        volumes,
        totals,
        damage,
        next_file,
        goes_on,
        durable_before: from.volume(),
        unsaved_bytes: read_bytes,
        keys_until,
        unsynced_files,
        opened,
        unfinished,
        whole_end,
        saved: SavedIndex::of(has_saved, used_saved),
    })
}

struct Recovery<'a> {
    layout: &'a Layout,
    options: &'a Options,
    /// The clean point, as it was before the volumes were opened.
    clean: Option<CleanPoint>,
    on_read: OnRead<'a>,
    /// Bytes to read of all volumes.
    to_read: u64,
    index: Index,
    volumes: Volumes,
    totals: Totals,
    damage: Damage,
    /// What the saved index knows of damage.
    saved_stretches: Vec<(Place, Stretch)>,
    /// Records before this place are in the index.
    from: Place,
    /// No record before this place was covered with a gap.
    sound_to: Place,
    /// Where the stretches are that were known before; `None` without a saved index.
    known_stretches: Option<Vec<(Place, u64)>>,
    /// Records before this place are known to be whole.
    whole: Place,
    /// Bytes of records that were not in the index.
    read_bytes: u64,
    /// The first id that no file had, as far as is known.
    next_file: u64,
    /// Files of records that were not in the index: who wrote them may not have synced them.
    unsynced_files: Vec<u64>,
    /// The last volume may be appended to.
    goes_on: bool,
    /// Stretches of the last volume that were never acknowledged.
    unfinished: Vec<Range<u64>>,
    /// The last volume was whole up to here once.
    whole_end: u64,
    /// The saved index was what the volumes say.
    used_saved: bool,
}

/// A record, apart from the bytes it was read from.
struct Met {
    key: Vec<u8>,
    entry: Entry,
    facts: Facts,
}

impl Met {
    fn of(volume: &Volume, offset: u64, head: &Head<'_>) -> Self {
        Self { key: head.key.to_vec(), entry: entry_of(volume, offset, head), facts: Facts::of(head) }
    }
}

fn entry_of(volume: &Volume, offset: u64, head: &Head<'_>) -> Entry {
    Entry::new(Place::new(volume.number, offset), head.length(), head.data_len, head.kind)
}

impl<'a> Recovery<'a> {
    fn new(
        layout: &'a Layout,
        options: &'a Options,
        restored: Option<Restored>,
        clean: Option<CleanPoint>,
        on_read: OnRead<'a>,
    ) -> Self {
        let nothing = Place::new(0, 0);
        let used_saved = restored.is_some();
        let known_stretches = restored.as_ref().map(|restored| places_of(&restored.extent.stretches));
        let (index, from, whole, next_file, saved_stretches) = match restored {
            Some(Restored { index, from, extent }) => {
                (index, from, extent.end, extent.next_file, extent.stretches)
            }
            None => (Index::default(), nothing, nothing, 1, Vec::new()),
        };
        Self {
            layout,
            options,
            clean,
            on_read,
            to_read: 0,
            index,
            totals: Totals::default(),
            volumes: Volumes::default(),
            damage: Damage::default(),
            saved_stretches,
            from,
            sound_to: Place::from_number(u64::MAX),
            known_stretches,
            whole,
            read_bytes: 0,
            next_file,
            unsynced_files: Vec::new(),
            goes_on: true,
            unfinished: Vec::new(),
            whole_end: 0,
            used_saved,
        }
    }

    /// Counts what the saved index holds.
    fn count_restored(&mut self) {
        let (mut numbers, mut live) = (Numbers::default(), HashMap::<u32, (u64, u64)>::new());
        self.index.for_each(|entry, length| {
            numbers.add(Counted { kind: entry.kind, length });
            let (records, bytes) = live.entry(entry.place.volume()).or_default();
            *records += 1;
            *bytes += entry.record_bound();
        });
        self.totals = Totals::new(numbers);
        for (number, (records, bytes)) in live {
            self.volumes.set_live(number, records, bytes);
        }
    }

    /// Takes over the damage that was found before where nothing is read now, and notes superblocks that cannot be read.
    fn keep_damage(&mut self, opened: &[Opened]) {
        for (place, stretch) in std::mem::take(&mut self.saved_stretches) {
            if place < self.from && self.volumes.get(place.volume()).is_some() {
                self.damage.remember_stretch(place, stretch);
            }
        }
        for volume in opened.iter().filter(|opened| !opened.is_sound()) {
            self.damage.found_stretch(volume.volume.number, 0, SUPERBLOCK_BYTES, Wrong::Superblock);
        }
    }

    fn read_volume(&mut self, opened: &Opened, is_last: bool) -> io::Result<()> {
        let volume = &opened.volume;
        if volume.number < self.from.volume() {
            return Ok(());
        }
        let start = self.start_of(volume);
        let to_read = self.to_read_of(opened);
        self.read_bytes += to_read;
        if is_last {
            self.read_last(volume, start, opened.file_length)
        } else {
            self.read_heads(volume, start, opened.expected_length, opened.file_length)
        }
    }

    /// Where in that volume the first record is that the saved index may not have.
    fn start_of(&self, volume: &Volume) -> u64 {
        if volume.number == self.from.volume() { self.from.offset() } else { SUPERBLOCK_BYTES }
    }

    /// Bytes of that volume that the saved index may not have.
    fn to_read_of(&self, opened: &Opened) -> u64 {
        if opened.volume.number < self.from.volume() {
            return 0;
        }
        opened.valid_length().saturating_sub(self.start_of(&opened.volume))
    }

    /// Takes all records from `start` to `end`, as far as the file reaches.
    fn read_heads(&mut self, volume: &Volume, start: u64, end: u64, file_length: u64) -> io::Result<()> {
        let (expected, end) = (end, end.min(file_length));
        volume.set_end(end);
        let mut scan = Scan::new(volume, start, end);
        let mut sound_end = start;
        while let Some(step) = scan.next()? {
            match step {
                Step::Record { offset, head } => {
                    sound_end = offset + head.record_length();
                    self.take(head.key, entry_of(volume, offset, &head), Facts::of(&head));
                    (self.on_read)(head.record_length(), self.to_read);
                }
                Step::Damaged { end: damaged, .. } if damaged == end && end < expected => {}
                Step::Damaged { start, end, .. } => self.hidden(volume, start, end),
            }
        }
        if end < expected {
            self.hidden(volume, sound_end, expected);
        }
        Ok(())
    }

    /// Nobody knows whose records were there.
    fn hidden(&self, volume: &Volume, start: u64, end: u64) {
        self.damage.found_stretch(volume.number, start, end, Wrong::NoRecord);
    }

    fn hash(&self, key: &[u8]) -> u64 {
        (self.options.key_hash)(key, self.layout.hash_seed)
    }

    /// Takes a record into the index if it is the newest of its key. Of two equal ones the later is the better: it
    /// was written because the other was damaged.
    fn take(&mut self, key: &[u8], entry: Entry, facts: Facts) {
        if entry.kind == Kind::Gap {
            return;
        }
        let hash = self.hash(key);
        if let Some(file) = facts.file {
            self.next_file = self.next_file.max(file.id.saturating_add(1));
            self.unsynced_files.push(file.id);
        }
        let mut old = None;
        if !self.index.put_first(hash, entry, facts.file) {
            // The saved index may know more than it must.
            if self.index.holds(hash, entry.place) {
                return;
            }
            old = current(&self.index, &self.volumes, hash, key, None);
            let rank = |facts: &Facts| (facts.version, facts.kind == Kind::Tombstone);
            if old.and_then(|old| old.facts).is_some_and(|old| rank(&old) > rank(&facts)) {
                return;
            }
            self.index.put(hash, old.map(|old| old.entry.place), entry, facts.file);
        }
        self.volumes.now_live(entry.place, entry.record_bound());
        if let Some(old) = old {
            self.volumes.now_dead(old.entry.place, old.entry.record_bound());
        }
        let counted = Counted { kind: entry.kind, length: facts.length };
        self.totals.replace(counted, old.map(|old| old.counted()));
    }

    /// Files of keys leave out what was replaced. They are believed only if no record that replaced another may have been
    /// lost from sight since: those that were made of records before this place.
    fn keys_until(&self) -> Option<Place> {
        let known = self.known_stretches.as_ref()?;
        let found = places_of(&self.damage.stretches());
        found.iter().all(|stretch| known.contains(stretch)).then_some(self.sound_to)
    }

    /// Finds missing files, removes those that no record needs, and sees which id was never used.
    fn check_files(&mut self) -> io::Result<()> {
        let mut on_disk: HashMap<u64, u64> = self.layout.blobs()?.into_iter().collect();
        self.next_file = on_disk.keys().map(|id| id.saturating_add(1)).fold(self.next_file, u64::max);
        for InFile { hash, place, file } in self.index.files() {
            match on_disk.remove(&file.id) {
                Some(length) if length == whole::file_length(file.length) => {}
                Some(_) => drop(self.damage.found(hash, place, Wrong::FileLength)),
                None => drop(self.damage.found(hash, place, Wrong::FileGone)),
            }
        }
        if !self.damage.stretches().is_empty() && !on_disk.is_empty() {
            // A record that cannot be read may name them.
            tracing::warn!(
                files = on_disk.len(),
                "files that no record names are kept because of the damage"
            );
            return Ok(());
        }
        for id in on_disk.into_keys() {
            tracing::info!(file = format!("{id:016x}"), "a file that no record names is removed");
            disk::already_gone(disk::remove(&self.layout.blob(id)))?;
        }
        Ok(())
    }
}

/// Where stretches begin and end.
fn places_of(stretches: &[(Place, Stretch)]) -> Vec<(Place, u64)> {
    stretches.iter().map(|(place, stretch)| (*place, stretch.end)).collect()
}
