//! `set-pool`: how the uploads of a pool are written, and which hosts choose it.

use serde_json::json;

use super::{
    context::{ClusterArgs, Context},
    misuse::Misuse,
    report::Report,
};
use crate::{
    cluster::edit::{self, Outcome, PoolChange},
    model::{Pool, PoolName, WriteLevel},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backpack-admin set-pool zk1:2181 /backpack photos --write quorum --host photos.example.org"
)]
pub struct SetPool {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the pool
    #[arg(value_name = "NAME")]
    name: PoolName,
    /// How many durable copies an upload waits for: one, quorum or all
    #[arg(long, env = "BACKPACK_POOL_WRITE", value_name = "LEVEL")]
    write: Option<WriteLevel>,
    /// Uploads with this Host (without port) go to the pool; give it again for more. Replaces those it had
    #[arg(
        long,
        env = "BACKPACK_POOL_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        value_parser = host
    )]
    host: Vec<String>,
    /// No host chooses the pool any more
    #[arg(
        long,
        env = "BACKPACK_POOL_NO_HOSTS",
        value_parser = clap::builder::BoolishValueParser::new(),
        conflicts_with = "host"
    )]
    no_hosts: bool,
}

impl SetPool {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let change = self.change()?;
        let context = Context::connect(&self.cluster).await?;
        let (pool, outcome) = edit::set_pool(&*context.store, &self.name, &change).await?;
        let map = context.map().await?;
        let has_shards = map.shards.values().any(|shard| shard.pool == self.name);
        Ok(report(&self.name, &pool, outcome, has_shards))
    }

    fn change(&self) -> Result<PoolChange, Misuse> {
        let hosts = (self.no_hosts || !self.host.is_empty()).then(|| self.host.clone());
        if self.write.is_none() && hosts.is_none() {
            return Err(Misuse("say what to set: --write, --host or --no-hosts".into()));
        }
        Ok(PoolChange { write: self.write, hosts })
    }
}

fn report(name: &PoolName, pool: &Pool, outcome: Outcome, has_shards: bool) -> Report {
    let hosts = if pool.hosts.is_empty() { "none".to_owned() } else { pool.hosts.join(", ") };
    let mut more = Vec::new();
    if outcome == Outcome::Unchanged {
        more.push("It was so already: nothing changed.".to_owned());
    }
    if !has_shards {
        more.push(format!("No shard belongs to it yet: give add-shard the flag --pool {name}."));
    }
    let json = json!({"pool": name, "settings": pool, "changed": outcome == Outcome::Changed});
    Report::edit(format!("Pool {name}: write {}, hosts {hosts}", pool.write), more, json)
}

fn host(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("a host is a name without scheme and port, for example photos.example.org".into());
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        set: SetPool,
    }

    fn parse(args: &str) -> Result<SetPool, clap::Error> {
        Program::try_parse_from(format!("program zk /b {args}").split(' ')).map(|program| program.set)
    }

    #[test]
    fn something_must_be_set_and_hosts_are_names() {
        let change = |args: &str| parse(args).unwrap().change();
        let hosts = Some(vec!["a.example.org".to_owned(), "b".to_owned()]);
        let wanted = PoolChange { write: None, hosts };
        assert_eq!(change("photos --host A.example.org --host b"), Ok(wanted));
        let wanted = PoolChange { write: Some(WriteLevel::All), hosts: Some(vec![]) };
        assert_eq!(change("photos --write all --no-hosts"), Ok(wanted));
        assert!(change("photos").is_err());
        for wrong in ["photos --write two", "photos --host a:80", "photos --host a --no-hosts"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn says_the_settings() {
        let pool = Pool { write: WriteLevel::All, hosts: vec!["a".into()] };
        let name = "photos".parse().unwrap();
        assert_eq!(report(&name, &pool, Outcome::Changed, true).text, "Pool photos: write all, hosts a");
        assert!(report(&name, &pool, Outcome::Unchanged, false).text.contains("--pool photos"));
    }
}
