//! Follows the changes of all processes: hints for what changed, and an end to what the dead announced.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};

use super::{Inner, owner, tree, tree::Change};
use crate::{
    cluster::{Hint, StoreError},
    embedded::{Store, Writer},
};

/// How soon the announcements of a killed process vanish.
const LOOK_FOR_DEAD_EVERY: Duration = Duration::from_secs(1);

/// Sees what changed since it was made.
pub(super) struct Follower {
    changes: watch::Receiver<u64>,
    last_change: u64,
    /// Absolute path of each document -> number of its last change.
    documents: HashMap<String, u64>,
}

impl Follower {
    /// Starts from what stands there now.
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        let changes = store.changes();
        store.read(|reader| {
            let (last_change, documents) = (tree::last_change(reader)?, tree::all_changes(reader)?);
            Ok(Self { changes, last_change, documents })
        })
    }

    /// Runs until the store object is dropped.
    pub(super) async fn run(mut self, inner: Arc<Inner>) {
        let mut tick = tokio::time::interval(LOOK_FOR_DEAD_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bury_without_announcement(&inner);
        loop {
            tokio::select! {
                Ok(()) = self.changes.changed() => log("read the map", self.send_hints(&inner)),
                _ = tick.tick() => {
                    log("end the announcements of the dead", end_dead(&inner).await);
                    keep_announcements(&inner).await;
                }
            }
        }
    }

    /// Looks again, and sends a hint for each difference. The store also changes for reasons that are not ours (the queue
    /// lives in it too), so that is asked first.
    fn send_hints(&mut self, inner: &Inner) -> Result<(), StoreError> {
        let now = inner.store.read(|reader| {
            let last_change = tree::last_change(reader)?;
            let documents = || tree::all_changes(reader).map(|documents| (last_change, documents));
            (last_change != self.last_change).then(documents).transpose()
        })?;
        let Some((last_change, now)) = now else { return Ok(()) };
        let changed = now.iter().filter(|(path, at)| self.documents.get(*path) != Some(at));
        let removed = self.documents.keys().filter(|path| !now.contains_key(*path));
        for path in changed.map(|(path, _)| path).chain(removed) {
            if let Some(path) = inner.root.relative(path) {
                // Where nobody listens, nobody misses it.
                let _ = inner.hints.send(Hint::Document(path.to_owned()));
            }
        }
        (self.last_change, self.documents) = (last_change, now);
        Ok(())
    }
}

fn log(doing: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!("{doing}: {error}");
    }
}

/// Removes what dead processes announced.
async fn end_dead(inner: &Inner) -> Result<(), StoreError> {
    let mut dead = inner.store.read(tree::owned)?;
    dead.retain(|(_, owner)| !owner::is_alive(&inner.dir, owner));
    if dead.is_empty() {
        return Ok(());
    }
    let removed = dead.clone();
    let remove = move |writer: &mut Writer<'_>| {
        let mut change = Change::begin(writer)?;
        removed.iter().try_for_each(|(path, owner)| change.withdraw(path, owner))
    };
    inner.write(remove).await?;
    for (path, owner) in &dead {
        tracing::info!("{path} is gone: the process that announced it has ended");
        owner::bury(&inner.dir, owner);
    }
    Ok(())
}

/// Files of owners that died before they announced anything. Those that announced are needed until that is removed.
fn bury_without_announcement(inner: &Inner) {
    let Ok(owned) = inner.store.read(tree::owned) else { return };
    for id in owner::all(&inner.dir).unwrap_or_default() {
        if !owned.iter().any(|(_, owner)| *owner == id) && !owner::is_alive(&inner.dir, &id) {
            owner::bury(&inner.dir, &id);
        }
    }
}

/// Makes announcements that could not be made before, or that somebody removed; ends those that could not be ended. Whoever
/// announced was told that it failed.
async fn keep_announcements(inner: &Inner) {
    for path in inner.wanted.paths() {
        let absolute = inner.root.absolute(&path);
        let stands =
            inner.store.read(|reader| tree::get(reader, &absolute)).is_ok_and(|found| found.is_some());
        if inner.wanted.get(&path).is_some_and(|wanted| wanted.is_some() != stands)
            && let Err(error) = inner.reconcile(&path, false).await
        {
            tracing::debug!("{path} is still not as announced: {error}");
        }
    }
}
