//! What is done to a data directory that no engine has open. Each takes the lock of the directory, so that nobody opens it
//! meanwhile, makes nothing where there is no storage, and may be ended at any moment.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;

use super::{
    Engine, compact,
    index::Place,
    keys::Keys,
    layout::Layout,
    options::{OpenError, Options},
    pace::Pace,
    recovery::{OnRead, recover},
    saver::Saver,
    shared::Shared,
    tombstones,
};

/// What [`rebuild_index`] saved.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    /// Blobs.
    pub blobs: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of the saved index; 0 where there is no volume, and so nothing to save.
    pub index_bytes: u64,
    /// Records and stretches of volumes that are damaged, as far as reading heads tells.
    pub damaged: u64,
}

/// Removes the saved index and saves one of what the heads of all records say, with all that a start does to the end of
/// the last volume.
pub fn rebuild_index(dir: &Path, on_read: OnRead<'_>) -> Result<Rebuilt, OpenError> {
    let (layout, options) = (Layout::open_existing(dir)?, Options::default());
    if layout.index.bytes() > 0 {
        layout.index.remove().map_err(OpenError::io("remove the saved index"))?;
    }
    let found = recover(&layout, &options, on_read)?;
    let last = found.volumes.last().map(|last| Place::new(last.number, last.end()));
    let (durable_before, unsaved_bytes) = (found.durable_before, found.unsaved_bytes.max(1));
    // Files of keys left out what the index held that is gone: without it they are removed.
    let keys = Keys::open(&layout, &options, &found.volumes, found.keys_until);
    let keys = keys.map_err(OpenError::io("remove files of keys"))?;
    let shared = Arc::new(Shared::new(layout, options, found, keys));
    if let Some(end) = last {
        Saver::new(shared.clone(), durable_before, unsaved_bytes).finish(end);
        if shared.layout.index.bytes() == 0 {
            let source = io::Error::other("it could not be written, see the log");
            return Err(OpenError::Io { context: "save the index".to_owned(), source });
        }
    }
    let numbers = shared.totals.numbers();
    Ok(Rebuilt {
        blobs: numbers.blobs,
        tombstones: numbers.tombstones,
        index_bytes: shared.layout.index.bytes(),
        damaged: shared.damage.count(),
    })
}

/// How to [`compact()`].
#[derive(Debug, Clone, Copy)]
pub struct CompactHow {
    /// As [`Options::compact_dead_ratio`].
    pub dead_ratio: f64,
    /// What may be read and written in a second; `None`: as much as goes.
    pub bytes_per_second: Option<u64>,
    /// As [`Options::tombstone_age`]; `None`: all tombstones stay.
    pub tombstone_age: Option<Duration>,
}

/// What [`compact()`] did.
#[derive(Debug, Clone, Serialize)]
pub struct Compacted {
    /// Volumes that were removed.
    pub removed_volumes: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes of records that were needed and written again.
    pub moved_bytes: u64,
    /// Bytes that nobody needs and that stay: in volumes that are not worth it, in the last one, in those left alone.
    pub dead_bytes: u64,
    /// Volumes that had to be left alone, and why.
    pub left_alone: BTreeMap<u32, String>,
    /// It was told to stop before the end.
    pub stopped: bool,
}

/// Rewrites volumes until none is worth it. `go_on` is told of bytes that were read or moved, and of how many are to be
/// moved; it says whether to go on.
pub fn compact(
    dir: &Path,
    how: CompactHow,
    go_on: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Compacted, OpenError> {
    let options = Options {
        compact_dead_ratio: how.dead_ratio,
        // What compacts is this thread.
        compact_bytes_per_second: 0,
        scrub_bytes_per_second: 0,
        tombstone_age: how.tombstone_age.unwrap_or_default(),
        ..Options::default()
    };
    let engine = Engine::open_existing(dir, options)?;
    let shared = engine.shared.clone();
    let (mut left_alone, mut removed_volumes) = (BTreeMap::new(), 0);
    let bytes_per_second = how.bytes_per_second.unwrap_or(u64::MAX);
    let mut pace = Pace::new(&shared.compaction.hold);
    // Paid for in small parts, so that nobody who says to stop waits long.
    let part = (bytes_per_second / 10).max(1);
    let mut pay = |bytes: u64, of: u64| {
        let (mut goes_on, mut left) = (go_on(bytes, of), bytes);
        while goes_on && left > 0 {
            let now = left.min(part);
            left -= now;
            goes_on = pace.go_on(now, bytes_per_second) && go_on(0, of);
        }
        goes_on
    };
    let finished = loop {
        let forgets = how.tombstone_age.is_some();
        if forgets && !tombstones::search(&shared, &mut |bytes| pay(bytes, 0)) {
            break false;
        }
        let (of, before) = (compact::bytes_to_move(&shared), removed_volumes);
        let mut on_volume = |number, done| match done {
            Ok(_) => removed_volumes += 1,
            Err(reason) => drop(left_alone.insert(number, reason)),
        };
        if !compact::rewrite_all(&shared, &mut HashMap::new(), &mut |bytes| pay(bytes, of), &mut on_volume) {
            break false;
        }
        // There may be more tombstones to forget than are found at once.
        if !forgets || !shared.compaction.needless.lock().is_cut || removed_volumes == before {
            break true;
        }
    };
    let done = Compacted {
        removed_volumes,
        removed_bytes: shared.compaction.removed_bytes.load(Ordering::Relaxed),
        moved_bytes: shared.compaction.moved_bytes.load(Ordering::Relaxed),
        dead_bytes: shared.volumes.bytes().1,
        left_alone,
        stopped: !finished,
    };
    // Saves the index.
    drop(engine);
    match shared.health.read_only() {
        None => Ok(done),
        Some(reason) => Err(OpenError::io("write to the last volume")(io::Error::other(reason))),
    }
}
