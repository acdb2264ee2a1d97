//! ZooKeeper's documents as they are, read and written by hand: past everything of ours.

use zookeeper_client::{Acls, Client, CreateMode, Error};

/// A session of its own with a ZooKeeper server.
pub struct Znodes {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Znodes {
    /// Connects to `host:port`.
    pub fn connect(addr: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("make a runtime");
        let client = runtime.block_on(Client::connect(addr)).expect("ZooKeeper answers");
        Self { client, runtime }
    }

    /// A document's text; `None` if there is none at that path.
    pub fn get(&self, path: &str) -> Option<String> {
        match self.runtime.block_on(self.client.get_data(path)) {
            Ok((data, _)) => Some(String::from_utf8(data).expect("our documents are text")),
            Err(Error::NoNode) => None,
            Err(error) => panic!("read {path}: {error}"),
        }
    }

    /// Makes a document.
    pub fn create(&self, path: &str, text: &str) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let created = self.runtime.block_on(self.client.create(path, text.as_bytes(), &options));
        created.unwrap_or_else(|error| panic!("create {path}: {error}"));
    }

    /// Replaces a document, whatever stood there.
    pub fn set(&self, path: &str, text: &str) {
        let set = self.runtime.block_on(self.client.set_data(path, text.as_bytes(), None));
        set.unwrap_or_else(|error| panic!("set {path}: {error}"));
    }

    /// The names below a path, sorted.
    pub fn children(&self, path: &str) -> Vec<String> {
        let listed = self.runtime.block_on(self.client.list_children(path));
        let mut names = listed.unwrap_or_else(|error| panic!("list {path}: {error}"));
        names.sort();
        names
    }
}
