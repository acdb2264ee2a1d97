//! Rewriting one volume: what is still needed of it is appended to the last volume, then its file is removed.
//!
//! Every step leaves a directory that the next start reads right, and each is durable before the next begins:
//! 1. Newest records are written again, through the writer, like any write. Twice on the disk is harmless: of two equal
//!    records the later one counts.
//! 2. The volume is cut to what was acknowledged of it, for the next step takes away who says how much that is.
//! 3. The superblock of the volume after it says of the one before it what this volume's superblock said.
//! 4. The file is removed.
//! 5. Tombstones that nobody needs any more and went with it are forgotten.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    SyncMode,
    answer::{Answer, Awaited},
    disk,
    index::{Entry, Place},
    pread::{is_unreadable, read_full},
    record::{Head, Kind},
    scan::{Scan, Step},
    shared::Shared,
    verify::Wrong,
    volume::{SUPERBLOCK_BYTES, Superblock, Volume},
    writer::{Forget, Job, Request},
};
use crate::model::{Checksum, Key};

/// Bytes handed to the writer at once: what writers that come meanwhile wait for. A few milliseconds of a slow disk.
const CHUNK_BYTES: u64 = 1 << 20;
/// Records handed to the writer at once: a part of a batch, so that writers find room in it.
const CHUNK_RECORDS: usize = 128;

/// Asked between steps, with the bytes of the last one: whether to go on. It may wait.
pub type GoOn<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Why a volume was not removed. What was moved by then stays moved.
#[derive(Debug)]
pub enum Stop {
    /// It was told not to go on.
    Asked,
    /// It cannot be removed now.
    LeaveAlone(String),
}

/// What was done.
#[derive(Debug)]
pub struct Rewritten {
    /// Bytes of records that were written again.
    pub moved_bytes: u64,
    /// Bytes of the volume that is gone.
    pub removed_bytes: u64,
}

/// Rewrites a volume that nothing is appended to any more; blocks for as long as that takes.
pub fn rewrite(shared: &Shared, number: u32, go_on: GoOn<'_>) -> Result<Rewritten, Stop> {
    let Some(volume) = shared.volumes.get(number) else {
        return Err(Stop::LeaveAlone("it is gone".to_owned()));
    };
    let link = Link::read(shared, &volume)?;
    let mut rewrite = Rewrite {
        shared,
        volume: &volume,
        chunk: Vec::new(),
        chunk_bytes: 0,
        moved_bytes: 0,
        tombstones: Vec::new(),
        go_on,
    };
    rewrite.pay(0)?;
    rewrite.move_live()?;
    rewrite.retire(&link)?;
    Ok(Rewritten { moved_bytes: rewrite.moved_bytes, removed_bytes: volume.end() })
}

struct Rewrite<'a> {
    shared: &'a Shared,
    volume: &'a Arc<Volume>,
    /// Records to be handed to the writer, and where it answers.
    chunk: Vec<(Request, Awaited)>,
    chunk_bytes: u64,
    moved_bytes: u64,
    /// What goes with the volume, with the hash of its key.
    tombstones: Vec<(u64, Place)>,
    go_on: GoOn<'a>,
}

impl Rewrite<'_> {
    fn pay(&mut self, bytes: u64) -> Result<(), Stop> {
        if (self.go_on)(bytes) { Ok(()) } else { Err(Stop::Asked) }
    }

    fn move_live(&mut self) -> Result<(), Stop> {
        let mut scan = Scan::new(self.volume, SUPERBLOCK_BYTES, self.volume.end());
        while let Some(step) = scan.next().map_err(failed("read it"))? {
            match step {
                Step::Record { offset, head } => self.meet(offset, &head)?,
                Step::Damaged { start, end, .. } => self.pass(start, end)?,
            }
        }
        self.hand_over()
    }

    /// Goes past a part without records. What is needed of it the index knows, so that it is missed at the end; unless
    /// nobody knows what was there.
    fn pass(&mut self, start: u64, end: u64) -> Result<(), Stop> {
        if self.shared.damage.hides_records(self.volume.number, start, end) {
            return Err(Stop::LeaveAlone(format!("no record can be read from {start} to {end}")));
        }
        self.pay(end - start)
    }

    fn meet(&mut self, offset: u64, head: &Head<'_>) -> Result<(), Stop> {
        let hash = self.shared.hash(head.key);
        let place = Place::new(self.volume.number, offset);
        let newest = self.shared.index.candidates(hash).into_iter().find(|entry| entry.place == place);
        let Some(entry) = newest.filter(|_| head.kind != Kind::Gap) else {
            return self.pay(head.length() as u64);
        };
        if self.shared.damage.is_known(place) {
            // Moved, the damage would be out of sight, or taken for a write that never ended.
            return Err(Stop::LeaveAlone("a blob in it is damaged and not yet replaced".to_owned()));
        }
        if head.kind == Kind::Tombstone && self.shared.compaction.needless.lock().has(place) {
            self.tombstones.push((hash, place));
            return self.pay(head.length() as u64);
        }
        if head.file().is_some_and(|file| !self.shared.layout.has_blob(file)) {
            if !self.shared.index.holds(hash, place) {
                // It was replaced just now.
                return self.pay(head.length() as u64);
            }
            // Moved to the end of the last volume, its record would be taken for one of a write that never ended.
            let error = self.shared.damage.found(hash, place, Wrong::FileGone);
            return Err(Stop::LeaveAlone(error.to_string()));
        }
        let request = self.request(hash, entry, head)?;
        self.chunk.push(request);
        self.chunk_bytes += head.record_length();
        // One record at a time where each has a sync of its own: writers wait for no more than one.
        let most = if self.shared.options.sync == SyncMode::Always { 1 } else { CHUNK_RECORDS };
        if self.chunk.len() >= most || self.chunk_bytes >= CHUNK_BYTES { self.hand_over() } else { Ok(()) }
    }

    /// The record as a write of its own. Its bytes are verified first.
    fn request(&self, hash: u64, entry: Entry, head: &Head<'_>) -> Result<(Request, Awaited), Stop> {
        let key = std::str::from_utf8(head.key).ok().and_then(|text| text.parse::<Key>().ok());
        let Some(key) = key else {
            return Err(Stop::LeaveAlone(format!("{:?} has a key that cannot be written", entry.place)));
        };
        let data = self.data(hash, entry, head)?;
        let (answer, done) = Answer::to_me();
        let request = Request {
            hash,
            key,
            version: head.version,
            kind: head.kind,
            checksum: head.checksum,
            pairs: head.pairs.to_vec(),
            sums: head
                .sums()
                .chunks_exact(4)
                .map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]))
                .collect(),
            data,
            file: head.file(),
            doomed: None,
            known: None,
            moved: Some(entry),
            _reservation: None,
            _permit: None,
            answer,
        };
        Ok((request, done))
    }

    fn data(&self, hash: u64, entry: Entry, head: &Head<'_>) -> Result<Bytes, Stop> {
        let mut data = vec![0; head.data_len as usize];
        let wrong = match read_full(&self.volume.file, &mut data, entry.place.offset() + head.length() as u64)
        {
            Ok(_) if head.kind != Kind::Blob || Checksum::of(&data) == head.checksum => {
                return Ok(Bytes::from(data));
            }
            Ok(_) => Wrong::Checksum,
            Err(error) if is_unreadable(&error) => Wrong::Unreadable,
            Err(error) => return Err(failed("read it")(error)),
        };
        Err(Stop::LeaveAlone(self.shared.damage.found(hash, entry.place, wrong).to_string()))
    }

    /// Has the records written, and waits until they are.
    fn hand_over(&mut self) -> Result<(), Stop> {
        let mut answers = Vec::with_capacity(self.chunk.len());
        for (request, answer) in self.chunk.drain(..) {
            self.shared.queue.push(Job::Write(request)).map_err(|_| Stop::Asked)?;
            answers.push(answer);
        }
        for answer in answers {
            // An error of the channel: the writer is gone.
            match answer.blocking_recv().map_err(|_| Stop::Asked)? {
                Ok(_) => {}
                Err(error) => return Err(Stop::LeaveAlone(error.to_string())),
            }
        }
        let bytes = std::mem::take(&mut self.chunk_bytes);
        self.moved_bytes += bytes;
        self.shared.compaction.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pay(bytes)
    }

    /// Removes the volume, of which nothing is needed any more.
    fn retire(&mut self, link: &Link) -> Result<(), Stop> {
        let (shared, number) = (self.shared, self.volume.number);
        // The writer is done with all that came before this: the numbers below are right.
        self.forget(Vec::new())?;
        if self.volume.live_records() > self.tombstones.len() as u64 {
            let count = self.volume.live_records();
            return Err(Stop::LeaveAlone(format!("{count} records of it are needed and were not met")));
        }
        if shared.options.sync == SyncMode::Never {
            sync_after(shared, number).map_err(failed("sync what was moved"))?;
        }
        // After a failed sync nobody knows whether what was moved is durable.
        shared.health.check().map_err(|error| Stop::LeaveAlone(error.to_string()))?;
        self.pay(0)?;
        let path = shared.layout.volume(number);
        // A try before this one may have come to an end behind the removal.
        disk::already_gone(cut(&path, self.volume.end())).map_err(failed("cut it"))?;
        self.pay(0)?;
        // Until it is gone for all: the scrub, which mends superblocks, must not name it. So there is no pause from here on.
        let superblocks = shared.superblocks.lock();
        link.write(shared).map_err(failed("write the next volume's superblock"))?;
        disk::already_gone(disk::remove(&path)).map_err(failed("remove it"))?;
        disk::sync_folder(&shared.layout.volumes()).map_err(failed("sync the folder of volumes"))?;
        for tombstones in std::mem::take(&mut self.tombstones).chunks(CHUNK_RECORDS) {
            self.forget(tombstones.to_vec())?;
        }
        shared.volumes.remove(number);
        drop(superblocks);
        shared.damage.forget(number);
        shared.compaction.needless.lock().forget(number);
        shared.compaction.removed_bytes.fetch_add(self.volume.end(), Ordering::Relaxed);
        Ok(())
    }

    /// Has the writer forget these, and waits until it did.
    fn forget(&self, tombstones: Vec<(u64, Place)>) -> Result<(), Stop> {
        let (answer, done) = oneshot::channel();
        self.shared.queue.push(Job::Forget(Forget { tombstones, answer })).map_err(|_| Stop::Asked)?;
        done.blocking_recv().map_err(|_| Stop::Asked)
    }
}

/// What was moved is as durable as what is removed, whatever is promised to those who write.
fn sync_after(shared: &Shared, number: u32) -> io::Result<()> {
    for volume in shared.volumes.all().iter().filter(|volume| volume.number > number) {
        shared.sync_volume(volume.number)?;
    }
    disk::sync_folder(&shared.layout.volumes())
}

/// Cuts off what was never acknowledged, durably.
fn cut(path: &Path, end: u64) -> io::Result<()> {
    let file = disk::open(path)?;
    if file.metadata()?.len() > end {
        disk::set_len(&file, end)?;
    }
    // It may have been cut before, and that not be durable.
    disk::sync_all(&file)
}

/// The superblock after a volume, as it must be when that volume is gone.
struct Link(Superblock);

impl Link {
    fn read(shared: &Shared, volume: &Volume) -> Result<Self, Stop> {
        let leave = |what: String| Stop::LeaveAlone(what);
        let read = |file: &File, number| match Volume::superblock(file, shared.layout.store, number) {
            Ok(Ok(superblock)) => Ok(superblock),
            Ok(Err(error)) => Err(leave(format!("the superblock of volume {number}: {error:?}"))),
            Err(error) => Err(leave(format!("the superblock of volume {number}: {error}"))),
        };
        let own = read(&volume.file, volume.number)?;
        let next =
            shared.volumes.after(volume.number).ok_or_else(|| leave("it is the last one".to_owned()))?;
        let next = read(&next.file, next.number)?;
        // Another number: an earlier try came to this step. What is before the volume may have gone since.
        if next.previous == volume.number && next.previous_length != volume.end() {
            return Err(leave("it lost its last bytes".to_owned()));
        }
        Ok(Self(Superblock { previous: own.previous, previous_length: own.previous_length, ..next }))
    }

    fn write(&self, shared: &Shared) -> io::Result<()> {
        let Self(superblock) = self;
        // Opened anew: see [`Shared::sync_volume`].
        superblock.write(&disk::open(&shared.layout.volume(superblock.number))?)
    }
}

/// For `map_err`: an I/O error while doing that.
pub fn failed(what: &str) -> impl FnOnce(io::Error) -> Stop {
    move |error| Stop::LeaveAlone(format!("{what}: {error}"))
}
