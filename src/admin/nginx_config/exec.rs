//! Runs the command that makes nginx read its file again.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::process::Command;

/// A reload takes a second; one that hangs must not keep later ones from happening.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs it with `sh -c`. What it prints goes to our standard error, for our own output may be read by a program.
pub async fn run_command(command: &str) -> anyhow::Result<()> {
    run_within(command, TIMEOUT).await
}

async fn run_within(command: &str, timeout: Duration) -> anyhow::Result<()> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true);
    let status = match tokio::time::timeout(timeout, shell.status()).await {
        Ok(status) => status.with_context(|| format!("run {command:?}"))?,
        Err(_) => bail!("{command:?} did not end within {timeout:?} and was stopped"),
    };
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_name_the_command() {
        assert!(run_command("true").await.is_ok());
        let failed = run_command("exit 3").await.unwrap_err().to_string();
        assert!(failed.contains("exit 3") && failed.contains("status: 3"), "{failed}");
        let hung = run_within("sleep 100", Duration::from_millis(50)).await.unwrap_err().to_string();
        assert!(hung.contains("did not end"), "{hung}");
    }
}
