//! When the index is saved: at a stop, and while the engine runs by a thread of its own, each time that about as much was
//! written as reading it again may cost a start.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use super::{
    checkpoint::{Extent, Origin, PROBE, Save, mark},
    disk,
    index::{Place, TABLES},
    shared::Shared,
    slot::SLOT_BYTES,
};

/// The index is saved when so many times its size was written to volumes since: saving costs a third of what is written
/// at most, and a start after a crash reads three times as much as the index.
const VOLUME_BYTES_TO_INDEX_BYTES: u64 = 2;

/// Saves the index. It belongs to the writer, which alone knows what is in the index.
pub struct Saver {
    shared: Arc<Shared>,
    /// Bytes of records since the last save began.
    written: u64,
    /// There are records that neither the saved index has nor the one that is being saved.
    is_behind: bool,
    /// Volumes with a smaller number are durable, whatever was synced when they were written.
    durable_before: u32,
    running: Option<Running>,
}

struct Running {
    /// Gives what is [`Saver::durable_before`] then.
    thread: JoinHandle<Option<u32>>,
    stop: Arc<AtomicBool>,
}

impl Saver {
    /// A saver, after a start that had to read that many bytes of records, from the volume `durable_before` on.
    pub fn new(shared: Arc<Shared>, durable_before: u32, unsaved_bytes: u64) -> Self {
        let is_behind = unsaved_bytes > 0;
        Self { shared, written: unsaved_bytes, is_behind, durable_before, running: None }
    }

    /// So many bytes of records were written.
    pub fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        self.is_behind = true;
    }

    /// Begins to save if it is time. The index holds every record before `from`.
    pub fn save_if_due(&mut self, from: Place) {
        let least = self.shared.options.index_save_bytes;
        let is_due = self.written >= least.max(self.index_bytes() * VOLUME_BYTES_TO_INDEX_BYTES);
        if !is_due || self.running.as_ref().is_some_and(|running| !running.thread.is_finished()) {
            return;
        }
        self.stop();
        self.written = 0;
        self.shared.keys.write_soon();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("storage-index".to_owned()).spawn({
            let (shared, stop, durable_before) = (self.shared.clone(), stop.clone(), self.durable_before);
            // Blobs and compaction need the space that is kept for them more.
            move || save(&shared, from, durable_before, shared.room_bytes, &stop)
        });
        match thread {
            Ok(thread) => {
                self.running = Some(Running { thread, stop });
                self.is_behind = false;
            }
            Err(error) => tracing::warn!(%error, "no thread to save the index: it is tried again"),
        }
    }

    /// Saves what is not saved, as the last step of a proper stop.
    pub fn finish(mut self, from: Place) {
        self.stop();
        if self.is_behind {
            save(&self.shared, from, self.durable_before, 0, &AtomicBool::new(false));
        }
    }

    fn stop(&mut self) {
        if let Some(Running { thread, stop }) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            match thread.join() {
                Ok(Some(durable_before)) => self.durable_before = durable_before,
                // It failed, or was stopped; or it panicked, which was logged.
                Ok(None) | Err(_) => self.is_behind = true,
            }
        }
    }

    fn index_bytes(&self) -> u64 {
        let numbers = self.shared.totals.numbers();
        (numbers.blobs + numbers.tombstones) * SLOT_BYTES as u64
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Without a saved index the next start takes longer; nothing else depends on it.
fn save(
    shared: &Shared,
    from: Place,
    durable_before: u32,
    spare_bytes: u64,
    stop: &AtomicBool,
) -> Option<u32> {
    let started = Instant::now();
    match try_save(shared, from, durable_before, spare_bytes, stop) {
        Ok(Some(end)) => {
            tracing::debug!(took = ?started.elapsed(), ?from, ?end, "the index was saved");
            return Some(end.volume());
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the index could not be saved: the next start may take longer"),
    }
    shared.layout.index.drop_new();
    None
}

/// Says up to where the index reaches; nothing if it was told to stop or the disk failed before. Leaves that many bytes
/// free, and the reserve.
fn try_save(
    shared: &Shared,
    from: Place,
    durable_before: u32,
    spare_bytes: u64,
    stop: &AtomicBool,
) -> io::Result<Option<Place>> {
    // After a failed sync nobody knows what is durable.
    if shared.health.check().is_err() {
        return Ok(None);
    }
    let needed = shared.index.memory_bytes() + shared.options.reserve_bytes + spare_bytes;
    if shared.layout.free_bytes() < needed {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let file = shared.layout.index.create()?;
    let origin = Origin { store: shared.layout.store, probe: shared.hash(PROBE), from };
    let mut save = Save::begin(&file, &origin)?;
    for number in 0..TABLES {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        save.table(&shared.index, number)?;
    }
    // Not before the tables were copied: then every record in them lies before this end.
    let extent = extent(shared)?;
    sync_volumes(shared, durable_before)?;
    sync_files(shared)?;
    save.finish(&extent)?;
    shared.layout.index.keep_new()?;
    Ok(Some(extent.end))
}

/// What there is of the volumes now. What readers may see of them is durable, unless nothing is ever synced.
fn extent(shared: &Shared) -> io::Result<Extent> {
    let volumes = shared.volumes.all();
    let Some(last) = volumes.last() else { return Err(io::Error::other("there is no volume")) };
    let lengths: Vec<(u32, u64)> = volumes.iter().map(|volume| (volume.number, volume.end())).collect();
    let offset = lengths.last().map_or(0, |(_, length)| *length);
    Ok(Extent {
        end: Place::new(last.number, offset),
        mark: mark(last, offset)?,
        // This id is then never used, which costs nothing.
        next_file: shared.next_file(),
        stretches: shared.damage.stretches(),
        volumes: lengths,
    })
}

/// Makes durable what may not be: what was written without a sync, by this process or by one that was killed.
pub fn sync_volumes(shared: &Shared, first: u32) -> io::Result<()> {
    for volume in shared.volumes.all().iter().filter(|volume| volume.number >= first) {
        // One that is gone was removed after its records were moved.
        disk::already_gone(shared.sync_volume(volume.number))?;
    }
    disk::sync_folder(&shared.layout.volumes())
}

/// As [`sync_volumes`], for the files of blobs that the index names.
fn sync_files(shared: &Shared) -> io::Result<()> {
    let files = std::mem::take(&mut *shared.unsynced_files.lock());
    let folders: BTreeSet<PathBuf> = files.iter().map(|id| shared.layout.blob_folder(*id)).collect();
    let sync_file = |id: &u64| disk::sync_data(&disk::open(&shared.layout.blob(*id))?);
    // One that is gone was replaced.
    let sync = |id: &u64| disk::already_gone(sync_file(id));
    let synced = files
        .iter()
        .try_for_each(sync)
        .and_then(|()| folders.iter().try_for_each(|path| disk::sync_folder(path)));
    synced.inspect_err(|error| {
        shared.sync_failed(error);
        shared.unsynced_files.lock().extend(files);
    })
}
