//! How the documents are edited.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Document, read::queue_server};
use crate::model::{Pool, PoolName, QueueInfo, QueueServer, Server, ServerId, ShardId, map::Stage};

impl Document {
    /// Makes or replaces a server.
    pub fn put_server(&mut self, server: &Server) {
        let entry = self.entry(server.id.as_str());
        entry.insert("host".into(), server.host.clone().into());
        entry.insert("port".into(), server.port.to_string().into());
    }

    /// Makes a read-only shard, or replaces the servers of one and leaves its state. The pool is left where it is `None`.
    pub fn put_shard(&mut self, id: &ShardId, servers: &[ServerId], pool: Option<&PoolName>) {
        let is_new = !self.0.contains_key(id.as_str());
        let entry = self.entry(id.as_str());
        if is_new {
            entry.insert("read_only".into(), true.into());
        }
        entry.insert("nodes".into(), servers.iter().map(ServerId::as_str).collect());
        match pool {
            Some(pool) if *pool == PoolName::default() => drop(entry.shift_remove("pool")),
            Some(pool) => drop(entry.insert("pool".into(), pool.as_str().into())),
            None => {}
        }
    }

    /// Replaces the servers of a shard that exists, and says which are on their way in or out.
    pub fn set_members(&mut self, id: &ShardId, servers: &[ServerId], stages: &BTreeMap<ServerId, Stage>) {
        let entry = self.entry(id.as_str());
        entry.insert("nodes".into(), servers.iter().map(ServerId::as_str).collect());
        if stages.is_empty() {
            entry.shift_remove("stages");
        } else {
            let stages = stages.iter().map(|(server, stage)| (server.to_string(), stage.to_string().into()));
            entry.insert("stages".into(), Value::Object(stages.collect()));
        }
    }

    /// Takes a server out.
    pub fn remove_server(&mut self, id: &ServerId) {
        self.0.shift_remove(id.as_str());
    }

    /// Makes a shard that exists read-only or writable.
    pub fn set_read_only(&mut self, id: &ShardId, read_only: bool) {
        let entry = self.entry(id.as_str());
        if !read_only {
            entry.shift_remove("read_only");
        } else if !entry.contains_key("read_only") {
            // Where the original puts it: before the nodes.
            entry.shift_insert(0, "read_only".into(), true.into());
        } else {
            entry.insert("read_only".into(), true.into());
        }
    }

    /// Sets how much the shard of a size document may hold.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.0.insert("capacity".into(), capacity.into());
    }

    /// Sets how much the shard of a size document holds.
    pub fn set_used(&mut self, used: u64) {
        self.0.insert("current".into(), used.into());
    }

    /// Replaces the queue. What else stood in the entry of a server that stays is kept.
    pub fn set_queue(&mut self, queue: &QueueInfo) {
        let old = self.0.get("servers").and_then(Value::as_array).cloned().unwrap_or_default();
        let servers = queue.servers.iter().map(|server| {
            let same = old.iter().find(|entry| queue_server(entry).as_ref() == Ok(server));
            same.cloned().unwrap_or_else(|| encode_queue_server(server))
        });
        self.0.insert("key".into(), queue.key.clone().into());
        let servers = servers.collect();
        self.0.insert("servers".into(), servers);
    }

    /// Makes or replaces the settings of a pool. Unknown fields of it are kept.
    pub fn put_pool(&mut self, name: &PoolName, pool: &Pool) {
        let entry = self.entry(name.as_str());
        entry.insert("write".into(), pool.write.to_string().into());
        entry.insert("hosts".into(), pool.hosts.iter().map(String::as_str).collect());
    }

    /// An object inside this one, made where missing.
    pub(in crate::cluster) fn entry(&mut self, name: &str) -> &mut Map<String, Value> {
        let entry = self.0.entry(name).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        entry.as_object_mut().expect("it was made an object above")
    }
}

fn encode_queue_server(server: &QueueServer) -> Value {
    let mut entry = json!({"host": server.host, "port": server.port.to_string()});
    if server.tls {
        entry["tls"] = true.into();
    }
    entry
}
