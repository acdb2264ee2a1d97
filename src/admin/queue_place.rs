//! Where the queue is to be, as `coordinator-init` and `set-queue` are told.

use std::str::FromStr;

use super::{
    address::{self, AddressError},
    misuse::Misuse,
};
use crate::{
    embedded,
    model::{QueueInfo, QueueServer},
};

/// The last two arguments of both commands.
#[derive(Debug, Clone, clap::Args)]
pub struct QueuePlace {
    /// Prefix of the queue's keys in Redis
    #[arg(value_name = "QUEUE_KEY", value_parser = key)]
    key: String,
    /// Redis servers as host:port,host:port (rediss://host:port for TLS); or 'embedded' beside an embedded map
    #[arg(value_name = "REDIS_HOST:PORT,...")]
    servers: Servers,
}

impl QueuePlace {
    /// As it is to stand in the map. The embedded queue lies in the data folder, so there has to be one.
    pub fn info(&self, zk_servers: &str) -> Result<QueueInfo, Misuse> {
        if self.servers.0.is_empty() && embedded::data_dir(zk_servers).is_none() {
            return Err(Misuse(
                "the embedded queue goes with an embedded map only: name Redis servers as host:port,host:port".into(),
            ));
        }
        Ok(QueueInfo { key: self.key.clone(), servers: self.servers.0.clone() })
    }
}

/// A queue in words.
pub fn describe(queue: &QueueInfo) -> String {
    if queue.servers.is_empty() {
        return format!("{} in the data folder", queue.key);
    }
    let servers: Vec<String> = queue.servers.iter().map(QueueServer::to_string).collect();
    format!("{} on {}", queue.key, servers.join(", "))
}

/// A list of Redis servers, none twice; empty for the embedded queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Servers(Vec<QueueServer>);

impl FromStr for Servers {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "embedded" {
            return Ok(Self(Vec::new()));
        }
        let mut servers: Vec<QueueServer> = Vec::new();
        for part in text.split(',') {
            let server = address::redis_server(part.trim())?;
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        Ok(Self(servers))
    }
}

/// The key stands at the front of every key in Redis, and in messages.
fn key(text: &str) -> Result<String, String> {
    let strange = |c: char| c.is_control() || c.is_whitespace();
    if text.is_empty() || text.contains(strange) {
        return Err("a queue's key is a word, for example backpack-queue".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(servers: &str) -> QueuePlace {
        QueuePlace { key: "q".into(), servers: servers.parse().unwrap() }
    }

    #[test]
    fn servers_are_listed_once_each() {
        let info = place("one:1, two,one:1,rediss://one:1").info("zk:2181").unwrap();
        assert_eq!(describe(&info), "q on one:1, two:6379, rediss://one:1");
        assert!("one:1,".parse::<Servers>().is_err());
        assert!(key("a b").is_err() && key("").is_err() && key("backpack-queue").is_ok());
    }

    #[test]
    fn the_embedded_queue_needs_a_data_folder() {
        assert_eq!(describe(&place("embedded").info("embedded:/data").unwrap()), "q in the data folder");
        assert!(place("embedded").info("zk:2181").unwrap_err().to_string().contains("host:port"));
    }
}
