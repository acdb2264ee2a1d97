//! Initialisation, the queue, pools.

use super::{Decision, Document, EditError, Outcome, Read, change};
use crate::{
    cluster::{
        MapStore,
        format::{POOLS, QUEUE, SERVERS, SHARDS},
    },
    model::{Pool, PoolName, QueueInfo, WriteLevel},
};

/// Whether [`init`] made a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It did.
    New,
    /// It was there and was left alone.
    Existed,
}

/// What [`init`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitReport {
    /// `/servers-map`.
    pub servers_map: Made,
    /// `/shards-map`.
    pub shards_map: Made,
    /// `/queue`.
    pub queue: Made,
}

/// Makes the root with its parents, empty maps, and the queue, each where it is missing.
pub async fn init(store: &dyn MapStore, queue: &QueueInfo) -> Result<InitReport, EditError> {
    store.init().await?;
    let made = |read: &Read| if read.exists() { Made::Existed } else { Made::New };
    let decide = |read: &[Read; 3]| {
        let edits = read.iter().filter(|document| !document.exists()).map(|missing| {
            let mut document = missing.document.clone();
            if missing.path == QUEUE {
                document.set_queue(queue);
            }
            missing.write(&document)
        });
        Ok(Decision { edits: edits.collect(), result: read.each_ref().map(made) })
    };
    let ([servers_map, shards_map, queue], _) = change(store, [SERVERS, SHARDS, QUEUE], decide).await?;
    Ok(InitReport { servers_map, shards_map, queue })
}

/// Says where the tasks are kept from now on.
pub async fn set_queue(store: &dyn MapStore, queue: &QueueInfo) -> Result<Outcome, EditError> {
    let decide = |[read]: &[Read; 1]| {
        let mut document = read.document.clone();
        document.set_queue(queue);
        Ok(if_changed(read, document, ()))
    };
    Ok(change(store, [QUEUE], decide).await?.1)
}

/// What is to change about a pool; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolChange {
    /// The level of uploads that ask for none.
    pub write: Option<WriteLevel>,
    /// All values of `Host` (without port) that choose the pool. None of them may choose another one.
    pub hosts: Option<Vec<String>>,
}

/// Changes the settings of one pool, which need not have any yet. Its settings afterwards.
pub async fn set_pool(
    store: &dyn MapStore,
    name: &PoolName,
    wanted: &PoolChange,
) -> Result<(Pool, Outcome), EditError> {
    let decide = |[read]: &[Read; 1]| {
        let mut pools = read.document.pools().value;
        let mut pool = pools.remove(name).unwrap_or_default();
        for host in wanted.hosts.iter().flatten() {
            let has = |other: &Pool| other.hosts.iter().any(|taken| taken.eq_ignore_ascii_case(host));
            if let Some((other, _)) = pools.iter().find(|(_, other)| has(other)) {
                return Err(EditError::HostTaken { host: host.clone(), pool: other.clone() });
            }
        }
        pool.write = wanted.write.unwrap_or(pool.write);
        pool.hosts = wanted.hosts.clone().unwrap_or(pool.hosts);
        let mut document = read.document.clone();
        document.put_pool(name, &pool);
        Ok(if_changed(read, document, pool))
    };
    change(store, [POOLS], decide).await
}

fn if_changed<T>(read: &Read, document: Document, result: T) -> Decision<T> {
    let edit = (document != read.document).then(|| read.write(&document));
    Decision { edits: edit.into_iter().collect(), result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{StoreOptions, connect};

    #[tokio::test]
    async fn a_pool_is_changed_in_part_and_a_host_chooses_one_pool() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("embedded:{}", dir.path().display());
        let store = connect(&address, "/backpack", &StoreOptions::default()).unwrap();
        store.init().await.unwrap();
        let (safe, fast) = ("safe".parse().unwrap(), "fast".parse().unwrap());
        let hosts = Some(vec!["safe.example.org".to_owned()]);
        let change = PoolChange { write: Some(WriteLevel::All), hosts: hosts.clone() };
        set_pool(&*store, &safe, &change).await.unwrap();
        let change = PoolChange { write: Some(WriteLevel::Quorum), hosts: None };
        let (pool, outcome) = set_pool(&*store, &safe, &change).await.unwrap();
        assert_eq!(pool, Pool { write: WriteLevel::Quorum, hosts: hosts.clone().unwrap() });
        assert_eq!(outcome, Outcome::Changed);
        assert_eq!(set_pool(&*store, &safe, &change).await.unwrap().1, Outcome::Unchanged);
        let taken = set_pool(&*store, &fast, &PoolChange { write: None, hosts }).await.unwrap_err();
        assert!(taken.to_string().contains("set-pool safe"), "{taken}");
    }
}
