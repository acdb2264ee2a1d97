//! The LMDB environment, and what can be done inside one transaction of it.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls, types::Bytes};

use super::{Error, MAX_KEY_BYTES};

/// The greatest size of the data file. It is address space, not memory or disk: the file grows as it is used.
const MAP_SIZE_BYTES: usize = 64 << 30;

/// Reads that may run at once, of all processes together: each has a slot in the lock file. More than tokio has threads.
const MAX_READERS: u32 = 1024;

/// Where the version of what the files hold is kept.
const FORMAT_KEY: &[u8] = b"format";

/// The version of what the files hold. A program refuses files of another one.
const FORMAT: &str = "1";

/// An entry or what went wrong with reading it.
type Item<'t> = Result<(&'t [u8], &'t [u8]), Error>;

/// The environment and its one table.
#[derive(Clone)]
pub(super) struct Lmdb {
    pub(super) env: Env<WithoutTls>,
    table: Database<'static, Bytes, Bytes>,
    pub(super) dir: Arc<Path>,
}

impl Lmdb {
    /// Opens the environment in a directory that exists. Must not be called twice for one directory.
    pub(super) fn open(dir: &Path) -> Result<Self, heed::Error> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_SIZE_BYTES).max_readers(MAX_READERS);
        #[expect(unsafe_code, reason = "a memory map is sound as long as only LMDB writes the file")]
        let env = unsafe { options.open(dir) }?;
        env.clear_stale_readers()?;
        let table = env
            .open_databases_and_commit(env.read_txn()?, |opener, txn| {
                opener.open_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
            })?
            .commit()
            .flatten()
            .ok_or(heed::Error::Mdb(heed::MdbError::Invalid))?;
        Ok(Self { env, table, dir: dir.into() })
    }

    /// Writes the format into a new store, refuses one of another format.
    pub(super) fn check_format(&self) -> Result<(), Error> {
        let found = |reader: &Reader<'_>| Ok::<_, Error>(reader.get(FORMAT_KEY)?.map(<[u8]>::to_vec));
        let format = match self.read(found)? {
            Some(format) => format,
            None => {
                let mut writer = self.writer(self.env.write_txn().map_err(|e| self.error("begin", e))?);
                let format = writer.get(FORMAT_KEY)?.unwrap_or(FORMAT.as_bytes()).to_vec();
                writer.put(FORMAT_KEY, &format)?;
                writer.commit()?;
                format
            }
        };
        if format == FORMAT.as_bytes() {
            return Ok(());
        }
        let found = String::from_utf8_lossy(&format).into_owned();
        Err(Error::Format { dir: self.dir.display().to_string(), found, known: FORMAT })
    }

    /// Runs `f` on a snapshot.
    pub(super) fn read<T, E: From<Error>>(
        &self,
        f: impl FnOnce(&Reader<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let txn = self.env.read_txn().map_err(|e| self.error("read", e))?;
        f(&self.reader(&txn))
    }

    fn reader<'t>(&'t self, txn: &'t RoTxn<'_, WithoutTls>) -> Reader<'t> {
        Reader { lmdb: self, txn }
    }

    /// What writes inside `txn`; dropped without a commit it leaves nothing.
    pub(super) fn writer<'t>(&'t self, txn: RwTxn<'t>) -> Writer<'t> {
        Writer { lmdb: self, txn }
    }

    /// The id of the last committed transaction of any process.
    pub(super) fn last_change(&self) -> u64 {
        self.env.info().last_txn_id as u64
    }

    /// An error with what was being done.
    pub(super) fn error(&self, doing: &str, error: heed::Error) -> Error {
        to_error(doing, &self.dir, error)
    }
}

/// An error of LMDB in our words.
pub(super) fn to_error(doing: &str, dir: &Path, error: heed::Error) -> Error {
    let dir = PathBuf::from(dir).display().to_string();
    match error {
        heed::Error::Mdb(heed::MdbError::MapFull) => Error::Full(dir),
        heed::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => Error::Full(dir),
        error => Error::Failed { context: format!("{doing} {dir}"), source: Arc::new(error) },
    }
}

fn check(key: &[u8]) -> Result<&[u8], Error> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) { Ok(key) } else { Err(Error::BadKey(key.len())) }
}

/// Reads inside one transaction. What it returns lives as long as the transaction.
pub struct Reader<'t> {
    lmdb: &'t Lmdb,
    txn: &'t RoTxn<'t, WithoutTls>,
}

impl<'t> Reader<'t> {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<&'t [u8]>, Error> {
        let lmdb = self.lmdb;
        lmdb.table.get(self.txn, check(key)?).map_err(|e| lmdb.error("read", e))
    }

    /// Entries whose keys start with `prefix`, in the order of their keys.
    pub fn scan(&self, prefix: &[u8]) -> Result<impl Iterator<Item = Item<'t>>, Error> {
        self.scan_from(prefix, prefix)
    }

    /// Entries whose keys start with `prefix` and are not less than `first`, in the order of their keys.
    pub fn scan_from(
        &self,
        prefix: &[u8],
        first: &[u8],
    ) -> Result<impl Iterator<Item = Item<'t>> + use<'t>, Error> {
        let lmdb = self.lmdb;
        let bounds = (Bound::Included(prefix.max(first)), Bound::Unbounded);
        let range = lmdb.table.range(self.txn, &bounds).map_err(|e| lmdb.error("read", e))?;
        let prefix = prefix.to_vec();
        Ok(range
            .map(|entry| entry.map_err(|e| lmdb.error("read", e)))
            .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))))
    }
}

/// Reads and writes inside one transaction. It sees its own writes.
pub struct Writer<'t> {
    lmdb: &'t Lmdb,
    txn: RwTxn<'t>,
}

impl Writer<'_> {
    /// Reads what stands there now, this write's own changes included.
    pub fn reader(&self) -> Reader<'_> {
        self.lmdb.reader(&self.txn)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.reader().get(key)
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let lmdb = self.lmdb;
        lmdb.table.put(&mut self.txn, check(key)?, value).map_err(|e| lmdb.error("write", e))
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        let lmdb = self.lmdb;
        lmdb.table.delete(&mut self.txn, check(key)?).map_err(|e| lmdb.error("write", e))
    }

    /// Makes the changes part of the enclosing transaction, or durable where there is none.
    pub(super) fn commit(self) -> Result<(), Error> {
        self.txn.commit().map_err(|e| self.lmdb.error("commit", e))
    }
}
