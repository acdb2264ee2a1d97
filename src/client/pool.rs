//! Connections that are kept for the next upload.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    IDLE, IDLE_PER_SERVER, ServerError, error::root_cause, exchange::Connection, socket::Connector, uri,
};
use crate::model::Server;

/// Connections to all servers.
pub(super) struct Pool {
    connector: Connector,
    /// By authority, those that were used last at the end.
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// None yet. Must be called inside a tokio runtime.
    pub(super) fn new(connector: Connector) -> Arc<Self> {
        let pool = Arc::new(Self { connector, idle: Mutex::default() });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        pool
    }

    /// A kept connection, as far as is known an open one.
    pub(super) async fn take(&self, authority: &str) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle.lock().get_mut(authority)?.pop()?;
            if since.elapsed() < IDLE && connection.is_quiet().await {
                return Some(connection);
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self, server: &Server) -> Result<Connection, ServerError> {
        let stream = self.connector.clone().open(uri(server, "/")?).await;
        stream.map(Connection::new).map_err(|error| ServerError::Unreachable(root_cause(&*error)))
    }

    /// Keeps a connection for the next who asks.
    pub(super) fn give(&self, authority: &str, connection: Connection) {
        let connection = Idle { connection, since: Instant::now() };
        let mut idle = self.idle.lock();
        match idle.get_mut(authority) {
            Some(idle) if idle.len() >= IDLE_PER_SERVER => {}
            Some(idle) => idle.push(connection),
            None => drop(idle.insert(authority.to_owned(), vec![connection])),
        }
    }
}

/// Closes the connections that were idle for too long, as long as there is a pool.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut closed = Vec::new();
        pool.idle.lock().retain(|_, idle| {
            closed.extend(idle.extract_if(.., |idle| idle.since.elapsed() >= IDLE));
            !idle.is_empty()
        });
    }
}
