//! Keeps the file as the map is.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{NginxConfig, RenderError, file::Written, report, run_command, write_if_changed};
use crate::{
    admin::{context::Context, report::Form},
    daemon::Shutdown,
};

/// After a first change, others are waited for: who adds a shard adds servers and enables it a moment later.
const SETTLE: Duration = Duration::from_millis(500);

/// A file that could not be written, or a command that failed, is tried again after this, also if nothing changes: nginx
/// may just have been restarting.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// A command that follows the map.
pub struct Watch<'a> {
    /// What to render and to run.
    pub command: &'a NginxConfig,
    /// The file.
    pub output: &'a Path,
    /// How changes are reported.
    pub form: Form,
}

impl Watch<'_> {
    /// Follows the map until the shutdown begins. What fails is reported, and the last good file stays.
    pub async fn run(&self, context: &Context, shutdown: &Shutdown) -> anyhow::Result<()> {
        let view = context.view(shutdown).await?;
        let mut changes = view.changes();
        let mut state = State::default();
        while !shutdown.begun() {
            let map = changes.borrow_and_update().clone();
            state.see(self.command.render(&map));
            if state.is_due() {
                let done = self.act(&mut state).await;
                state.retry_at = done.is_err().then(|| Instant::now() + RETRY_AFTER);
                if let Err(error) = done {
                    tracing::error!("{error:#}; trying again in {} s", RETRY_AFTER.as_secs());
                }
            }
            tokio::select! {
                Ok(()) = changes.changed() => drop(shutdown.sleep(SETTLE).await),
                () = until(state.retry_at) => {}
                () = shutdown.wait() => {}
            }
        }
        Ok(())
    }

    /// Writes the file and runs the command, each if it is still to be done.
    async fn act(&self, state: &mut State) -> anyhow::Result<()> {
        if let (true, Some(Ok(text))) = (state.to_write, &state.rendered) {
            let written = write_if_changed(self.output, text).await?;
            self.form.print(&report(self.output, written), &mut std::io::stdout())?;
            state.to_write = false;
            state.to_run |= written == Written::Changed;
        }
        if let (true, Some(command)) = (state.to_run, &self.command.exec) {
            run_command(command).await?;
        }
        state.to_run = false;
        Ok(())
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What was done so far. Maps change every second, as shards fill; what is rendered from them seldom does.
#[derive(Default)]
struct State {
    /// From the last map.
    rendered: Option<Result<String, RenderError>>,
    /// The file may hold another text.
    to_write: bool,
    /// The file changed, and the command did not succeed since.
    to_run: bool,
    /// Something failed and is not tried again before.
    retry_at: Option<Instant>,
}

impl State {
    /// Takes what the map says now. A map from which nothing can be rendered is reported once.
    fn see(&mut self, rendered: Result<String, RenderError>) {
        if self.rendered.as_ref() == Some(&rendered) {
            return;
        }
        match &rendered {
            Ok(_) => {
                self.to_write = true;
                self.retry_at = None;
            }
            Err(error) => {
                self.to_write = false;
                tracing::error!("{error}; the file stays as it is");
            }
        }
        self.rendered = Some(rendered);
    }

    fn is_due(&self) -> bool {
        (self.to_write || self.to_run) && self.retry_at.is_none_or(|moment| moment <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_text_is_written_and_failures_wait() {
        let mut state = State::default();
        state.see(Ok("one".into()));
        assert!(state.is_due());
        state.retry_at = Some(Instant::now() + RETRY_AFTER);
        state.see(Ok("one".into()));
        assert!(!state.is_due(), "not before its time");
        state.see(Ok("two".into()));
        assert!(state.is_due(), "a new text is tried at once");
        state.to_write = false;
        state.see(Ok("two".into()));
        assert!(!state.is_due());
        state.see(Err(RenderError::BadListen("x".into())));
        assert!(!state.is_due(), "the last good file stays");
    }
}
