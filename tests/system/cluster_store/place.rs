//! Where a test's documents are: a ZooKeeper server or a folder, and a root of its own in it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backpack::cluster::{self, Edit, Hint, MapStore, StoreError, StoreOptions};
use tempfile::TempDir;
use tokio::{sync::broadcast, time::timeout};

use crate::support::{wait::eventually, zookeeper::ZooKeeper};

/// Makes a test of each function for each implementation.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::Place::embedded()).await })*
        }
        mod zookeeper {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::Place::zookeeper()).await })*
        }
    };
}
pub(crate) use on_both;

/// Long enough for everything that happens soon, on a slow machine too.
pub const SOON: Duration = Duration::from_secs(60);

/// A place that any number of store objects can be connected to.
pub struct Place {
    servers: String,
    root: String,
    _folder: Option<TempDir>,
}

impl Place {
    /// A folder of its own.
    pub fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = format!("embedded:{}", folder.path().display());
        Self { servers, root: "/a/backpack".into(), _folder: Some(folder) }
    }

    /// A root of its own on the ZooKeeper server that all tests of this program share, and that none may kill.
    pub fn zookeeper() -> Self {
        static SERVER: OnceLock<ZooKeeper> = OnceLock::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let servers = SERVER.get_or_init(ZooKeeper::start).addr();
        let root = format!("/test{}/backpack", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { servers, root, _folder: None }
    }

    /// Another store object, as another process would have it. Nothing is initialised.
    pub fn connect(&self) -> Arc<dyn MapStore> {
        let options = StoreOptions { session_timeout: Some(Duration::from_secs(30)), ..Default::default() };
        cluster::connect(&self.servers, &self.root, &options).unwrap()
    }

    /// Another store object on an initialised root.
    pub async fn store(&self) -> Arc<dyn MapStore> {
        let store = self.connect();
        store.init().await.unwrap();
        store
    }

    /// As the command line names it.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The root.
    pub fn root(&self) -> &str {
        &self.root
    }
}

/// Makes a document.
pub async fn create(store: &dyn MapStore, path: &str, data: &str) -> Result<(), StoreError> {
    store.commit(&[Edit::Create { path: path.into(), data: data.to_owned().into() }]).await
}

/// Replaces a document.
pub async fn set(store: &dyn MapStore, path: &str, data: &str, version: i32) -> Result<(), StoreError> {
    store.commit(&[Edit::Set { path: path.into(), data: data.to_owned().into(), version }]).await
}

/// Removes a document.
pub async fn delete(store: &dyn MapStore, path: &str, version: i32) -> Result<(), StoreError> {
    store.commit(&[Edit::Delete { path: path.into(), version }]).await
}

/// A document's text and version.
pub async fn text(store: &dyn MapStore, path: &str) -> Option<(String, i32)> {
    let entry = store.get(path).await.unwrap()?;
    Some((String::from_utf8(entry.data.to_vec()).unwrap(), entry.version))
}

/// Waits until the children of a path are these.
pub async fn children_become(store: &dyn MapStore, path: &str, names: &[&str]) {
    let what = format!("the children of {path} are {names:?}");
    eventually(&what, SOON, async || store.children(path).await.is_ok_and(|found| found == names)).await;
}

/// Waits for a hint that makes one read this document.
pub async fn hinted(hints: &mut broadcast::Receiver<Hint>, path: &str) {
    let wait = async {
        while let Ok(hint) = hints.recv().await {
            if hint == Hint::Everything || hint == Hint::Document(path.to_owned()) {
                return;
            }
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("no hint for {path}"));
}

/// Throws away the hints that came so far, and those that are on their way.
pub async fn quiet(hints: &mut broadcast::Receiver<Hint>) {
    while timeout(Duration::from_millis(300), hints.recv()).await.is_ok() {}
}
