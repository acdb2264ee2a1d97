//! The connection to one Redis server: made in the background and made again when it breaks, so that no caller pays for
//! trying. While the server is known to be down, calls fail at once.

use std::{sync::OnceLock, time::Duration};

use deadpool_redis::{
    Manager, Pool, Runtime,
    redis::{
        AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
        RedisError, RedisResult, ScriptInvocation, TlsCertificates, aio::MultiplexedConnection, cmd,
    },
};
use secrecy::ExposeSecret;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    daemon::Backoff,
    model::QueueServer,
    queue::{QueueError, QueueOptions},
};

/// How often a server that is down is tried again.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// Connections for operators' calls, whose answers are long: they never stand in front of an upload's push.
const OPERATOR_CONNECTIONS: usize = 2;

/// Requests that wait to be written to the connection; more callers than that wait their turn.
const WRITE_QUEUE: usize = 1024;

/// One server, connected or not.
pub(super) struct Link {
    name: String,
    client: Client,
    operators: Pool,
    connect_timeout: Duration,
    command_timeout: Duration,
    state: watch::Sender<State>,
    keeper: OnceLock<AbortHandle>,
}

#[derive(Clone)]
enum State {
    /// Trying, for the first time or since the connection broke. Callers wait for what comes of it.
    Connecting,
    /// Connected; the number tells this connection from the ones before.
    Up(MultiplexedConnection, u64),
    /// Not reached. Callers fail at once.
    Down(QueueError),
}

/// Why a call failed, and what that says about the connection.
enum Failure {
    /// The connection is fine.
    Refused(QueueError),
    /// It broke. Perhaps the server was restarted, then another one works at once.
    Broken(QueueError),
    /// No answer in time.
    Silent(QueueError),
}

impl Link {
    pub(super) fn new(server: &QueueServer, options: &QueueOptions) -> Result<Self, QueueError> {
        let name = server.to_string();
        let client = client(server, options)?;
        let failed = |error: String| QueueError::Failed(format!("{name}: {error}"));
        let (connect_timeout, command_timeout) = (options.connect_timeout, options.command_timeout);
        let info = client.get_connection_info().clone();
        let manager = Manager::new_with_config(info, connection_config(connect_timeout))
            .map_err(|error| failed(error.to_string()))?;
        let operators = Pool::builder(manager)
            .max_size(OPERATOR_CONNECTIONS)
            .wait_timeout(Some(command_timeout))
            .create_timeout(Some(connect_timeout))
            .recycle_timeout(Some(connect_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let state = watch::Sender::new(State::Connecting);
        let keeper = OnceLock::new();
        Ok(Self { name, client, operators, connect_timeout, command_timeout, state, keeper })
    }

    /// `host:port`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script on the connection that all share.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        let (connection, number) = self.connection().await?;
        match self.run_on(connection, call).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Silent(error)) => {
                self.leave(number, State::Down(error.clone()));
                Err(error)
            }
            Err(Failure::Broken(_)) => {
                self.leave(number, State::Connecting);
                self.run_again(call).await
            }
        }
    }

    /// The second and last try, on a new connection.
    async fn run_again<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        let (connection, number) = self.connection().await?;
        self.run_on(connection, call).await.map_err(|failure| match failure {
            Failure::Refused(error) => error,
            Failure::Broken(error) | Failure::Silent(error) => {
                self.leave(number, State::Down(error.clone()));
                error
            }
        })
    }

    /// Runs an operator's script on a connection of its own.
    pub(super) async fn run_apart<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, QueueError> {
        let (_, number) = self.connection().await?;
        let mut connection = self
            .operators
            .get()
            .await
            .map_err(|error| QueueError::Unavailable(format!("{}: {error}", self.name)))?;
        match timeout(self.command_timeout, call.invoke_async(&mut connection)).await {
            Ok(answer) => answer.map_err(|error| to_error(&self.name, &error)),
            Err(_) => {
                // The late answer must not meet the next caller's question.
                drop(deadpool_redis::Connection::take(connection));
                let error = self.silent();
                self.leave(number, State::Down(error.clone()));
                Err(error)
            }
        }
    }

    async fn run_on<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        match timeout(self.command_timeout, call.invoke_async(&mut connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_unrecoverable_error() => {
                Err(Failure::Broken(to_error(&self.name, &error)))
            }
            Ok(Err(error)) => Err(Failure::Refused(to_error(&self.name, &error))),
            Err(_) => Err(Failure::Silent(self.silent())),
        }
    }

    fn silent(&self) -> QueueError {
        QueueError::Unavailable(format!("{}: no answer within {:?}", self.name, self.command_timeout))
    }

    /// The connection, waiting for one that is being made.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), QueueError> {
        self.keeper.get_or_init(|| {
            let (name, client, state) = (self.name.clone(), self.client.clone(), self.state.clone());
            let keep = keep(name, client, self.connect_timeout, state);
            tokio::spawn(keep).abort_handle()
        });
        let mut states = self.state.subscribe();
        let known = states.wait_for(|state| !matches!(state, State::Connecting));
        let state =
            timeout(self.connect_timeout, known).await.ok().and_then(Result::ok).map(|state| state.clone());
        match state {
            Some(State::Up(connection, number)) => Ok((connection, number)),
            Some(State::Down(error)) => Err(error),
            Some(State::Connecting) | None => {
                Err(QueueError::Unavailable(format!("{}: no connection yet", self.name)))
            }
        }
    }

    /// Gives up connection `number`, unless that has happened already.
    fn leave(&self, number: u64, next: State) {
        self.state.send_if_modified(|state| {
            let ours = matches!(state, State::Up(_, current) if *current == number);
            if ours {
                *state = next;
            }
            ours
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

/// Connects, and connects again whenever somebody left the connection.
async fn keep(name: String, client: Client, connect_timeout: Duration, state: watch::Sender<State>) {
    let (mut number, mut failures) = (0, 0);
    loop {
        match connect(&name, &client, connect_timeout).await {
            Ok(connection) => {
                if number > 0 || failures > 0 {
                    tracing::info!(server = %name, "queue server reached again");
                }
                number += 1;
                failures = 0;
                state.send_replace(State::Up(connection, number));
                // Fails only when nobody can ask any more, and then this task is aborted.
                let _ = state.subscribe().wait_for(|state| !matches!(state, State::Up(..))).await;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(server = %name, %error, "queue server not reached");
                }
                failures += 1;
                state.send_replace(State::Down(error));
                sleep(RECONNECT.jittered(failures)).await;
            }
        }
    }
}

async fn connect(name: &str, client: &Client, within: Duration) -> Result<MultiplexedConnection, QueueError> {
    let connect = async {
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&connection_config(within)).await?;
        // Says whether we may speak to it, and whether it still loads its data.
        cmd("PING").exec_async(&mut connection).await?;
        RedisResult::Ok(connection)
    };
    match timeout(within, connect).await {
        Ok(connected) => connected.map_err(|error| to_error(name, &error)),
        Err(_) => Err(QueueError::Unavailable(format!("{name}: no connection within {within:?}"))),
    }
}

fn connection_config(connect_timeout: Duration) -> AsyncConnectionConfig {
    // Each call has a timeout around it, which covers the waits that the driver's own does not.
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WRITE_QUEUE)
}

fn client(server: &QueueServer, options: &QueueOptions) -> Result<Client, QueueError> {
    let failed = |error: String| QueueError::Failed(format!("{server}: {error}"));
    let host = server.host.clone();
    let addr = if server.tls {
        crate::daemon::install_tls_provider();
        ConnectionAddr::TcpTls { host, port: server.port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, server.port)
    };
    let mut info = addr.into_connection_info().map_err(|error| failed(error.to_string()))?;
    let mut settings = info.redis_settings().clone();
    if let Some(username) = &options.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &options.password {
        settings = settings.set_password(password.expose_secret());
    }
    info = info.set_redis_settings(settings);
    let client = match &options.tls_ca {
        Some(path) if server.tls => {
            let root_cert = std::fs::read(path)
                .map_err(|error| failed(format!("read the certificates in {}: {error}", path.display())))?;
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
        }
        _ => Client::open(info),
    };
    client.map_err(|error| failed(error.to_string()))
}

/// What the server or the driver said, in the seam's words.
fn to_error(name: &str, error: &RedisError) -> QueueError {
    let text = format!("{name}: {error}");
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
            QueueError::Denied(text)
        }
        // States that pass or that another server does not have: loading, a replica, a full memory or disk.
        (ErrorKind::Io, _)
        | (_, Some("LOADING" | "MASTERDOWN" | "READONLY" | "BUSY" | "OOM" | "MISCONF" | "NOREPLICAS")) => {
            QueueError::Unavailable(text)
        }
        _ => QueueError::Failed(text),
    }
}
