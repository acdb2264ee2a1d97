//! The task that holds the session: connects for ever, watches, and says what may have changed.
//!
//! Two traps of the client shape it. It silently loses persistent watches whenever the connection comes back within the
//! same session; so each time it says that it is connected, a new watch is set before the old one is dropped, and
//! everything counts as changed (ZooKeeper itself does not replay what a persistent watch missed). And a session that
//! expired is dead for good; so a new client is made. Its server may lag behind the one before; so it is asked to catch up
//! with its leader before anything is read from it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use zookeeper_client::{
    AddWatchMode, Client, Error, EventType, PersistentWatcher, SessionState, WatchedEvent,
};

use super::{Shared, error::to_store_error, target::Target};
use crate::{
    cluster::{Hint, Link, OPERATION_TIMEOUT, StoreError},
    daemon::Backoff,
};

/// Between tries to connect.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Before a watch is tried again that could not be set although the session is connected.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Everything is read again about this often, in case a hint was lost in a way nobody thought of. Up to half more or less,
/// so that processes which came back together do not read together for ever.
const EVERYTHING_EVERY: Duration = Duration::from_secs(60);

/// One session after the other, until the store object is dropped.
pub(super) async fn run(shared: Arc<Shared>, target: Target) {
    loop {
        let client = connect(&shared, &target).await;
        shared.sessions.lock().insert(client.session_id().0);
        let state =
            Session { shared: &shared, client: &client, watcher: None, watches: false }.follow().await;
        tracing::warn!("the ZooKeeper session {} is over ({state}): making a new one", client.session_id());
        shared.down(StoreError::Unavailable(format!("the session is over ({state})")));
    }
}

async fn connect(shared: &Shared, target: &Target) -> Client {
    let mut failures = 0;
    loop {
        match target.connect().await {
            Ok(client) => {
                tracing::info!("connected to ZooKeeper, session {}", client.session_id());
                return client;
            }
            Err(error) => {
                failures += 1;
                let trouble = trouble(target, error);
                if failures == 1 {
                    tracing::warn!("{trouble}: trying again until it works");
                }
                shared.down(trouble);
                tokio::time::sleep(RECONNECT.jittered(failures)).await;
            }
        }
    }
}

fn trouble(target: &Target, error: Error) -> StoreError {
    let servers = target.servers();
    match error {
        Error::AuthFailed | Error::NoAuth => StoreError::Denied(format!("{servers}: {error}")),
        error => StoreError::Unavailable(format!("cannot connect to {servers}: {error}")),
    }
}

impl Shared {
    fn up(&self, client: &Client) {
        self.client.send_replace(Some(client.clone()));
        self.link.send_if_modified(|link| std::mem::replace(link, Link::Up) != Link::Up);
        self.hint(Hint::Everything);
    }

    fn down(&self, trouble: StoreError) {
        *self.trouble.lock() = trouble;
        self.client.send_replace(None);
        self.link.send_if_modified(|link| std::mem::replace(link, Link::Down) != Link::Down);
    }

    fn hint(&self, hint: Hint) {
        // Where nobody listens, nobody misses it.
        let _ = self.hints.send(hint);
    }
}

/// A session that is being followed.
struct Session<'a> {
    shared: &'a Shared,
    client: &'a Client,
    watcher: Option<PersistentWatcher>,
    /// The watcher was set after the connection was last made.
    watches: bool,
}

impl Session<'_> {
    /// Until the session is over.
    async fn follow(mut self) -> SessionState {
        let mut states = self.client.state_watcher();
        let period = EVERYTHING_EVERY.mul_f64(0.5 + fastrand::f64());
        let mut everything = interval_at(Instant::now() + period, period);
        everything.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = states.peek_state();
        loop {
            if state.is_terminated() {
                return state;
            }
            if state == SessionState::SyncConnected && !self.watches {
                self.watch().await;
            }
            tokio::select! {
                biased;
                changed = states.changed() => {
                    state = changed;
                    self.watches = false;
                    if state != SessionState::SyncConnected {
                        self.shared.down(StoreError::Unavailable("the connection is lost".to_owned()));
                    }
                }
                event = next(&mut self.watcher) => self.take(event),
                _ = everything.tick(), if self.watches => self.shared.hint(Hint::Everything),
                () = tokio::time::sleep(WATCH_AGAIN_AFTER), if !self.watches => {}
            }
        }
    }

    /// Sets a new watch, then drops the old one. Only then the link is up: what is read from now on is kept current.
    async fn watch(&mut self) {
        let root = self.shared.root.absolute("/");
        let watch = async {
            let watcher = self.client.watch(&root, AddWatchMode::PersistentRecursive).await?;
            self.client.sync(&root).await?;
            Ok(watcher)
        };
        match timeout(OPERATION_TIMEOUT, watch).await.unwrap_or(Err(Error::Timeout)) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watches = true;
                self.shared.up(self.client);
            }
            Err(error) => {
                tracing::warn!("cannot watch {root} in ZooKeeper: {error}");
                self.shared.down(to_store_error(&root, error));
            }
        }
    }

    fn take(&mut self, event: WatchedEvent) {
        if event.event_type == EventType::Session {
            // States are followed on their own; but after the last one the watcher must not be asked again.
            if event.session_state.is_terminated() {
                self.watcher = None;
            }
            return;
        }
        let Some(path) = self.shared.root.relative(&event.path) else { return };
        if event.event_type == EventType::NodeDeleted && self.shared.wanted.get(path).is_some() {
            self.shared.announce_again.notify_one();
        }
        self.shared.hint(Hint::Document(path.to_owned()));
    }
}

async fn next(watcher: &mut Option<PersistentWatcher>) -> WatchedEvent {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}
