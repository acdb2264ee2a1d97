//! One environment per directory and process: LMDB's file locks break if a process opens the same files twice.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Error,
    txn::{Lmdb, to_error},
    writer::{self, Writes},
};

/// What all [`super::Store`]s of one directory share.
pub(super) struct Open {
    pub(super) lmdb: Lmdb,
    pub(super) writes: Writes,
    pub(super) changes: watch::Sender<u64>,
}

/// The stores that are open, by canonical directory.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Open>>>> = LazyLock::new(Mutex::default);

/// A store that was just dropped ends its writer thread first, which may be inside its last fsync.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// Opens the store in `dir`, or finds it open.
pub(super) fn open(dir: &Path) -> Result<Arc<Open>, Error> {
    let failed = |error: std::io::Error| to_error("open", dir, error.into());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?;
    let mut open = OPEN.lock();
    if let Some(store) = open.get(&dir).and_then(Weak::upgrade) {
        return Ok(store);
    }
    if let Some(closing) = heed::env_closing_event(&dir) {
        closing.wait_timeout(CLOSE_DEADLINE);
    }
    let store = Arc::new(open_new(&dir)?);
    open.retain(|_, store| store.strong_count() > 0);
    open.insert(dir, Arc::downgrade(&store));
    Ok(store)
}

fn open_new(dir: &Path) -> Result<Open, Error> {
    let failed = |error| to_error("open", dir, error);
    let lmdb = Lmdb::open(dir).map_err(failed)?;
    lmdb.check_format()?;
    // The files may be new, and the folder too: their names are durable only after this.
    for folder in [Some(dir), dir.parent()].into_iter().flatten() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed(e.into()))?;
    }
    let changes = watch::Sender::new(lmdb.last_change());
    let writes = writer::start(lmdb.clone(), changes.clone()).map_err(|e| failed(e.into()))?;
    Ok(Open { lmdb, writes, changes })
}
