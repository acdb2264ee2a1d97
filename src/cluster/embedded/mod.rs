//! The map store of one machine: the tree of documents in the embedded store, shared by the processes that open it.
//!
//! - `tree`: the documents as keys and values, and the rules they follow
//! - `owner`: whose announcement it is, and whether they still live
//! - `follow`: hints, and announcements of the dead

mod follow;
mod owner;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::task::AbortOnDropHandle;

use self::{follow::Follower, owner::Owner, tree::Change};
use super::{
    Edit, Entry, HINTS_KEPT, Hint, Link, MapStore, OPERATION_TIMEOUT, StoreError, check_edits, check_size,
    path::{self, Root},
    wanted::Wanted,
};
use crate::embedded::{Store, Writer};

/// The map store in a directory.
pub(super) struct EmbeddedStore {
    inner: Arc<Inner>,
    /// Ends with this object.
    _follower: AbortOnDropHandle<()>,
}

/// What the store object shares with the task that follows changes.
struct Inner {
    store: Store,
    dir: PathBuf,
    root: Root,
    wanted: Wanted,
    /// Made at the first announcement.
    owner: Mutex<Option<Owner>>,
    hints: broadcast::Sender<Hint>,
    link: watch::Sender<Link>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, and makes the directory where missing.
    pub(super) fn open(dir: &Path, root: Root) -> Result<Self, StoreError> {
        let store = Store::open(dir)?;
        let follower = Follower::new(&store)?;
        let inner = Arc::new(Inner {
            store,
            dir: dir.to_owned(),
            root,
            wanted: Wanted::default(),
            owner: Mutex::new(None),
            hints: broadcast::Sender::new(HINTS_KEPT),
            link: watch::Sender::new(Link::Up),
        });
        let follower = AbortOnDropHandle::new(tokio::spawn(follower.run(inner.clone())));
        Ok(Self { inner, _follower: follower })
    }
}

impl Inner {
    /// Writes within the operation timeout: another process may hold the lock, or the disk may hang.
    async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let late = |_| StoreError::Unavailable(format!("no answer within {OPERATION_TIMEOUT:?}"));
        tokio::time::timeout(OPERATION_TIMEOUT, self.store.write(f)).await.map_err(late)?
    }

    fn owner_id(&self) -> Result<String, StoreError> {
        let mut owner = self.owner.lock();
        if let Some(owner) = &*owner {
            return Ok(owner.id.clone());
        }
        let new = Owner::new(&self.dir)
            .map_err(|e| StoreError::Unavailable(format!("lock a file in {}: {e}", self.dir.display())))?;
        Ok(owner.insert(new).id.clone())
    }

    /// Makes the announced document of a path what is wanted.
    async fn reconcile(&self, path: &str, take_over: bool) -> Result<(), StoreError> {
        let Some(wanted) = self.wanted.get(path) else { return Ok(()) };
        let (absolute, owner) = (self.root.absolute(path), self.owner_id()?);
        let Some(data) = wanted else {
            self.write(move |writer| Change::begin(writer)?.withdraw(&absolute, &owner)).await?;
            self.wanted.gone(path);
            return Ok(());
        };
        self.write(move |writer| Change::begin(writer)?.announce(&absolute, &data, &owner, take_over)).await
    }
}

#[async_trait]
impl MapStore for EmbeddedStore {
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        path::check(path)?;
        let absolute = self.inner.root.absolute(path);
        self.inner.store.read(|reader| tree::get(reader, &absolute))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        path::check(path)?;
        let absolute = self.inner.root.absolute(path);
        self.inner.store.read(|reader| tree::children(reader, &absolute))
    }

    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError> {
        check_edits(edits)?;
        if edits.is_empty() {
            return Ok(());
        }
        let (edits, root) = (edits.to_vec(), self.inner.root.clone());
        let apply = move |writer: &mut Writer<'_>| {
            let mut change = Change::begin(writer)?;
            edits.iter().try_for_each(|edit| change.apply(edit, &root.absolute(edit.path())))
        };
        self.inner.write(apply).await
    }

    async fn init(&self) -> Result<(), StoreError> {
        let missing = self.inner.root.to_make();
        let make = move |writer: &mut Writer<'_>| {
            let mut change = Change::begin(writer)?;
            missing.iter().try_for_each(|absolute| change.make(absolute))
        };
        self.inner.write(make).await
    }

    async fn announce(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        path::check_announcement(path)?;
        check_size(path, data.len())?;
        self.inner.wanted.set(path, Some(data));
        self.inner.reconcile(path, true).await
    }

    async fn withdraw(&self, path: &str) -> Result<(), StoreError> {
        path::check_announcement(path)?;
        self.inner.wanted.set(path, None);
        self.inner.reconcile(path, false).await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.inner.hints.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link.subscribe()
    }
}
