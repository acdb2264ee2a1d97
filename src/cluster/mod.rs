//! The seam to what exists: a small tree of documents with versions (znodes, in ZooKeeper's words), and the typed
//! maps on top of it.
//!
//! - [`MapStore`]: the trait; [`connect`] chooses the implementation
//! - [`StoreArgs`]: the flags of every program
//! - `zookeeper`: real clusters; `embedded`: one machine, nothing installed
//! - [`mod@format`]: the JSON of the maps, side by side with the original's
//! - [`edit`]: the changes that admin commands and coordinators make, each by compare-and-set
//! - [`view`]: follows the store and holds the current [`crate::model::ClusterMap`]
//! - `path`: which paths are well formed, and what a root is; `wanted`: announcements that a store object keeps up

mod args;
pub mod edit;
mod embedded;
pub mod format;
mod path;
pub mod view;
mod wanted;
mod zookeeper;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

pub use args::StoreArgs;
pub use view::{View, ViewState};

use crate::embedded::data_dir;

/// One document and its version. Every change of the document raises the version; compare-and-set names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The document's bytes, at most [`MAX_DOCUMENT_BYTES`].
    pub data: Bytes,
    /// ZooKeeper's data version: 0 when created, one more with each change.
    pub version: i32,
}

/// ZooKeeper cuts the connection of whoever sends a request over 1 MiB (`jute.maxbuffer`), and with it everything
/// else that shares the session; so a bigger document is refused before it is sent.
pub const MAX_DOCUMENT_BYTES: usize = 1000 * 1024;

/// Whose children are the servers that announce themselves.
pub const LIVE: &str = "/live";

/// Whose children say which storage serves under the id of a server.
pub const STORAGES: &str = "/storages";

/// Every call ends within this time. Longer than a ZooKeeper ensemble needs to elect a leader when all is well, shorter
/// than people and their clients wait.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Hints that a slow receiver may have waiting; then it lags and must read everything.
const HINTS_KEPT: usize = 4096;

/// One part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Make a document that must not exist. Its parent must.
    Create {
        /// Absolute path below the root, `/servers-map`.
        path: String,
        /// Its first content.
        data: Bytes,
    },
    /// Replace a document if it still has that version.
    Set {
        /// Absolute path below the root.
        path: String,
        /// The new content.
        data: Bytes,
        /// The version that was read.
        version: i32,
    },
    /// Remove a document if it still has that version.
    Delete {
        /// Absolute path below the root.
        path: String,
        /// The version that was read.
        version: i32,
    },
}

impl Edit {
    /// The document that is edited.
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Set { path, .. } | Self::Delete { path, .. } => path,
        }
    }

    /// How many bytes it carries.
    fn data_bytes(&self) -> usize {
        match self {
            Self::Create { data, .. } | Self::Set { data, .. } => data.len(),
            Self::Delete { .. } => 0,
        }
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed, made or removed a document meanwhile; nothing was changed. Read again and decide again.
    #[error("{path} was changed by somebody else meanwhile")]
    Conflict {
        /// The document that did not match.
        path: String,
    },
    /// The root or a parent does not exist: nothing was initialised there.
    #[error("{path} does not exist: run coordinator-init first")]
    NotInitialised {
        /// The missing document.
        path: String,
    },
    /// No connection, or no answer in time. A write may or may not have been made: read before trying again.
    #[error("the map store does not answer: {0}")]
    Unavailable(String),
    /// Wrong credentials or missing rights. Trying again does not help.
    #[error("the map store refuses access: {0}")]
    Denied(String),
    /// The request can never succeed (document too large, malformed path, ...).
    #[error("{0}")]
    Invalid(String),
}

/// What may have changed. Only a hint that something is worth reading again: hints may come twice, late, or (while the
/// connection is down) be folded into one [`Hint::Everything`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This document was made, changed or removed.
    Document(String),
    /// Anything may have changed: read everything.
    Everything,
}

/// How the store is reached at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Reads and hints are current.
    Up,
    /// Not reached: what was read last may be old.
    Down,
}

/// The store of documents. Paths are absolute below the store's root (`/servers-map`). Every call ends within the
/// store's operation timeout. All methods may be called at any time by any number of tasks, also while the link is
/// down (then: [`StoreError::Unavailable`]); the implementation reconnects by itself, for ever.
#[async_trait]
pub trait MapStore: Send + Sync + 'static {
    /// One document; `None` if there is none.
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError>;

    /// Names (without path) of the documents directly below `path`, sorted; empty if `path` does not exist.
    /// `/` lists the top ones.
    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError>;

    /// Makes all edits or none; together they carry at most [`MAX_DOCUMENT_BYTES`]. After [`StoreError::Unavailable`] it is unknown which.
    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError>;

    /// Makes the root, its parents and [`LIVE`] where missing.
    async fn init(&self) -> Result<(), StoreError>;

    /// Keeps a document at `path` (directly below `/live`) for as long as this store object lives and reaches the
    /// servers: it vanishes when the process dies and is made again after a lost session. Returns when it stands for
    /// the first time. A second call for the same path replaces the content; so does one of another process, for the one
    /// that announces last is the one that was started last. On an error it is not there yet, but will be as soon as the
    /// store can make it.
    async fn announce(&self, path: &str, data: Bytes) -> Result<(), StoreError>;

    /// Ends [`MapStore::announce`] and removes the document. On an error it is still there, but will be removed as soon
    /// as the store can.
    async fn withdraw(&self, path: &str) -> Result<(), StoreError>;

    /// Hints from now on. A receiver that lags must read everything.
    fn hints(&self) -> broadcast::Receiver<Hint>;

    /// Whether the store is reached.
    fn link(&self) -> watch::Receiver<Link>;
}

/// How to reach a map store.
#[derive(Clone, Default)]
pub struct StoreOptions {
    /// `user:password` for ZooKeeper's digest scheme; what we create is then writable by that user only and readable
    /// by everybody. Never logged.
    pub digest_auth: Option<secrecy::SecretString>,
    /// Speak TLS to ZooKeeper, trusting this PEM file of certificates.
    pub tls_ca: Option<std::path::PathBuf>,
    /// PEM file with our certificate and key, for servers that ask for one.
    pub tls_identity: Option<std::path::PathBuf>,
    /// Session timeout asked for; `None` means [`DEFAULT_SESSION_TIMEOUT`].
    pub session_timeout: Option<Duration>,
}

/// A node that dies is missed after this long; shorter would drop sessions on a busy machine's pauses.
pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The embedded store's folder inside the data folder.
const EMBEDDED_FOLDER: &str = "map";

/// Opens the map store that the command line names: `host:port,host:port` for ZooKeeper, `embedded:<dir>` for one machine,
/// which keeps it in `<dir>/map`. All documents are below `root` (`/backpack`, `/a/b`, or `/`), which [`MapStore::init`]
/// makes. Must be called inside a tokio runtime. ZooKeeper need not be there: the store is [`Link::Down`] until it is.
///
/// When the store object is dropped, what it announced vanishes soon; at the end of a process call
/// [`MapStore::withdraw`] first, for the runtime may end before ZooKeeper is told.
pub fn connect(
    zk_servers: &str,
    root: &str,
    options: &StoreOptions,
) -> Result<Arc<dyn MapStore>, StoreError> {
    let root = path::Root::parse(root)?;
    match data_dir(zk_servers) {
        Some(dir) if dir.as_os_str().is_empty() => {
            Err(StoreError::Invalid("embedded: needs a folder, for example embedded:/data".into()))
        }
        Some(dir) => Ok(Arc::new(embedded::EmbeddedStore::open(&dir.join(EMBEDDED_FOLDER), root)?)),
        None => Ok(Arc::new(zookeeper::ZooKeeperStore::connect(zk_servers, root, options)?)),
    }
}

/// Refuses edits that no store may be asked for: malformed paths, the root itself, too much data.
fn check_edits(edits: &[Edit]) -> Result<(), StoreError> {
    let mut total = 0;
    for edit in edits {
        path::check(edit.path())?;
        if edit.path() == "/" {
            return Err(StoreError::Invalid("the root itself cannot be edited".into()));
        }
        total += edit.data_bytes();
        check_size(edit.path(), total)?;
    }
    Ok(())
}

fn check_size(path: &str, bytes: usize) -> Result<(), StoreError> {
    if bytes <= MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "{path} would have {bytes} bytes: a change may carry at most {MAX_DOCUMENT_BYTES}"
    )))
}
