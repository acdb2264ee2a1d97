//! A cluster of two nodes that run, whose map has as many shards and servers as wanted. They are written to the map store by hand, many
//! at a time: a command for each would take hours, for each writes the whole map.

use std::{sync::Arc, time::Duration};

use backpack::cluster::{
    self, Edit, MapStore, StoreOptions, edit,
    format::{SERVERS, SHARDS},
};
use serde_json::{Map, Value, json};

use crate::support::{
    cluster::{Cluster, ClusterBuilder, ROOT, stats},
    process::Process,
    shard_server::Kind,
    wait::wait_until,
};

/// Shards that are made by one change of the map.
const AT_ONCE: usize = 500;

/// A coordinator that takes longer to see a change never does.
const SEEN_WITHIN: Duration = Duration::from_secs(120);

/// A shard, and the pool that nothing else is in, for changes that concern nobody.
pub const EDITED: &str = "edited";

/// Such a cluster. Its shards hold everything on both nodes; shards of other servers take no uploads.
pub struct Grown {
    /// What runs of it.
    pub cluster: Cluster,
    store: Arc<dyn MapStore>,
    runtime: tokio::runtime::Runtime,
    shards: usize,
    servers: usize,
}

impl Grown {
    /// With one shard that takes uploads, and [`EDITED`].
    pub fn start() -> Self {
        // Tasks pile up, since nobody does them; that would change how they are kept.
        let cluster =
            ClusterBuilder::new().usual_times().env("BACKPACK_COORDINATOR_MAX_BACKLOG", "100000000");
        let cluster = cluster.shard(&[Kind::Node; 2]).replicators(0).start();
        cluster.admin.ok("add-shard", [EDITED, "1,2", "100gb", "--pool", EDITED, "--force"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("make a runtime");
        let inside = runtime.enter();
        let store = cluster::connect(&cluster.zookeeper.addr(), ROOT, &StoreOptions::default());
        let store = store.expect("the address is right");
        drop(inside);
        Self { cluster, store, runtime, shards: 1, servers: 2 }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Process {
        self.cluster.coordinators[0].daemon()
    }

    /// Where it listens.
    pub fn addr(&self) -> &str {
        self.cluster.coordinators[0].addr()
    }

    /// How many shards take uploads, but for [`EDITED`].
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Adds shards that take uploads, until there are so many, and waits until the coordinator knows them.
    pub fn grow_shards(&mut self, shards: usize) {
        while self.shards < shards {
            let new = self.shards + 1..=shards.min(self.shards + AT_ONCE);
            self.shards = *new.end();
            self.add_shards(new.map(|id| (id.to_string(), json!({"nodes": ["1", "2"]}))).collect());
        }
        self.wait_seen();
    }

    /// Adds servers until there are so many, two to a shard, which do not run, and waits until the coordinator knows them.
    pub fn grow_servers(&mut self, servers: usize) {
        let new: Vec<usize> = (self.servers + 1..=servers).collect();
        if new.is_empty() {
            return;
        }
        // Nobody listens there.
        let entry = |id: &usize| (id.to_string(), json!({"host": "127.0.0.1", "port": "1", "note": id}));
        let entries = new.iter().map(entry).collect();
        self.change(SERVERS, entries, Vec::new());
        let shard = |pair: &[usize]| {
            let nodes: Vec<String> = pair.iter().map(usize::to_string).collect();
            (format!("of-{}", pair[0]), json!({"read_only": true, "nodes": nodes}))
        };
        self.add_shards(new.chunks(2).map(shard).collect());
        self.servers = servers;
        self.wait_seen();
    }

    /// Allows uploads into [`EDITED`], or ends them.
    pub fn edit(&self, takes_uploads: bool) {
        let id = EDITED.parse().expect("it is a name");
        let edited = self.runtime.block_on(edit::set_read_only(&*self.store, &id, !takes_uploads));
        edited.expect("change the map");
    }

    fn add_shards(&self, entries: Vec<(String, Value)>) {
        let size = json!({"capacity": 100u64 << 30, "current": 0}).to_string();
        let sizes = entries
            .iter()
            .map(|(id, _)| Edit::Create { path: format!("/shard-size-{id}"), data: size.clone().into() });
        let sizes = sizes.collect();
        self.change(SHARDS, entries, sizes);
    }

    /// Adds entries to a document, and makes these edits with it.
    fn change(&self, path: &str, entries: Vec<(String, Value)>, edits: Vec<Edit>) {
        let change = async {
            let old = self.store.get(path).await?.expect("the document is there");
            let mut document: Map<String, Value> =
                serde_json::from_slice(&old.data).expect("our documents are JSON");
            document.extend(entries);
            let data = Value::Object(document).to_string().into();
            let set = Edit::Set { path: path.to_owned(), data, version: old.version };
            self.store.commit(&[vec![set], edits].concat()).await
        };
        self.runtime.block_on(change).expect("change the map");
    }

    fn wait_seen(&self) {
        let others = self.servers.saturating_sub(2).div_ceil(2);
        wait_until("the coordinator knows all shards", SEEN_WITHIN, || {
            stats(&self.cluster.coordinators[0])["total_shards"] == self.shards + 1 + others
        });
    }
}
