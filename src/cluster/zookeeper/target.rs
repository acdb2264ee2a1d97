//! Whom to connect to, and how.

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use zookeeper_client::{Acl, AuthId, Client, Error, Permission, TlsOptions};

use crate::cluster::{DEFAULT_SESSION_TIMEOUT, StoreError, StoreOptions};

/// What to write before a server that speaks TLS.
const TLS_SCHEME: &str = "tcp+tls://";

/// The client doubles its pause after each round over its list of servers, without an end; so it would find a server that
/// is back only after as long again as it was away. Within a round it pauses 50 ms times the place in the list. A list of
/// this many, made by repeating it, keeps pauses below a second or two for as long as sessions live.
const LISTED_SERVERS: usize = 20;

/// A server that does not answer for this long is left for the next one, in the same session. One that is just starting can
/// swallow a connection so. (For short sessions the client takes two fifths of theirs.)
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);

/// Checked once; each session is connected from it.
pub(super) struct Target {
    /// For messages, as it was asked for.
    servers: String,
    /// For the client: with the scheme where it is TLS, and repeated.
    list: String,
    digest_auth: Option<SecretString>,
    tls: Option<TlsOptions>,
    session_timeout: Duration,
}

impl Target {
    /// Checks what was asked for.
    pub(super) fn new(servers: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let tls = tls_options(options)?;
        let scheme = if tls.is_some() { TLS_SCHEME } else { "" };
        let one = servers.split(',').map(|server| {
            let server = server.trim();
            check_server(server).map(|()| format!("{scheme}{server}"))
        });
        let one = one.collect::<Result<Vec<_>, _>>()?;
        let digest_auth = options.digest_auth.clone();
        if digest_auth.as_ref().is_some_and(|auth| !auth.expose_secret().contains(':')) {
            return Err(StoreError::Invalid("ZooKeeper's credentials must be written user:password".into()));
        }
        Ok(Self {
            servers: servers.to_owned(),
            list: vec![one.join(","); LISTED_SERVERS.div_ceil(one.len())].join(","),
            digest_auth,
            tls,
            session_timeout: options.session_timeout.unwrap_or(DEFAULT_SESSION_TIMEOUT),
        })
    }

    /// Tries each server once, for a new session.
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        let mut connector = Client::connector()
            .with_session_timeout(self.session_timeout)
            .with_connection_timeout(CONNECTION_TIMEOUT)
            .with_fail_eagerly();
        if let Some(auth) = &self.digest_auth {
            connector = connector.with_auth("digest", auth.expose_secret().as_bytes());
        }
        if let Some(tls) = &self.tls {
            connector = connector.with_tls(tls.clone());
        }
        connector.connect(&self.list).await
    }

    /// With credentials: all rights for whoever has them, reading for everybody. Without: all rights for everybody.
    pub(super) fn acls(&self) -> Vec<Acl> {
        if self.digest_auth.is_none() {
            return vec![Acl::new(Permission::ALL, AuthId::anyone())];
        }
        vec![Acl::new(Permission::ALL, AuthId::authed()), Acl::new(Permission::READ, AuthId::anyone())]
    }

    /// As it was asked for, for messages.
    pub(super) fn servers(&self) -> &str {
        &self.servers
    }
}

fn check_server(server: &str) -> Result<(), StoreError> {
    let (host, port) = match server.rsplit_once(':') {
        // The colon of an IPv6 address in brackets, without a port.
        Some(_) if server.ends_with(']') => (server, None),
        Some((host, port)) => (host, Some(port)),
        None => (server, None),
    };
    let bad_host =
        host.is_empty() || host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    let bad_colon = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let bad_port = port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0));
    if bad_host || bad_colon || bad_port {
        return Err(StoreError::Invalid(format!(
            "{server:?} is no ZooKeeper server: write host:port,host:port (the root is an argument of its own)"
        )));
    }
    Ok(())
}

fn tls_options(options: &StoreOptions) -> Result<Option<TlsOptions>, StoreError> {
    let Some(ca) = &options.tls_ca else {
        return match options.tls_identity {
            Some(_) => Err(StoreError::Invalid(
                "a TLS identity for ZooKeeper needs the certificates to trust, too".into(),
            )),
            None => Ok(None),
        };
    };
    let refused = |path: &Path, error: Error| {
        StoreError::Invalid(format!("{} cannot be used for TLS: {error}", path.display()))
    };
    let mut tls = TlsOptions::new().with_pem_ca(&read(ca)?).map_err(|error| refused(ca, error))?;
    if let Some(identity) = &options.tls_identity {
        let pem = read(identity)?;
        tls = tls.with_pem_identity(&pem, &pem).map_err(|error| refused(identity, error))?;
    }
    Ok(Some(tls))
}

fn read(path: &Path) -> Result<String, StoreError> {
    std::fs::read_to_string(path)
        .map_err(|error| StoreError::Invalid(format!("{} cannot be read: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_checked() {
        for good in ["a:2181", "a", "a:1,b:2, c:3", "[::1]:2181", "[::1]", "10.0.0.1:65535"] {
            assert!(Target::new(good, &StoreOptions::default()).is_ok(), "{good}");
        }
        for bad in ["", "a:1,", ":1", "a:0", "a:x", "a:65536", "a:1/root", "http://a:1", "::1:2181", "a b:1"]
        {
            let refused = Target::new(bad, &StoreOptions::default()).err();
            assert!(matches!(refused, Some(StoreError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn credentials_and_files_are_checked() {
        let options = StoreOptions { digest_auth: Some("user".into()), ..StoreOptions::default() };
        assert!(Target::new("a:1", &options).is_err());
        let options = StoreOptions { tls_identity: Some("id.pem".into()), ..StoreOptions::default() };
        assert!(Target::new("a:1", &options).is_err());
        let options = StoreOptions { tls_ca: Some("/nowhere/ca.pem".into()), ..StoreOptions::default() };
        let refused = Target::new("a:1", &options).err().unwrap().to_string();
        assert!(refused.contains("/nowhere/ca.pem"), "{refused}");
    }
}
