//! How every program is told to reach the map store: flags, environment variables, and the one secret, which is never a
//! flag.

use std::{path::PathBuf, time::Duration};

use super::StoreOptions;
use crate::daemon::secret::{self, SecretError};

/// `user:password` for ZooKeeper's digest scheme; `BACKPACK_ZK_AUTH_FILE` names a file that holds it.
const AUTH_ENV: &str = "BACKPACK_ZK_AUTH";

/// What `--help` puts over these flags; on each of them, because on all of them it would also stand over those that a program
/// adds below.
const HEADING: &str = "ZooKeeper (user:password from $BACKPACK_ZK_AUTH or $BACKPACK_ZK_AUTH_FILE)";

/// Flags about ZooKeeper, flattened into every program's. Where access needs a user, `user:password` is taken from the
/// environment variable `BACKPACK_ZK_AUTH` or from the file named by `BACKPACK_ZK_AUTH_FILE`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct StoreArgs {
    /// Speak TLS to ZooKeeper and trust the certificates in this PEM file
    #[arg(long, env = "BACKPACK_ZK_TLS_CA", value_name = "FILE", help_heading = HEADING)]
    pub zk_tls_ca: Option<PathBuf>,
    /// PEM file with our certificate and key, for a ZooKeeper that asks for one
    #[arg(long, env = "BACKPACK_ZK_TLS_IDENTITY", value_name = "FILE", help_heading = HEADING, requires = "zk_tls_ca")]
    pub zk_tls_identity: Option<PathBuf>,
    /// Ask ZooKeeper for a session that ends after so many seconds without contact [default: 10]
    #[arg(
        long,
        env = "BACKPACK_ZK_SESSION_TIMEOUT",
        value_name = "SECONDS",
        help_heading = HEADING,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub zk_session_timeout: Option<u64>,
}

impl StoreArgs {
    /// What these flags and the environment say. Fails where the file with the secret cannot be read.
    pub fn options(&self) -> Result<StoreOptions, SecretError> {
        Ok(StoreOptions {
            digest_auth: secret::from_env(AUTH_ENV)?,
            tls_ca: self.zk_tls_ca.clone(),
            tls_identity: self.zk_tls_identity.clone(),
            session_timeout: self.zk_session_timeout.map(Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn parse(args: &[&str]) -> Result<StoreArgs, clap::Error> {
        Program::try_parse_from([&["program"], args].concat()).map(|program| program.store)
    }

    #[test]
    fn flags_become_options() {
        let options =
            parse(&["--zk-tls-ca", "/ca.pem", "--zk-session-timeout", "20"]).unwrap().options().unwrap();
        assert_eq!(options.tls_ca, Some("/ca.pem".into()));
        assert_eq!(options.session_timeout, Some(Duration::from_secs(20)));
        assert_eq!(parse(&[]).unwrap(), StoreArgs::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse(&["--zk-session-timeout", "0"]).is_err());
        assert!(parse(&["--zk-tls-identity", "/me.pem"]).is_err(), "an identity needs TLS");
    }
}
