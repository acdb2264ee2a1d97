//! The task that reads what hints say, and everything when it must.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{
    broadcast::{self, error::RecvError, error::TryRecvError},
    watch,
};

use super::{
    Shared,
    build::{Builder, Trouble},
};
use crate::{
    cluster::{
        Entry, Hint, LIVE, Link, MapStore, StoreError,
        format::{POOLS, QUEUE, SERVERS, SHARDS, shard_of_size_path, size_path},
    },
    daemon::{Backoff, Shutdown},
};

/// Hints that come within this time are read together: sizes change every second per shard, and one new map for many of
/// them is cheap.
const GATHER: Duration = Duration::from_millis(20);

/// Reads in flight. Enough to keep a ZooKeeper connection busy, few enough for its other users.
const READS_AT_ONCE: usize = 64;

/// Between tries while the store is away. It says by itself when it is back; this is for the rest.
const RETRY: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// What is to be read.
#[derive(Debug, Default)]
struct Todo {
    everything: bool,
    live: bool,
    documents: BTreeSet<String>,
}

impl Todo {
    fn add(&mut self, hint: Hint) {
        match hint {
            Hint::Everything => self.everything = true,
            Hint::Document(path) if path == "/" => self.everything = true,
            Hint::Document(path) if path.starts_with(LIVE) => self.live = true,
            Hint::Document(path) => {
                let ours = [SERVERS, SHARDS, QUEUE, POOLS].contains(&path.as_str())
                    || shard_of_size_path(&path).is_some();
                if ours {
                    self.documents.insert(path);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && !self.live && self.documents.is_empty()
    }
}

pub(super) struct Follower {
    store: Arc<dyn MapStore>,
    shared: Arc<Shared>,
    hints: broadcast::Receiver<Hint>,
    link: watch::Receiver<Link>,
    todo: Todo,
    builder: Builder,
    /// What was said about each document, so that it is said once.
    troubles: HashMap<String, Trouble>,
    failures: u32,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn MapStore>, shared: Arc<Shared>) -> Self {
        let (hints, link) = (store.hints(), store.link());
        let todo = Todo { everything: true, ..Todo::default() };
        let (builder, troubles) = (Builder::default(), HashMap::new());
        Self { store, shared, hints, link, todo, builder, troubles, failures: 0 }
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.wait() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            if self.todo.is_empty() {
                self.wait().await;
                tokio::time::sleep(GATHER).await;
            }
            self.drain_hints();
            match self.read().await {
                Ok(()) => self.succeeded(),
                Err(error) => self.failed(error).await,
            }
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        tokio::select! {
            hint = self.hints.recv() => match hint {
                Ok(hint) => self.todo.add(hint),
                Err(RecvError::Lagged(_)) => self.todo.everything = true,
                // The store lives as long as this, and hints end with it only.
                Err(RecvError::Closed) => std::future::pending().await,
            },
            Ok(()) = self.link.changed() => match *self.link.borrow_and_update() {
                Link::Up => self.todo.everything = true,
                Link::Down => self.shared.stale(),
            },
        }
    }

    fn drain_hints(&mut self) {
        loop {
            match self.hints.try_recv() {
                Ok(hint) => self.todo.add(hint),
                Err(TryRecvError::Lagged(_)) => self.todo.everything = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!("the map is followed again");
        }
        self.shared.publish(self.builder.map());
        if *self.link.borrow() == Link::Up {
            self.shared.fresh();
        }
    }

    async fn failed(&mut self, error: StoreError) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            tracing::warn!("cannot read the map, the last one stays in force: {error}");
        }
        self.shared.stale();
        tokio::select! {
            () = tokio::time::sleep(RETRY.jittered(self.failures)) => {}
            Ok(()) = self.link.changed() => self.todo.everything |= *self.link.borrow() == Link::Up,
        }
    }

    /// Reads what is to be read; on an error all of it stays to be read.
    async fn read(&mut self) -> Result<(), StoreError> {
        let everything = self.todo.everything;
        let mut paths = self.todo.documents.clone();
        if everything {
            paths.extend([SERVERS, SHARDS, QUEUE, POOLS].map(str::to_owned));
        }
        let other_shards = paths.contains(SHARDS);
        let documents = fetch(&*self.store, paths).await?;
        let live = if everything || self.todo.live { Some(self.store.children(LIVE).await?) } else { None };
        self.take(documents);
        if let Some(names) = live {
            let trouble = self.builder.live(&names);
            self.note(LIVE, trouble);
        }
        // Sizes change every second, and there may be thousands of shards: these are gone through only when they may be others.
        if other_shards {
            self.read_sizes(everything).await?;
        }
        self.todo = Todo::default();
        Ok(())
    }

    /// Reads the sizes of shards that are new, or of all.
    async fn read_sizes(&mut self, all: bool) -> Result<(), StoreError> {
        let shards = self.builder.map().shards.keys();
        let sizes = shards.filter(|shard| all || self.builder.lacks_size(shard)).map(size_path);
        let sizes = fetch(&*self.store, sizes.collect()).await?;
        self.take(sizes);
        self.builder.forget_unused_sizes();
        Ok(())
    }

    fn take(&mut self, documents: Vec<(String, Option<Entry>)>) {
        for (path, entry) in documents {
            let trouble = self.builder.document(&path, entry.as_ref().map(|entry| &entry.data[..]));
            self.note(&path, trouble);
        }
    }

    /// Counts what is wrong with a document, and logs it once.
    fn note(&mut self, path: &str, trouble: Option<Trouble>) {
        let Some(trouble) = trouble else {
            if self.troubles.remove(path).is_some() {
                tracing::info!("{path} makes sense again");
            }
            return;
        };
        let label = if shard_of_size_path(path).is_some() { "/shard-size" } else { path };
        metrics::counter!("backpack_map_errors_total", "document" => label.to_owned()).increment(1);
        if self.troubles.get(path) != Some(&trouble) {
            match &trouble {
                Trouble::Unusable(error) => {
                    tracing::error!("{path} cannot be used, its last good content stays in force: {error}");
                }
                Trouble::Entries(complaints) => tracing::error!("{path}: {}", complaints.join("; ")),
            }
            self.troubles.insert(path.to_owned(), trouble);
        }
    }
}

/// Reads documents, many at once, in any order.
async fn fetch(
    store: &dyn MapStore,
    paths: BTreeSet<String>,
) -> Result<Vec<(String, Option<Entry>)>, StoreError> {
    let reads = paths.into_iter().map(|path| async move {
        let entry = store.get(&path).await?;
        Ok((path, entry))
    });
    stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::cluster::{StoreOptions, View, connect};

    #[tokio::test]
    async fn a_bad_document_is_counted_each_time_and_remembered_until_it_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let servers = format!("embedded:{}", dir.path().display());
        let store = connect(&servers, "/", &StoreOptions::default()).unwrap();
        let view = View::start(store.clone(), Shutdown::default());
        let mut follower = Follower::new(store, view.shared);
        let recorder = PrometheusBuilder::new().build_recorder();
        let read = |follower: &mut Follower, path: &str, data: &'static str| {
            let entry = Entry { data: data.into(), version: 0 };
            metrics::with_local_recorder(&recorder, || follower.take(vec![(path.into(), Some(entry))]));
        };
        read(&mut follower, "/shard-size-1", "{");
        read(&mut follower, "/shard-size-1", "{");
        read(&mut follower, "/shard-size-2", r#"{"capacity":1,"current":null}"#);
        read(&mut follower, SERVERS, r#"{"1":7}"#);
        assert_eq!(follower.troubles.len(), 3);
        read(&mut follower, SERVERS, "{}");
        assert_eq!(follower.troubles.len(), 2);
        let text = recorder.handle().render();
        assert!(text.contains(r#"backpack_map_errors_total{document="/shard-size"} 3"#), "{text}");
        assert!(text.contains(r#"backpack_map_errors_total{document="/servers-map"} 1"#), "{text}");
    }

    #[test]
    fn hints_say_what_to_read() {
        let mut todo = Todo::default();
        for path in ["/other", "/shard-size-", "/queue/lock"] {
            todo.add(Hint::Document(path.into()));
        }
        assert!(todo.is_empty());
        for path in [SERVERS, "/shard-size-1", "/shard-size-1", "/live/7"] {
            todo.add(Hint::Document(path.into()));
        }
        assert_eq!(todo.documents.len(), 2);
        assert!(todo.live && !todo.everything);
        todo.add(Hint::Document("/".into()));
        assert!(todo.everything);
    }
}
