//! The scrub: reads all that is stored, round after round, and verifies it, so that damage is found while other servers
//! still have the blob. One thread, at the speed that ends a round in time.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    ScrubUsage,
    index::{InFile, Place},
    pace::{Hold, Pace},
    rewrite::GoOn,
    scan::{Scan, Step},
    scrub_state::{Cursor, Ended, Progress, Round, Saved},
    scrub_work,
    shared::Shared,
    volume::Volume,
    whole,
};
use crate::daemon::unix_ms;

/// How often it is seen whether a round is due, and whether there is something to save.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was done since is done again after a crash: seconds of reading, for a small file synced once a minute.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// After a disk error that is not about one place.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// A round is to end in three quarters of its time: the node may be stopped for a while, and data be added.
const READING_PART: (u64, u64) = (3, 4);
/// Slower is of no use to anybody: a storage of a few gigabytes is read in an hour.
const LEAST_BYTES_PER_SECOND: u64 = 1 << 20;

/// How far the scrub is, and whether it may go on.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Whether it may go on.
    pub hold: Hold,
    /// A new round was asked for.
    asked: AtomicBool,
    progress: Mutex<Progress>,
    /// Bytes of files that this round did not verify yet, once it came to the files.
    files_left: Mutex<Option<u64>>,
    /// Bytes read since the start.
    read_bytes: AtomicU64,
}

impl Scrub {
    /// Begins a new round as soon as it can, at the full speed.
    pub fn begin_now(&self) {
        self.asked.store(true, Ordering::Release);
        self.hold.wake();
    }

    /// A damaged record or superblock was met.
    pub fn count_found(&self) {
        if let Some(round) = &mut self.progress.lock().round {
            round.found += 1;
        }
    }

    /// It went over so many bytes more, up to there.
    pub fn reached(&self, next: Cursor, bytes: u64) {
        if let Some(round) = &mut self.progress.lock().round {
            round.next = next;
            round.verified_bytes += bytes;
        }
    }

    fn round(&self) -> Option<Round> {
        self.progress.lock().round
    }
}

/// What `/stats` says of it.
pub fn usage(shared: &Shared) -> ScrubUsage {
    let scrub = &shared.scrub;
    let progress = *scrub.progress.lock();
    let mut usage = ScrubUsage {
        paused: scrub.hold.is_paused(),
        read_bytes: scrub.read_bytes.load(Ordering::Relaxed),
        last_ended_ms: progress.ended.map(|ended| ended.ended_ms),
        ..ScrubUsage::default()
    };
    if let Some(round) = progress.round {
        (usage.running, usage.began_ms, usage.found) = (true, Some(round.began_ms), round.found);
        usage.verified_bytes = round.verified_bytes;
        usage.total_bytes = round.verified_bytes + left_bytes(shared, &round);
    } else if let Some(ended) = progress.ended {
        (usage.began_ms, usage.found) = (Some(ended.began_ms), ended.found);
        (usage.verified_bytes, usage.total_bytes) = (ended.verified_bytes, ended.verified_bytes);
    }
    usage
}

/// Bytes that a round has to go over still.
fn left_bytes(shared: &Shared, round: &Round) -> u64 {
    let files = shared.scrub.files_left.lock().unwrap_or_else(|| shared.totals.numbers().file_bytes);
    match round.next {
        Cursor::Volume { number, offset } => {
            let (last, end) = round.last;
            shared.volumes.bytes_between((number, offset), (last, end)) + files
        }
        Cursor::File { .. } => files,
    }
}

/// Scrubs until it is stopped.
pub fn run(shared: &Shared) {
    let mut worker = Worker::new(shared);
    // A round comes by them too, if this ends with an error.
    let _ = look_again(shared, &mut |bytes| worker.go_on(bytes));
    while worker.may_go_on(Duration::ZERO) {
        if shared.scrub.asked.swap(false, Ordering::AcqRel) {
            begin(shared, true);
        } else if shared.scrub.round().is_none() && is_due(shared) {
            begin(shared, false);
        }
        let wait = match round(shared, &mut |bytes| worker.go_on(bytes)) {
            Ok(()) => LOOK_EVERY,
            // It was stopped, or a new round was asked for.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "the scrub cannot go on: it is tried again");
                TRY_AGAIN_AFTER
            }
        };
        worker.save_if_due();
        if !worker.may_go_on(wait) {
            break;
        }
    }
    worker.save();
}

/// Looks whether what the process before this one found damaged is so still: a directory may be restored from a backup.
pub fn look_again(shared: &Shared, go_on: GoOn<'_>) -> io::Result<()> {
    for (place, record) in shared.damage.records() {
        scrub_work::look_again(shared, place, record.hash, go_on)?;
    }
    Ok(())
}

fn is_due(shared: &Shared) -> bool {
    let now = unix_ms();
    let period_ms = shared.options.scrub_period.as_millis() as u64;
    let ended = shared.scrub.progress.lock().ended;
    // Of a clock that was set back nothing is known.
    let is_due = ended.is_none_or(|ended| now >= ended.began_ms + period_ms || now < ended.began_ms);
    is_due && shared.volumes.last().is_some()
}

/// Begins a round; the one that is going on is given up.
pub fn begin(shared: &Shared, in_haste: bool) {
    let last = end_of_volumes(shared);
    let next = Cursor::Volume { number: 0, offset: 0 };
    let began_ms = unix_ms();
    *shared.scrub.files_left.lock() = None;
    shared.scrub.progress.lock().round =
        Some(Round { began_ms, in_haste, last, next, verified_bytes: 0, found: 0 });
    tracing::info!(in_haste, "a round of the scrub begins");
}

fn end_of_volumes(shared: &Shared) -> (u32, u64) {
    shared.volumes.last().map_or((0, 0), |last| (last.number, last.end()))
}

/// Goes on with the round, if there is one, to its end. Errors as those of [`super::gentle::Gentle`].
pub fn round(shared: &Shared, go_on: GoOn<'_>) -> io::Result<()> {
    while let Some(Round { next: Cursor::Volume { number, offset }, last, .. }) = shared.scrub.round() {
        let volume = shared.volumes.from(number).filter(|volume| volume.number <= last.0);
        let Some(volume) = volume else {
            shared.scrub.reached(Cursor::File { id: 0 }, 0);
            break;
        };
        let offset = if volume.number == number { offset } else { 0 };
        scrub_volume(shared, &volume, offset, last, go_on)?;
        shared.scrub.reached(Cursor::Volume { number: volume.number + 1, offset: 0 }, 0);
    }
    if let Some(Round { next: Cursor::File { id }, .. }) = shared.scrub.round() {
        scrub_files(shared, id, go_on)?;
        end(shared);
    }
    Ok(())
}

fn scrub_volume(
    shared: &Shared,
    volume: &Volume,
    offset: u64,
    last: (u32, u64),
    go_on: GoOn<'_>,
) -> io::Result<()> {
    let number = volume.number;
    let end = if number == last.0 { volume.end().min(last.1) } else { volume.end() };
    let mut at = offset;
    let reached = &mut |now: u64| {
        shared.scrub.reached(Cursor::Volume { number, offset: now }, now - at);
        at = now;
    };
    scrub_work::volume(shared, volume, offset, end, go_on, reached)
}

/// The files of blobs from that id on, as there are now.
fn scrub_files(shared: &Shared, id: u64, go_on: GoOn<'_>) -> io::Result<()> {
    let files = files_from(shared, id);
    let mut left = files.iter().map(bytes_of).sum();
    *shared.scrub.files_left.lock() = Some(left);
    for one in files {
        scrub_work::file(shared, one, go_on)?;
        left -= bytes_of(&one);
        *shared.scrub.files_left.lock() = Some(left);
        shared.scrub.reached(Cursor::File { id: one.file.id.saturating_add(1) }, bytes_of(&one));
    }
    Ok(())
}

/// The files of blobs with that id and greater ones, in their order.
fn files_from(shared: &Shared, id: u64) -> Vec<InFile> {
    let mut files = shared.index.files();
    files.retain(|one| one.file.id >= id);
    files.sort_unstable_by_key(|one| one.file.id);
    files
}

fn bytes_of(one: &InFile) -> u64 {
    whole::file_length(one.file.length)
}

fn end(shared: &Shared) {
    let mut progress = shared.scrub.progress.lock();
    let Some(round) = progress.round.take() else { return };
    let Round { began_ms, verified_bytes, found, .. } = round;
    progress.ended = Some(Ended { began_ms, ended_ms: unix_ms(), verified_bytes, found });
    tracing::info!(verified_bytes, found, "a round of the scrub is done");
}

/// Takes up what the process before this one knew.
pub fn load(shared: &Shared) {
    let saved = match shared.layout.saved_scrub() {
        Ok(Some(bytes)) => Saved::decode(&bytes),
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "what the scrub did before cannot be read");
            None
        }
    };
    let Some(saved) = saved else {
        tracing::warn!("what the scrub did before is not known: it begins anew");
        return;
    };
    for (place, record) in saved.damaged {
        let place = Place::from_number(place);
        if shared.index.holds(record.hash, place) {
            shared.damage.remember(place, record);
        }
    }
    let mut progress = saved.progress;
    if let Some(round) = &mut progress.round {
        // Records end there, whatever became of the volumes since.
        round.last = end_of_volumes(shared);
        check_cursor(shared, round);
    }
    if let Some(Round { next: Cursor::File { id }, .. }) = progress.round {
        let left = files_from(shared, id).iter().map(bytes_of).sum();
        *shared.scrub.files_left.lock() = Some(left);
    }
    *shared.scrub.progress.lock() = progress;
}

/// A volume may have been cut since, or be another one: then it is read from its beginning.
fn check_cursor(shared: &Shared, round: &mut Round) {
    let Cursor::Volume { number, offset } = round.next else { return };
    let Some(volume) = shared.volumes.get(number) else { return };
    let begins = |volume: &Volume| {
        let mut scan = Scan::new(volume, offset, volume.end());
        offset == volume.end()
            || matches!(scan.next(), Ok(Some(Step::Record { offset: at, .. })) if at == offset)
    };
    if offset > 0 && (offset > volume.end() || !begins(&volume)) {
        round.next = Cursor::Volume { number, offset: 0 };
        round.verified_bytes = round.verified_bytes.saturating_sub(offset);
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    pace: Pace<'a>,
    saved_at: Instant,
    /// [`super::damage::Damage::changes`] then.
    saved_changes: u64,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared) -> Self {
        let (saved_at, saved_changes) = (Instant::now(), shared.damage.changes());
        Self { shared, pace: Pace::new(&shared.scrub.hold), saved_at, saved_changes }
    }

    /// Waits so long, and while it is held; `false` if it was stopped.
    fn may_go_on(&self, wait: Duration) -> bool {
        self.shared.scrub.hold.wait_until(Instant::now() + wait)
    }

    /// Waits for as long as that many bytes may take. `false` if it was stopped or a new round was asked for.
    fn go_on(&mut self, bytes: u64) -> bool {
        self.save_if_due();
        let scrub = &self.shared.scrub;
        let goes_on = self.pace.go_on(bytes, bytes_per_second(self.shared));
        let goes_on = goes_on && !scrub.asked.load(Ordering::Acquire);
        if goes_on {
            scrub.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        goes_on
    }

    fn save_if_due(&mut self) {
        let is_news =
            self.shared.scrub.round().is_some() || self.shared.damage.changes() != self.saved_changes;
        if is_news && self.saved_at.elapsed() >= SAVE_EVERY {
            self.save();
        }
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        self.saved_changes = self.shared.damage.changes();
        save(self.shared);
    }
}

/// Keeps how far it is. Without that a round begins anew, and damage is listed when it is found again.
pub fn save(shared: &Shared) {
    shared.damage.prune(&shared.index);
    let saved = Saved::new(*shared.scrub.progress.lock(), shared.damage.records());
    let saved = saved.encode().map_err(io::Error::from).and_then(|bytes| shared.layout.save_scrub(&bytes));
    if let Err(error) = saved {
        tracing::warn!(%error, "how far the scrub is could not be saved");
    }
}

/// The speed that ends the round in time; the most that is allowed if someone waits for it.
fn bytes_per_second(shared: &Shared) -> u64 {
    let most = shared.options.scrub_bytes_per_second;
    let Some(round) = shared.scrub.round().filter(|round| !round.in_haste) else { return most };
    let (part, parts) = READING_PART;
    let time_ms = shared.options.scrub_period.as_millis() as u64 / parts * part;
    let left_ms = (round.began_ms + time_ms).saturating_sub(unix_ms());
    speed(left_bytes(shared, &round), left_ms, most)
}

fn speed(left_bytes: u64, left_ms: u64, most: u64) -> u64 {
    let in_time = (u128::from(left_bytes) * 1000).checked_div(u128::from(left_ms));
    let in_time = in_time.map_or(most, |speed| u64::try_from(speed).unwrap_or(most));
    in_time.clamp(LEAST_BYTES_PER_SECOND.min(most), most)
}
