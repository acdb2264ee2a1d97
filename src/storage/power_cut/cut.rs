//! What is on a disk, what may be on it, and what a power cut can leave of that.
//!
//! Of a file everything is there that was synced. A sector that was written since is as it was after any one of the
//! writes to it, or before all of them, whatever became of the others; so is the file's length. A name that was made,
//! moved or removed is durable when its folder was synced; before, each such change is there or not, but whole.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::recorder::{Event, FileId};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk that events happen to.
#[derive(Default)]
pub struct Disk {
    files: Vec<OneFile>,
    names: Names,
    /// How many events there were.
    time: usize,
}

/// What became of what was not durable.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// What came up to then is there.
    Until(usize),
    /// Each for itself: the newest with this probability, else any.
    Each(f64),
}

impl Fate {
    fn any(random: &mut Rng, time: usize) -> Self {
        match random.u8(0..10) {
            0 => Self::Lost,
            1 => Self::Kept,
            2 | 3 => Self::Until(time.saturating_sub(random.usize(0..30))),
            _ => Self::Each([0.05, 0.3, 0.7, 0.95][random.usize(0..4)]),
        }
    }

    /// Which of the changes, given with their times, is the last that is there.
    fn pick(self, random: &mut Rng, times: impl ExactSizeIterator<Item = usize>) -> Option<usize> {
        match self {
            Self::Lost => None,
            Self::Kept => times.len().checked_sub(1),
            Self::Until(until) => times.take_while(|time| *time <= until).count().checked_sub(1),
            Self::Each(newest) if random.f64() < newest => times.len().checked_sub(1),
            Self::Each(_) => random.usize(0..times.len() + 1).checked_sub(1),
        }
    }
}

impl Disk {
    /// The disk after these.
    pub fn after(events: &[Event]) -> Self {
        let mut disk = Self::default();
        events.iter().for_each(|event| disk.happen(event));
        disk
    }

    /// The next event.
    pub fn happen(&mut self, event: &Event) {
        let time = self.time;
        self.time += 1;
        match event {
            Event::Create { file, path } => {
                self.files.resize_with(self.files.len().max(file + 1), OneFile::default);
                self.names.change(time, vec![(path.clone(), Some(Node::File(*file)))]);
            }
            Event::Write { file, bytes, offset } => self.files[*file].write(time, bytes, *offset as usize),
            Event::SetLen { file, length } => self.files[*file].set_len(time, *length as usize),
            Event::Sync { file } => self.files[*file].sync(),
            Event::FailedSync { file } => self.files[*file].fail_sync(),
            Event::Rename { from, to } => {
                let node = self.names.seen.get(from).copied();
                self.names.change(time, vec![(from.clone(), None), (to.clone(), node)]);
            }
            Event::Remove { path } => self.names.change(time, vec![(path.clone(), None)]),
            Event::CreateFolder { path } => self.names.change(time, vec![(path.clone(), Some(Node::Folder))]),
            Event::SyncFolder { path } => self.names.sync(path),
        }
    }

    /// Makes a directory as a power cut could leave it now.
    pub fn cut(&self, random: &mut Rng, dir: &Path) {
        let fate = Fate::any(random, self.time);
        let names = self.names.after_cut(random, fate);
        self.build(&names, dir, |file| {
            let fate = if random.u8(0..4) == 0 { Fate::any(random, self.time) } else { fate };
            file.after_cut(random, fate)
        });
    }

    /// Makes a directory as the end of the process leaves it now: nothing is lost but what the process had in memory.
    pub fn kill(&self, dir: &Path) {
        self.build(&self.names.seen, dir, |file| file.seen.clone());
    }

    fn build(&self, names: &BTreeMap<PathBuf, Node>, dir: &Path, mut bytes: impl FnMut(&OneFile) -> Vec<u8>) {
        fs::create_dir(dir).unwrap();
        // A folder comes before what is in it.
        for (path, node) in names {
            let at = dir.join(path);
            match node {
                Node::Folder => fs::create_dir(at).unwrap(),
                // What is in a folder that is gone is gone.
                Node::File(file) if at.parent().unwrap().is_dir() => {
                    fs::write(at, bytes(&self.files[*file])).unwrap();
                }
                Node::File(_) => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(FileId),
    Folder,
}

/// Names, and what they name then.
type Parts = Vec<(PathBuf, Option<Node>)>;

/// The names of a disk.
#[derive(Default)]
struct Names {
    durable: BTreeMap<PathBuf, Node>,
    /// As the processes of the machine see them.
    seen: BTreeMap<PathBuf, Node>,
    /// Changes that are not durable, with their times: each is there with all its parts or not at all.
    pending: Vec<(usize, Parts)>,
}

fn set(names: &mut BTreeMap<PathBuf, Node>, parts: &[(PathBuf, Option<Node>)]) {
    for (path, node) in parts {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

impl Names {
    fn change(&mut self, time: usize, parts: Parts) {
        set(&mut self.seen, &parts);
        self.pending.push((time, parts));
    }

    fn sync(&mut self, folder: &Path) {
        let in_folder = |parts: &[(PathBuf, _)]| parts.iter().any(|(path, _)| path.parent() == Some(folder));
        let mut later: Vec<(usize, Parts)> = Vec::new();
        for (time, parts) in std::mem::take(&mut self.pending) {
            if in_folder(&parts) {
                set(&mut self.durable, &parts);
                // Of another folder, and older: it would undo this.
                let settled = |path: &PathBuf| parts.iter().any(|(other, _)| other == path);
                later.iter_mut().for_each(|(_, parts)| {
                    parts.retain(|(path, _)| !settled(path));
                });
            } else {
                later.push((time, parts));
            }
        }
        self.pending = later;
    }

    fn after_cut(&self, random: &mut Rng, fate: Fate) -> BTreeMap<PathBuf, Node> {
        let mut names = self.durable.clone();
        for (time, parts) in &self.pending {
            if fate.pick(random, std::iter::once(*time)).is_some() {
                set(&mut names, parts);
            }
        }
        names
    }
}

/// The bytes of a file.
#[derive(Default)]
struct OneFile {
    durable: Vec<u8>,
    /// As the processes of the machine see it.
    seen: Vec<u8>,
    /// Lengths since the last sync, with their times.
    lengths: Vec<(usize, usize)>,
    /// Sectors that were written since they were durable, by number.
    sectors: BTreeMap<usize, Sector>,
}

#[derive(Default)]
struct Sector {
    /// What stood in it, with the times.
    versions: Vec<(usize, Vec<u8>)>,
    /// The next sync writes it. Not after a failed sync: then the system takes it for written.
    dirty: bool,
}

impl OneFile {
    fn write(&mut self, time: usize, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.seen.len() {
            self.seen.resize(end, 0);
            self.lengths.push((time, end));
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.touch(time, offset, end);
    }

    fn set_len(&mut self, time: usize, length: usize) {
        let before = self.seen.len();
        self.seen.resize(length, 0);
        self.lengths.push((time, length));
        self.touch(time, length, before);
    }

    fn touch(&mut self, time: usize, start: usize, end: usize) {
        for number in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let bytes = sector(&self.seen, number);
            let sector = self.sectors.entry(number).or_default();
            sector.versions.push((time, bytes));
            sector.dirty = true;
        }
    }

    fn sync(&mut self) {
        self.lengths.clear();
        self.durable.resize(self.seen.len(), 0);
        let (durable, seen) = (&mut self.durable, &self.seen);
        self.sectors.retain(|number, sector| {
            if sector.dirty {
                put_sector(durable, *number, &self::sector(seen, *number));
            }
            !sector.dirty
        });
    }

    fn fail_sync(&mut self) {
        self.sectors.values_mut().for_each(|sector| sector.dirty = false);
    }

    fn after_cut(&self, random: &mut Rng, fate: Fate) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if let Some(at) = fate.pick(random, self.lengths.iter().map(|(time, _)| *time)) {
            let length = self.lengths[at].1;
            // The disk may have come half the way.
            let part = matches!(fate, Fate::Each(_)) && random.u8(0..3) == 0;
            let (least, most) = (length.min(bytes.len()), length.max(bytes.len()));
            bytes.resize(if part { random.usize(least..=most) } else { length }, 0);
        }
        for (number, sector) in &self.sectors {
            if let Some(at) = fate.pick(random, sector.versions.iter().map(|(time, _)| *time)) {
                put_sector(&mut bytes, *number, &sector.versions[at].1);
            }
        }
        bytes
    }
}

/// A sector of a file; zeros behind its end.
fn sector(bytes: &[u8], number: usize) -> Vec<u8> {
    let start = (number * SECTOR_BYTES).min(bytes.len());
    let mut sector = bytes[start..(start + SECTOR_BYTES).min(bytes.len())].to_vec();
    sector.resize(SECTOR_BYTES, 0);
    sector
}

/// Replaces a sector of a file, as far as the file reaches.
fn put_sector(bytes: &mut [u8], number: usize, sector: &[u8]) {
    let start = (number * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    bytes[start..end].copy_from_slice(&sector[..end - start]);
}
