//! What the documents mean.

use std::{collections::BTreeMap, fmt::Display, str::FromStr, sync::Arc};

use serde_json::Value;

use super::{Decoded, Document, FormatError};
use crate::model::{
    Pool, PoolName, QueueInfo, QueueServer, Server, ServerId, Shard, ShardId, WriteLevel,
    map::{ShardSize, Stage},
};

/// An entry of `/shards-map`: a shard without its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEntry {
    /// Its servers, none twice.
    pub servers: Vec<ServerId>,
    /// Those of them that are on their way in or out.
    pub stages: BTreeMap<ServerId, Stage>,
    /// Takes no uploads.
    pub read_only: bool,
    /// The pool it belongs to.
    pub pool: PoolName,
}

impl ShardEntry {
    /// The shard with its size.
    pub fn into_shard(self, id: ShardId, size: Option<ShardSize>) -> Shard {
        let Self { servers, stages, read_only, pool } = self;
        Shard { id, servers, stages, read_only, pool, size }
    }
}

impl Document {
    /// `/servers-map`.
    pub fn servers(&self) -> Decoded<BTreeMap<ServerId, Arc<Server>>> {
        self.entries("server", |id: &ServerId, value, _| {
            let (host, port) = host_and_port(value)?;
            Ok(Arc::new(Server { id: id.clone(), host, port }))
        })
    }

    /// `/shards-map`.
    pub fn shards(&self) -> Decoded<BTreeMap<ShardId, ShardEntry>> {
        self.entries("shard", |_: &ShardId, value, complaints| {
            let servers = shard_servers(value, complaints)?;
            let stages = shard_stages(value, &servers, complaints);
            let read_only = shard_read_only(value, complaints);
            let pool = shard_pool(value, complaints);
            // A shard whose pool is misspelt takes no uploads, for they would go where nobody asked for them.
            let read_only = read_only || pool.is_none();
            Ok(ShardEntry { servers, stages, read_only, pool: pool.unwrap_or_default() })
        })
    }

    /// `/shard-size-<id>`. `None` where the numbers make no sense (the original writes `"current":null` after a chunked
    /// upload): then nobody knows how full the shard is.
    pub fn size(&self) -> Decoded<Option<ShardSize>> {
        let (capacity, used) = (self.bytes("capacity"), self.bytes("current"));
        let complaints = [("capacity", &capacity), ("current", &used)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().err().map(|error| format!("{name} {error}")))
            .collect();
        let value = capacity.ok().zip(used.ok()).map(|(capacity, used)| ShardSize { capacity, used });
        Decoded { value, complaints }
    }

    /// `/queue`. An empty list of servers means the embedded queue; a list of which no entry can be read is an error.
    pub fn queue(&self) -> Result<Decoded<QueueInfo>, FormatError> {
        let key = self.0.get("key").and_then(Value::as_str).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| FormatError("it has no \"key\"".into()))?.to_owned();
        let entries = self.0.get("servers").and_then(Value::as_array);
        let entries = entries.ok_or_else(|| FormatError("it has no list of \"servers\"".into()))?;
        let (mut servers, mut complaints) = (Vec::new(), Vec::new());
        for entry in entries {
            match queue_server(entry) {
                Ok(server) => servers.push(server),
                Err(error) => complaints.push(format!("queue server {entry}: {error}")),
            }
        }
        if servers.is_empty() && !entries.is_empty() {
            return Err(FormatError(format!("none of its servers can be read: {}", complaints.join("; "))));
        }
        Ok(Decoded { value: QueueInfo { key, servers }, complaints })
    }

    /// `/pools`. A pool whose write level cannot be read gets `all`: a typing error must not weaken what it promises.
    pub fn pools(&self) -> Decoded<BTreeMap<PoolName, Pool>> {
        self.entries("pool", |_: &PoolName, value, complaints| {
            let fields = value.as_object().ok_or("it is no JSON object")?;
            let write = fields.get("write").map_or(WriteLevel::default(), |level| {
                level.as_str().unwrap_or_default().parse().unwrap_or_else(|_| {
                    complaints
                        .push(format!("write is {level}, which is not one, quorum or all: all is used"));
                    WriteLevel::All
                })
            });
            let hosts = fields.get("hosts").map_or(Vec::new(), |hosts| {
                serde_json::from_value(hosts.clone()).unwrap_or_else(|_| {
                    complaints.push(format!("hosts is {hosts}, not a list of texts"));
                    Vec::new()
                })
            });
            Ok(Pool { write, hosts })
        })
    }

    /// A field that counts bytes. Fractions are cut: the original writes them for capacities like `1.1gb`.
    pub(in crate::cluster) fn bytes(&self, name: &str) -> Result<u64, String> {
        /// Up to here a float names a whole number exactly; far more than a shard ever holds.
        const MAX_EXACT: f64 = (1u64 << 53) as f64;
        let value = self.0.get(name).unwrap_or(&Value::Null);
        let cut = value.as_f64().filter(|n| (0.0..=MAX_EXACT).contains(n)).map(|n| n as u64);
        value.as_u64().or(cut).ok_or_else(|| format!("is {value}, not a number of bytes"))
    }

    /// A field as it stands there.
    pub(in crate::cluster) fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Reads each entry; `read` gets its id and value, and may complain without giving the entry up.
    fn entries<K, V>(
        &self,
        kind: &str,
        read: impl Fn(&K, &Value, &mut Vec<String>) -> Result<V, String>,
    ) -> Decoded<BTreeMap<K, V>>
    where
        K: Ord + FromStr<Err: Display>,
    {
        let (mut entries, mut complaints) = (BTreeMap::new(), Vec::new());
        for (name, value) in &self.0 {
            let mut own = Vec::new();
            match parse::<K>(name).and_then(|id| Ok((read(&id, value, &mut own)?, id))) {
                Ok((entry, id)) => drop(entries.insert(id, entry)),
                Err(error) => own.push(error),
            }
            complaints.extend(own.into_iter().map(|complaint| format!("{kind} {name:?}: {complaint}")));
        }
        Decoded { value: entries, complaints }
    }
}

fn shard_servers(value: &Value, complaints: &mut Vec<String>) -> Result<Vec<ServerId>, String> {
    let nodes = value.get("nodes").and_then(Value::as_array).ok_or("it has no list of nodes")?;
    let mut servers = Vec::with_capacity(nodes.len());
    for node in nodes {
        match text(node).ok_or_else(|| "it is no text".to_owned()).and_then(|id| parse::<ServerId>(&id)) {
            Ok(id) if servers.contains(&id) => complaints.push(format!("server {id} stands there twice")),
            Ok(id) => servers.push(id),
            Err(error) => complaints.push(format!("its server {node}: {error}")),
        }
    }
    if servers.is_empty() { Err("it has no server".to_owned()) } else { Ok(servers) }
}

/// A stage that cannot be read is taken for `joining`: what a server may lack is not asked of it.
fn shard_stages(
    value: &Value,
    servers: &[ServerId],
    complaints: &mut Vec<String>,
) -> BTreeMap<ServerId, Stage> {
    let mut stages = BTreeMap::new();
    for (name, stage) in value.get("stages").and_then(Value::as_object).into_iter().flatten() {
        let Some(server) = servers.iter().find(|server| server.as_str() == name) else {
            complaints.push(format!("it has a stage for {name:?}, which is none of its servers"));
            continue;
        };
        let known = serde_json::from_value(stage.clone()).unwrap_or_else(|_| {
            complaints.push(format!("the stage of its server {name} is {stage} and taken for joining"));
            Stage::Joining
        });
        stages.insert(server.clone(), known);
    }
    // A shard that nobody reads would serve no one.
    if servers.iter().all(|server| stages.contains_key(server)) && !stages.is_empty() {
        complaints.push("all its servers are on their way in or out, so none is taken to be".to_owned());
        stages.clear();
    }
    stages
}

fn shard_read_only(value: &Value, complaints: &mut Vec<String>) -> bool {
    match value.get("read_only") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => {
            complaints.push(format!("read_only is {other} and taken for true"));
            true
        }
    }
}

fn shard_pool(value: &Value, complaints: &mut Vec<String>) -> Option<PoolName> {
    let Some(name) = value.get("pool").filter(|name| !name.is_null()) else {
        return Some(PoolName::default());
    };
    let pool = name.as_str().and_then(|name| name.parse().ok());
    if pool.is_none() {
        complaints.push(format!("its pool {name} is no name: it takes no uploads"));
    }
    pool
}

fn host_and_port(value: &Value) -> Result<(String, u16), String> {
    let field = |name| value.get(name).unwrap_or(&Value::Null);
    let host = field("host").as_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let strange = |c: char| c.is_control() || c.is_whitespace() || "/?#@[]\"<>\\".contains(c);
    if host.is_empty() || host.contains(strange) {
        return Err(format!("{} is no host name", field("host")));
    }
    let port = text(field("port")).and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    Ok((host.to_owned(), port.ok_or_else(|| format!("{} is no port", field("port")))?))
}

/// One entry of the queue's servers.
pub(super) fn queue_server(value: &Value) -> Result<QueueServer, String> {
    let (host, port) = host_and_port(value)?;
    let tls = match value.get("tls") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => return Err(format!("tls is {other}, not true or false")),
    };
    Ok(QueueServer { host, port, tls })
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A text, also where it was written as a number: ports, and ids in `[1, 4]`.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
