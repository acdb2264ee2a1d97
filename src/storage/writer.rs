//! The one thread that writes to volumes: takes all that wait, writes them, syncs once, answers all.
//!
//! It alone changes the index, so what it decides before writing still holds when the write is durable. Readers see a
//! write only then.

use std::{
    collections::HashSet,
    io::{self, IoSlice},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Before, StorageError, SyncMode,
    answer::{self, Answer},
    append::{AppendError, Tail},
    budget::Reservation,
    decide::{Verdict, decide},
    doomed::Doomed,
    health::{is_full, write_error},
    index::{Entry, Place},
    keys::KeyEntry,
    layout::CleanPoint,
    lookup::{Current, current},
    record::{FileRef, Kind, NewHead},
    reserve::Reserve,
    saver::Saver,
    shared::Shared,
    totals::Counted,
    volume::{SUPERBLOCK_BYTES, Superblock},
};
use crate::{
    daemon::unix_ms,
    model::{Checksum, Key, Version},
};

/// Writes taken at once: as many as one vectored write takes, at two parts each.
const MAX_BATCH: usize = 512;
/// Who waits already is held up for those who are expected by at most this part of the time that the last write took.
const PATIENCE: u32 = 4;
/// And by no more than this, however slow the disk was.
const MAX_PATIENCE: Duration = Duration::from_millis(5);
/// In less nobody is back: 64 clients need about so long for their next uploads. So where a sync takes less than 4 ms, nobody is
/// waited for (docs/performance.md).
const MIN_PATIENCE: Duration = Duration::from_millis(1);
/// After this many volumes in a row that took no write, the disk is given up.
const MAX_FAILED_VOLUMES: u32 = 2;

/// A write that waits.
pub struct Request {
    /// The key's hash.
    pub hash: u64,
    /// The key.
    pub key: Key,
    /// The write.
    pub version: Version,
    /// What it is.
    pub kind: Kind,
    /// Of the blob's bytes.
    pub checksum: Checksum,
    /// Encoded metadata.
    pub pairs: Vec<u8>,
    /// Sums of the blocks, if they are more than one.
    pub sums: Vec<u32>,
    /// A small blob's bytes.
    pub data: Bytes,
    /// The file that holds the bytes.
    pub file: Option<FileRef>,
    /// That file, if it is new: removed unless the write is made.
    pub doomed: Option<Doomed>,
    /// What the key held when it was looked up.
    pub known: Option<Current>,
    /// For a record that compaction moves: where it is. It is moved if it is still the newest of its key.
    pub moved: Option<Entry>,
    /// The memory of `data`; goes back when the write is done.
    pub _reservation: Option<Reservation>,
    /// The place in the queue; goes back when the write is done. Compaction, which waits for each few of its writes,
    /// needs none.
    pub _permit: Option<OwnedSemaphorePermit>,
    /// Who waits.
    pub answer: Answer,
}

/// What a write did.
#[derive(Debug)]
pub struct Done {
    /// What the key held before.
    pub before: Before,
    /// The file of the blob that was replaced, or of this write if it came too late.
    pub stale: Option<Doomed>,
}

impl Request {
    fn head(&self, starts_batch: bool) -> NewHead<'_> {
        NewHead {
            kind: self.kind,
            starts_batch,
            version: self.version,
            checksum: self.checksum,
            // Small blobs are at most MAX_SMALL_LIMIT long.
            data_len: self.data.len() as u32,
            key: self.key.as_str().as_bytes(),
            pairs: &self.pairs,
            file: self.file,
            sums: &self.sums,
        }
    }

    fn record_length(&self) -> u64 {
        (self.head(false).length() + self.data.len()) as u64
    }

    /// What the index holds of it, there.
    fn entry(&self, place: Place) -> Entry {
        let head = self.head(false);
        Entry::new(place, head.length(), head.data_len, self.kind)
    }

    /// What listings need of it, there.
    fn key_entry(&self, place: Place) -> (&[u8], KeyEntry) {
        let (kind, version, length, checksum) = (self.kind, self.version, self.length(), self.checksum);
        (self.key.as_str().as_bytes(), KeyEntry { place, kind, version, length, checksum })
    }

    /// Bytes of the blob.
    fn length(&self) -> u64 {
        self.file.map_or(self.data.len() as u64, |file| file.length)
    }

    fn counted(&self) -> Counted {
        Counted { kind: self.kind, length: self.length() }
    }

    fn refuse(self, error: StorageError) {
        self.answer.give(Err(error));
    }
}

/// What waits for the writer.
#[expect(clippy::large_enum_variant, reason = "nearly all are writes")]
pub enum Job {
    /// A write.
    Write(Request),
    /// Tombstones that are on the disk no more.
    Forget(Forget),
}

/// Tombstones whose volume was removed.
pub struct Forget {
    /// The hash of the key of each, and where it was.
    pub tombstones: Vec<(u64, Place)>,
    /// Told when they are forgotten.
    pub answer: oneshot::Sender<()>,
}

/// A write that is to be made, and what it replaces.
struct Accepted {
    request: Request,
    old: Option<Current>,
    before: Before,
}

/// Why a group was not written. None of it is visible.
enum Failure {
    /// No room; the volume is as before.
    Full,
    /// The disk failed; the volume is not used any more, or there is none.
    Broken(io::Error),
}

/// The writer's own state.
pub struct Writer {
    shared: Arc<Shared>,
    saver: Saver,
    reserve: Reserve,
    tail: Option<Tail>,
    /// The last volume that was begun, and how much of it is valid.
    last: (u32, u64),
    failed_volumes: u32,
    /// Of keys that are already in the group being written.
    carried: Vec<Request>,
    /// Writes that are likely to come soon, and until when they are worth waiting for.
    expected: usize,
    expected_until: Instant,
}

impl Writer {
    /// A writer that goes on where `tail` ends, or begins the first volume with the first write.
    pub fn new(shared: Arc<Shared>, saver: Saver, tail: Option<Tail>, last: (u32, u64)) -> Self {
        let reserve = Reserve::open(shared.layout.reserve(), shared.options.reserve_bytes);
        Self {
            shared,
            saver,
            reserve,
            tail,
            last,
            failed_volumes: 0,
            carried: Vec::new(),
            expected: 0,
            expected_until: Instant::now(),
        }
    }

    /// Writes until the queue is stopped and empty.
    pub fn run(mut self) -> Result<(), StorageError> {
        self.saver.save_if_due(self.end());
        while let Some(batch) = self.next_batch() {
            let accepted = self.accept(batch);
            self.write_all(accepted);
            // All that was written is in the index now.
            self.saver.save_if_due(self.end());
        }
        self.finish()
    }

    /// Where the last volume ends.
    fn end(&self) -> Place {
        Place::new(self.last.0, self.last.1)
    }

    fn next_batch(&mut self) -> Option<Vec<Request>> {
        if !self.carried.is_empty() {
            return Some(std::mem::take(&mut self.carried));
        }
        let limit = if self.shared.options.sync == SyncMode::Always { 1 } else { MAX_BATCH };
        let jobs = self.shared.queue.take(limit, self.expected, self.expected_until)?;
        let mut batch = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Write(request) => batch.push(request),
                // At once: nothing is decided yet that stands on them.
                Job::Forget(forget) => self.forget(forget),
            }
        }
        Some(batch)
    }

    fn forget(&self, Forget { tombstones, answer }: Forget) {
        let shared = &self.shared;
        for (hash, place) in tombstones {
            if shared.index.remove(hash, place) {
                shared.totals.remove(Counted { kind: Kind::Tombstone, length: 0 });
            }
        }
        let _ = answer.send(());
    }

    /// Those who were just answered are likely to come again at once. Without waiting for them they and those who came
    /// during the sync would take turns, each half of them with a sync of its own.
    fn expect_again(&mut self, written: usize, took: Duration) {
        let patience = (took / PATIENCE).min(MAX_PATIENCE);
        let pays = self.shared.options.sync == SyncMode::Group && patience >= MIN_PATIENCE;
        self.expected = if pays { written + self.shared.queue.len() } else { 0 };
        self.expected_until = Instant::now() + patience;
    }

    fn durable(&self) -> bool {
        self.shared.options.sync != SyncMode::Never
    }

    /// Answers what needs no write, keeps a second write of one key for the next time, gives back the rest.
    fn accept(&mut self, batch: Vec<Request>) -> Vec<Accepted> {
        let free_bytes = self.shared.layout.free_bytes();
        let has_reserve = self.reserve.is_held() || self.reserve.restore(free_bytes);
        let blobs_fit = has_reserve && free_bytes >= self.shared.room_bytes;
        let mut hashes = HashSet::with_capacity(batch.len());
        let mut accepted = Vec::with_capacity(batch.len());
        for request in batch {
            if let Err(error) = self.shared.health.check() {
                request.refuse(error);
            } else if !blobs_fit && request.kind != Kind::Tombstone && request.moved.is_none() {
                self.shared.health.set_full(true);
                request.refuse(StorageError::Full);
            } else if !hashes.insert(request.hash) {
                self.carried.push(request);
            } else {
                accepted.extend(self.decide(request));
            }
        }
        accepted
    }

    fn decide(&self, request: Request) -> Option<Accepted> {
        let shared = &self.shared;
        if let Some(entry) = request.moved {
            if shared.index.holds(request.hash, entry.place) {
                let old = Some(Current { entry, facts: None, file: None });
                return Some(Accepted { request, old, before: Before::Nothing });
            }
            request.answer.give(Ok(Done { before: Before::Newer(request.version), stale: None }));
            return None;
        }
        let key = request.key.as_str().as_bytes();
        let old = current(&shared.index, &shared.volumes, request.hash, key, request.known.as_ref());
        let held = old.map(|old| old.old(&shared.damage));
        match decide(request.version, request.kind, held.as_ref()) {
            Verdict::Write(before) => Some(Accepted { request, old, before }),
            Verdict::Newer(version) => {
                let done = Done { before: Before::Newer(version), stale: request.doomed };
                request.answer.give(Ok(done));
                None
            }
        }
    }

    /// Writes in groups that fit one volume each.
    fn write_all(&mut self, mut rest: Vec<Accepted>) {
        while !rest.is_empty() {
            let later = rest.split_off(self.fitting(&rest));
            match self.shared.health.read_only() {
                Some(reason) => rest.into_iter().for_each(|item| {
                    item.request.refuse(StorageError::ReadOnly(reason.clone()));
                }),
                None => self.write_group(rest),
            }
            rest = later;
        }
    }

    /// How many of these fit the volume the first of them goes to: at least one.
    fn fitting(&self, items: &[Accepted]) -> usize {
        let limit = self.shared.volume_bytes;
        let first = items.first().map_or(0, |item| item.request.record_length());
        let end = self.tail.as_ref().map(Tail::end).filter(|end| end + first <= limit);
        let mut end = end.unwrap_or(SUPERBLOCK_BYTES);
        let fits = |item: &&Accepted| {
            end += item.request.record_length();
            end <= limit
        };
        items.iter().take_while(fits).count().max(1)
    }

    fn write_group(&mut self, group: Vec<Accepted>) {
        let started = Instant::now();
        match self.append(&group) {
            Ok(places) => {
                self.failed_volumes = 0;
                // Before they are answered, or those who are quick would be counted twice.
                let answered = group.iter().filter(|item| item.request.moved.is_none()).count();
                self.expect_again(answered, started.elapsed());
                self.show(&group, &places);
                let counted = group.into_iter().zip(places).map(|(item, place)| self.count(item, place));
                answer::all(counted.collect());
            }
            // Not all fit: as many as do, one by one.
            Err(Failure::Full) if group.len() > 1 => {
                group.into_iter().for_each(|item| self.write_group(vec![item]));
            }
            Err(Failure::Full) => group.into_iter().for_each(|item| self.write_on_full_disk(item)),
            Err(Failure::Broken(error)) => refuse_all(group, &error),
        }
    }

    /// Blobs are refused, deletes get the reserve.
    fn write_on_full_disk(&mut self, item: Accepted) {
        // Compaction, which only puts off what it cannot do now, is left without both.
        if item.request.moved.is_some() {
            item.request.refuse(StorageError::Full);
        } else if item.request.kind == Kind::Tombstone && self.reserve.release() {
            self.write_group(vec![item]);
        } else {
            self.shared.health.set_full(true);
            item.request.refuse(StorageError::Full);
        }
    }

    /// Writes a group behind the last record and syncs it. Says where each record is.
    fn append(&mut self, group: &[Accepted]) -> Result<Vec<Place>, Failure> {
        self.make_room(group.first().map_or(0, |item| item.request.record_length()))?;
        let durable = self.durable();
        let Some(tail) = &self.tail else {
            return Err(Failure::Broken(io::Error::other("there is no volume to write to")));
        };
        let (heads, places) = encode_heads(group, tail, durable);
        let mut parts = Vec::with_capacity(2 * group.len());
        for (item, head) in group.iter().zip(&heads.ranges) {
            parts.push(IoSlice::new(&heads.bytes[head.clone()]));
            parts.push(IoSlice::new(&item.request.data));
        }
        match tail.append(&mut parts, durable) {
            Ok(()) => {
                let bytes: u64 = group.iter().map(|item| item.request.record_length()).sum();
                tail.volume.set_end(tail.end() + bytes);
                self.last.1 = tail.end();
                self.saver.wrote(bytes);
                Ok(places)
            }
            Err(AppendError::Write(error)) if is_full(&error) => match tail.cut() {
                Ok(()) => Err(Failure::Full),
                Err(error) => Err(self.give_up_volume(error)),
            },
            Err(AppendError::Write(error) | AppendError::Sync(error)) => Err(self.give_up_volume(error)),
        }
    }

    /// Never appends to this volume again. What is in it up to the last sync stays readable.
    fn give_up_volume(&mut self, error: io::Error) -> Failure {
        if let Some(tail) = self.tail.take() {
            tracing::error!(volume = tail.volume.number, %error, "a write failed: the volume is not used any more");
            // Best effort: the next volume's superblock says how much of this one is valid.
            if let Err(error) = tail.cut() {
                tracing::warn!(volume = tail.volume.number, %error, "what was not acknowledged stays in it");
            }
        }
        self.failed_volumes += 1;
        let begun =
            if self.failed_volumes < MAX_FAILED_VOLUMES { self.begin_volume() } else { Err(same(&error)) };
        match begun {
            Err(again) if !is_full(&again) => {
                self.shared.health.set_read_only(&format!("writing failed ({error}), and again ({again})"));
            }
            // On a full disk the volume is begun when there is room.
            _ => {}
        }
        Failure::Broken(error)
    }

    /// Sees that there is a volume with room for a record.
    fn make_room(&mut self, record_length: u64) -> Result<(), Failure> {
        let limit = self.shared.volume_bytes;
        if self.tail.as_ref().is_some_and(|tail| tail.end() + record_length <= limit) {
            return Ok(());
        }
        self.begin_volume()
            .map_err(|error| if is_full(&error) { Failure::Full } else { Failure::Broken(error) })
    }

    fn begin_volume(&mut self) -> io::Result<()> {
        // Even if this fails: what is left of the new volume may say after a power cut how long this one is.
        self.tail = None;
        let (previous, previous_length) = self.last;
        let number = previous + 1;
        if number > Place::MAX_VOLUME {
            return Err(io::Error::other("all volume numbers are used"));
        }
        let layout = &self.shared.layout;
        let superblock =
            Superblock { store: layout.store, number, previous, previous_length, created_ms: unix_ms() };
        let tail = Tail::create(layout, &superblock, self.durable())?;
        self.shared.volumes.add(tail.volume.clone());
        self.last = (number, tail.end());
        self.tail = Some(tail);
        Ok(())
    }

    /// Makes durable writes visible.
    fn show(&self, group: &[Accepted], places: &[Place]) {
        let written = || group.iter().zip(places);
        let keys = written().map(|(item, place)| item.request.key_entry(*place));
        self.shared.keys.enter(self.end(), keys, || {
            for (Accepted { request, old, .. }, place) in written() {
                let old = old.map(|old| old.entry.place);
                self.shared.index.put(request.hash, old, request.entry(*place), request.file);
            }
        });
    }

    /// Counts a write that is visible. What is to be said of it, and to whom.
    fn count(&self, item: Accepted, place: Place) -> (Answer, Done) {
        let Accepted { mut request, old, before } = item;
        let shared = &self.shared;
        let entry = request.entry(place);
        shared.volumes.now_live(place, entry.record_bound());
        if let Some(old) = old {
            shared.volumes.now_dead(old.entry.place, old.entry.record_bound());
        }
        if request.moved.is_some() {
            return (request.answer, Done { before, stale: None });
        }
        shared.totals.replace(request.counted(), old.map(|old| old.counted()));
        if request.kind != Kind::Tombstone {
            shared.health.set_full(false);
        }
        if let Some(file) = request.doomed.take() {
            file.keep();
        }
        let stale = old.and_then(|old| old.file).map(|file| Doomed::new(shared.layout.blob(file.id)));
        (request.answer, Done { before, stale })
    }

    /// Leaves a clean point and the index, so that the next start has nothing to verify and no records to read.
    fn finish(self) -> Result<(), StorageError> {
        let end = self.end();
        let Some(tail) = self.tail else { return Ok(()) };
        let point = CleanPoint { volume: tail.volume.number, length: tail.end() };
        tail.sync().map_err(|error| write_error("sync the last volume", error))?;
        let saved = self.shared.layout.save_clean_point(point);
        saved.map_err(|error| write_error("save the clean point", error))?;
        self.saver.finish(end);
        Ok(())
    }
}

struct Heads {
    bytes: Vec<u8>,
    ranges: Vec<std::ops::Range<usize>>,
}

fn encode_heads(group: &[Accepted], tail: &Tail, durable: bool) -> (Heads, Vec<Place>) {
    let mut heads = Heads { bytes: Vec::new(), ranges: Vec::with_capacity(group.len()) };
    let mut places = Vec::with_capacity(group.len());
    let mut offset = tail.end();
    for item in group {
        let start = heads.bytes.len();
        // The first one after a sync says so: then what is before it was durable.
        let head = item.request.head(durable && places.is_empty());
        head.encode(&mut heads.bytes, &tail.volume.seal, offset);
        heads.ranges.push(start..heads.bytes.len());
        places.push(Place::new(tail.volume.number, offset));
        offset += item.request.record_length();
    }
    (heads, places)
}

fn refuse_all(group: Vec<Accepted>, error: &io::Error) {
    for item in group {
        item.request.refuse(write_error("append to a volume", same(error)));
    }
}

/// The same error again, for the next who waits.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
