//! The map store of real clusters: znodes in ZooKeeper.
//!
//! - [`ZooKeeperStore`]: the calls; each ends within the operation timeout, which the client itself does not have
//! - `target`: whom to connect to, and how
//! - `session`: connects for ever, watches again after each reconnect, says what may have changed
//! - `announce`: ephemeral documents, made again in each session
//! - `error`: the client's errors in the words of the seam

mod announce;
mod error;
mod session;
mod target;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::task::AbortOnDropHandle;
use zookeeper_client::{Acl, Acls, Client, CreateMode, CreateOptions, Error, MultiWriteError};

use self::target::Target;
use super::{
    Edit, Entry, HINTS_KEPT, Hint, Link, MapStore, OPERATION_TIMEOUT, StoreError, StoreOptions, check_edits,
    check_size,
    path::{self, Root},
    wanted::Wanted,
};

/// Before a read is tried again in the same call: the session notices a lost connection a moment after the call does.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A session with ZooKeeper that is made again whenever it is lost.
pub(super) struct ZooKeeperStore {
    shared: Arc<Shared>,
    /// End with this object, and with them the session.
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What the store object shares with its tasks.
struct Shared {
    root: Root,
    /// Who may read and write what we make.
    acls: Vec<Acl>,
    /// The session, while it is connected and watches.
    client: watch::Sender<Option<Client>>,
    link: watch::Sender<Link>,
    hints: broadcast::Sender<Hint>,
    /// Why there is no connection.
    trouble: Mutex<StoreError>,
    wanted: Wanted,
    /// Held while a znode of an announcement is being changed.
    announcing: tokio::sync::Mutex<()>,
    /// An announcement does not stand as wanted.
    announce_again: Notify,
    /// All sessions of this object: what they made is ours.
    sessions: Mutex<HashSet<i64>>,
}

impl ZooKeeperStore {
    /// Starts to connect, and returns at once.
    pub(super) fn connect(servers: &str, root: Root, options: &StoreOptions) -> Result<Self, StoreError> {
        let target = Target::new(servers, options)?;
        let shared = Arc::new(Shared {
            root,
            acls: target.acls(),
            client: watch::Sender::new(None),
            link: watch::Sender::new(Link::Down),
            hints: broadcast::Sender::new(HINTS_KEPT),
            trouble: Mutex::new(StoreError::Unavailable(format!("not yet connected to {servers}"))),
            wanted: Wanted::default(),
            announcing: tokio::sync::Mutex::new(()),
            announce_again: Notify::new(),
            sessions: Mutex::default(),
        });
        let session = tokio::spawn(session::run(shared.clone(), target));
        let announcer = tokio::spawn(announce::run(shared.clone()));
        Ok(Self { shared, _tasks: [session, announcer].map(AbortOnDropHandle::new) })
    }
}

impl Shared {
    /// Waits for a connection.
    async fn client(&self) -> Client {
        loop {
            let mut client = self.client.subscribe();
            // The sender is part of this object, so it is there.
            if let Ok(client) = client.wait_for(Option::is_some).await
                && let Some(client) = client.clone()
            {
                return client;
            }
        }
    }

    /// Makes a call end in time.
    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(OPERATION_TIMEOUT, call).await {
            Ok(result) => result,
            Err(_) if self.client.borrow().is_none() => Err(self.trouble.lock().clone()),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {OPERATION_TIMEOUT:?}"))),
        }
    }

    /// Makes a call that does no harm when made twice, again after each lost connection, while time is left.
    async fn repeat<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let last = Mutex::new(None);
        let calls = async {
            loop {
                match call(self.client().await).await {
                    Err(StoreError::Unavailable(why)) => *last.lock() = Some(why),
                    result => return result,
                }
                tokio::time::sleep(READ_AGAIN_AFTER).await;
            }
        };
        match self.within(calls).await {
            // Connected, and failed each time: the reason says more than that time is over.
            Err(StoreError::Unavailable(late)) if self.client.borrow().is_some() => {
                Err(StoreError::Unavailable(last.into_inner().unwrap_or(late)))
            }
            result => result,
        }
    }

    fn create_options(&self, mode: CreateMode) -> CreateOptions<'_> {
        mode.with_acls(Acls::new(&self.acls))
    }

    /// Makes a znode where it is missing. Asks first: who may not create there can still be told that it exists.
    async fn make(&self, client: &Client, absolute: &str) -> Result<(), Error> {
        if client.check_stat(absolute).await?.is_some() {
            return Ok(());
        }
        match client.create(absolute, b"", &self.create_options(CreateMode::Persistent)).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn commit(&self, client: &Client, edits: &[Edit]) -> Result<(), StoreError> {
        let invalid = |error| error::to_store_error("/", error);
        let mut multi = client.new_multi_writer();
        for edit in edits {
            let absolute = self.root.absolute(edit.path());
            let added = match edit {
                Edit::Create { data, .. } => {
                    multi.add_create(&absolute, data, &self.create_options(CreateMode::Persistent))
                }
                Edit::Set { data, version, .. } => multi.add_set_data(&absolute, data, Some(*version)),
                Edit::Delete { version, .. } => multi.add_delete(&absolute, Some(*version)),
            };
            added.map_err(invalid)?;
        }
        match multi.commit().await {
            Ok(_) => Ok(()),
            Err(MultiWriteError::OperationFailed { index, source }) => match edits.get(index) {
                Some(edit) => Err(error::of_edit(edit, &self.root, source)),
                None => Err(error::to_store_error("/", source)),
            },
            Err(MultiWriteError::RequestFailed { source }) => Err(error::to_store_error("/", source)),
        }
    }
}

#[async_trait]
impl MapStore for ZooKeeperStore {
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        path::check(path)?;
        let absolute = self.shared.root.absolute(path);
        let get = async |client: Client| match client.get_data(&absolute).await {
            Ok((data, stat)) => Ok(Some(Entry { data: data.into(), version: stat.version })),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error::to_store_error(path, error)),
        };
        self.shared.repeat(get).await
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        path::check(path)?;
        let absolute = self.shared.root.absolute(path);
        let list = async |client: Client| match client.list_children(&absolute).await {
            Ok(mut names) => {
                names.sort_unstable();
                Ok(names)
            }
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(error::to_store_error(path, error)),
        };
        self.shared.repeat(list).await
    }

    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError> {
        check_edits(edits)?;
        if edits.is_empty() {
            return Ok(());
        }
        // Not repeated: after a lost connection nobody knows whether it was made.
        let commit = async { self.shared.commit(&self.shared.client().await, edits).await };
        self.shared.within(commit).await
    }

    async fn init(&self) -> Result<(), StoreError> {
        let missing = self.shared.root.to_make();
        let make = async |client: Client| {
            for absolute in &missing {
                let made = self.shared.make(&client, absolute).await;
                made.map_err(|error| error::to_store_error(absolute, error))?;
            }
            Ok(())
        };
        self.shared.repeat(make).await
    }

    async fn announce(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        path::check_announcement(path)?;
        check_size(path, data.len())?;
        self.shared.wanted.set(path, Some(data));
        self.shared.reconcile_now(path, true).await
    }

    async fn withdraw(&self, path: &str) -> Result<(), StoreError> {
        path::check_announcement(path)?;
        self.shared.wanted.set(path, None);
        self.shared.reconcile_now(path, false).await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.shared.hints.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }
}
