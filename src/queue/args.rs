//! How every program is told to reach the queue: flags, environment variables, and the one secret, which is never a flag.
//! Where the queue is stands in the map.

use std::{path::PathBuf, time::Duration};

use super::QueueOptions;
use crate::{
    daemon::secret::{self, SecretError},
    embedded,
};

/// The password of the Redis servers; `BACKPACK_REDIS_PASSWORD_FILE` names a file that holds it.
const PASSWORD_ENV: &str = "BACKPACK_REDIS_PASSWORD";

/// The embedded queue's folder inside the data folder.
const EMBEDDED_FOLDER: &str = "queue";

/// What `--help` puts over these flags; on each of them, because on all of them it would also stand over those that a program
/// adds below.
const HEADING: &str = "Redis (password from $BACKPACK_REDIS_PASSWORD or $BACKPACK_REDIS_PASSWORD_FILE)";

/// Flags about Redis, flattened into every program's. The password is taken from the environment variable
/// `BACKPACK_REDIS_PASSWORD` or from the file named by `BACKPACK_REDIS_PASSWORD_FILE`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct QueueArgs {
    /// User of Redis' access lists, beside the password
    #[arg(long, env = "BACKPACK_REDIS_USERNAME", value_name = "NAME", help_heading = HEADING)]
    pub redis_username: Option<String>,
    /// Trust the certificates in this PEM file for Redis servers with TLS, instead of the system's
    #[arg(long, env = "BACKPACK_REDIS_TLS_CA", value_name = "FILE", help_heading = HEADING)]
    pub redis_tls_ca: Option<PathBuf>,
    /// Of two Redis servers that have a task, let the second give it out so many seconds later [default: 60]
    #[arg(
        long,
        env = "BACKPACK_QUEUE_BACKUP_DELAY",
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub queue_backup_delay: Option<u64>,
}

impl QueueArgs {
    /// What these flags and the environment say. Fails where the file with the secret cannot be read.
    pub fn options(&self) -> Result<QueueOptions, SecretError> {
        let default = QueueOptions::default();
        Ok(QueueOptions {
            username: self.redis_username.clone(),
            password: secret::from_env(PASSWORD_ENV)?,
            tls_ca: self.redis_tls_ca.clone(),
            backup_delay: self.queue_backup_delay.map_or(default.backup_delay, Duration::from_secs),
            ..default
        })
    }

    /// The folder of the embedded queue, beside the embedded map: `<dir>/queue` where the map store is `embedded:<dir>`;
    /// `None` where it is ZooKeeper.
    pub fn embedded_dir(&self, zk_servers: &str) -> Option<PathBuf> {
        embedded::data_dir(zk_servers).map(|dir| dir.join(EMBEDDED_FOLDER))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        queue: QueueArgs,
    }

    #[test]
    fn flags_become_options() {
        let args = ["program", "--redis-username", "backpack", "--redis-tls-ca", "/ca.pem"];
        let options = Program::try_parse_from(args).unwrap().queue.options().unwrap();
        assert_eq!(options.username.as_deref(), Some("backpack"));
        assert_eq!(options.tls_ca, Some("/ca.pem".into()));
        assert_eq!(options.backup_delay, QueueOptions::default().backup_delay);
        let args = ["program", "--queue-backup-delay", "5"];
        let options = Program::try_parse_from(args).unwrap().queue.options().unwrap();
        assert_eq!(options.backup_delay, Duration::from_secs(5));
    }

    #[test]
    fn the_embedded_queue_lies_beside_the_embedded_map() {
        let args = QueueArgs::default();
        assert_eq!(args.embedded_dir("embedded:/data"), Some("/data/queue".into()));
        assert_eq!(args.embedded_dir("zk1:2181,zk2:2181"), None);
    }
}
