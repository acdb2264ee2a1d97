//! A map store in memory, always reached: what exists stands when a simulation begins, and used bytes and records change.

use std::collections::BTreeMap;

use async_trait::async_trait;
use backpack::cluster::{Edit, Entry, Hint, Link, MapStore, StoreError};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

/// The documents.
pub struct MemoryMap {
    documents: Mutex<BTreeMap<String, Entry>>,
    hints: broadcast::Sender<Hint>,
    link: watch::Sender<Link>,
}

/// Hints that a slow receiver may have waiting.
const HINTS_KEPT: usize = 1024;

impl MemoryMap {
    /// One that holds these documents.
    pub fn holding(documents: impl IntoIterator<Item = (String, serde_json::Value)>) -> Self {
        let entries = documents
            .into_iter()
            .map(|(path, document)| (path, Entry { data: document.to_string().into(), version: 0 }));
        Self {
            documents: Mutex::new(entries.collect()),
            hints: broadcast::Sender::new(HINTS_KEPT),
            link: watch::Sender::new(Link::Up),
        }
    }

    fn hint(&self, path: &str) {
        // Nobody may be listening.
        let _ = self.hints.send(Hint::Document(path.to_owned()));
    }
}

fn apply(documents: &mut BTreeMap<String, Entry>, edit: &Edit) -> Result<(), StoreError> {
    let held = documents.get(edit.path()).map(|entry| entry.version);
    let expected = match edit {
        Edit::Create { .. } => None,
        Edit::Set { version, .. } | Edit::Delete { version, .. } => Some(*version),
    };
    if held != expected {
        return Err(StoreError::Conflict { path: edit.path().to_owned() });
    }
    match edit {
        Edit::Create { path, data } | Edit::Set { path, data, .. } => {
            let version = held.map_or(0, |version| version + 1);
            documents.insert(path.clone(), Entry { data: data.clone(), version });
        }
        Edit::Delete { path, .. } => drop(documents.remove(path)),
    }
    Ok(())
}

#[async_trait]
impl MapStore for MemoryMap {
    async fn get(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.documents.lock().get(path).cloned())
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let documents = self.documents.lock();
        let names = documents.keys().filter_map(|path| path.strip_prefix(&prefix));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    async fn commit(&self, edits: &[Edit]) -> Result<(), StoreError> {
        let mut documents = self.documents.lock();
        let mut changed = documents.clone();
        edits.iter().try_for_each(|edit| apply(&mut changed, edit))?;
        *documents = changed;
        drop(documents);
        edits.iter().for_each(|edit| self.hint(edit.path()));
        Ok(())
    }

    async fn init(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn announce(&self, path: &str, data: Bytes) -> Result<(), StoreError> {
        self.documents.lock().insert(path.to_owned(), Entry { data, version: 0 });
        self.hint(path);
        Ok(())
    }

    async fn withdraw(&self, path: &str) -> Result<(), StoreError> {
        self.documents.lock().remove(path);
        self.hint(path);
        Ok(())
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }
}
