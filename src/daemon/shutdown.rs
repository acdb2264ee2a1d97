//! Being told to stop: a value that is passed to everything that runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long what is in flight may take to finish once a stop was asked for.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// Cloned into every worker; [`Shutdown::begin`] tells them all.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new(DEFAULT_DRAIN)
    }
}

impl Shutdown {
    /// One that gives what is in flight `drain` to finish.
    pub fn new(drain: Duration) -> Self {
        Self { token: CancellationToken::new(), drain }
    }

    /// One that begins at SIGTERM or SIGINT. A second signal ends the process at once.
    pub fn on_signal(drain: Duration) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::new(drain);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let begun = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping: finishing what is in flight");
            begun.begin();
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::warn!("second signal: stopping at once");
            std::process::exit(1);
        });
        Ok(shutdown)
    }

    /// Tells everybody to stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether a stop was asked for.
    pub fn begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until a stop is asked for.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// How long what is in flight may take to finish.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// Sleeps, but not past the stop. `false` if the stop came.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! { () = self.wait() => false, () = tokio::time::sleep(time) => true }
    }

    /// A shutdown that begins with this one and can also be begun alone, for a part that is replaced while the rest
    /// runs on.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), drain: self.drain }
    }
}
