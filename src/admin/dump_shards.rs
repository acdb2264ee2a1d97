//! `dump-shards`: every shard with the addresses of its servers, as JSON.

use serde::Serialize;
use serde_json::{Map, Value, json, ser::PrettyFormatter};

use super::{
    context::{ClusterArgs, Context},
    order::{self, in_order},
    report::Report,
};
use crate::model::ClusterMap;

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin dump-shards zk1:2181 /backpack")]
pub struct DumpShards {
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl DumpShards {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let shards = shards(&*Context::connect(&self.cluster).await?.map().await?);
        Ok(Report::new(indented(&shards), shards))
    }
}

/// As the original has it: ports are texts. A server that is not in the map is `null`.
fn shards(map: &ClusterMap) -> Value {
    let shards = order::shards(map).into_iter().map(|shard| {
        let address = |id| match map.servers.get(id) {
            Some(server) => json!({"host": server.host, "port": server.port.to_string()}),
            None => Value::Null,
        };
        let nodes = in_order(&shard.servers, |id| id.as_str());
        let nodes: Map<_, _> = nodes.into_iter().map(|id| (id.to_string(), address(id))).collect();
        (shard.id.to_string(), json!({"enabled": !shard.read_only, "nodes": nodes}))
    });
    Value::Object(shards.collect())
}

/// JSON indented by 4.
fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).expect("a JSON value is written to memory, which takes everything");
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::map;

    #[test]
    fn it_is_what_the_original_prints() {
        assert_eq!(
            indented(&shards(&map())),
            r#"{
    "1": {
        "enabled": true,
        "nodes": {
            "1": {
                "host": "127.0.0.1",
                "port": "10001"
            },
            "4": {
                "host": "127.0.0.1",
                "port": "10004"
            }
        }
    },
    "2": {
        "enabled": false,
        "nodes": {
            "2": {
                "host": "127.0.0.1",
                "port": "10002"
            },
            "9": null
        }
    },
    "10": {
        "enabled": true,
        "nodes": {
            "3": {
                "host": "::1",
                "port": "10003"
            }
        }
    }
}"#
        );
    }
}
