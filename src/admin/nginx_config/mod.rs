//! `nginx-config`: the read path's configuration for the map as it is, once or for as long as it runs.
//!
//! - [`NginxConfig`]: the command
//! - [`render()`]: the configuration of a map
//! - `file`: the file it writes; `watch`: follows the map; `exec`: runs what makes nginx read the file again

mod exec;
mod file;
mod render;
mod watch;

use std::path::PathBuf;

use serde_json::json;

pub use self::render::{Options, RenderError, render};
use self::{
    exec::run_command,
    file::{Written, write_if_changed},
};
use super::{
    context::{ClusterArgs, Context},
    misuse::Misuse,
    report::{Form, Report},
};
use crate::{
    daemon::{Shutdown, shutdown::DEFAULT_DRAIN},
    model::ClusterMap,
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backpack-admin nginx-config zk1:2181 /backpack --output /etc/nginx/nginx.conf \\\n    \
                        --watch --exec 'nginx -s reload'"
)]
pub struct NginxConfig {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where nginx listens: a port or address:port
    #[arg(long, env = "BACKPACK_NGINX_LISTEN", value_name = "ADDRESS", default_value_t = Options::default().listen)]
    listen: String,
    /// Write it to this file, which is replaced as a whole; without it, it is printed
    #[arg(long, env = "BACKPACK_NGINX_OUTPUT", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep running, and write it again whenever the map changes
    #[arg(long, env = "BACKPACK_NGINX_WATCH", value_parser = clap::builder::BoolishValueParser::new())]
    watch: bool,
    /// Run this with sh -c each time the file has changed
    #[arg(long, env = "BACKPACK_NGINX_EXEC", value_name = "COMMAND")]
    exec: Option<String>,
}

impl NginxConfig {
    /// Does it. With `--watch` each change is printed when it happens, until SIGTERM or SIGINT, and nothing is returned.
    pub async fn run(&self, form: Form) -> anyhow::Result<Option<Report>> {
        let Some(output) = &self.output else { return self.print().await.map(Some) };
        let context = Context::connect(&self.cluster).await?;
        if self.watch {
            let shutdown = Shutdown::on_signal(DEFAULT_DRAIN)?;
            watch::Watch { command: self, output, form }.run(&context, &shutdown).await?;
            return Ok(None);
        }
        let text = self.render(&*context.map().await?)?;
        let written = write_if_changed(output, &text).await?;
        if let (Written::Changed, Some(command)) = (written, &self.exec) {
            run_command(command).await?;
        }
        Ok(Some(report(output, written)))
    }

    async fn print(&self) -> anyhow::Result<Report> {
        if self.watch || self.exec.is_some() {
            return Err(Misuse("--watch and --exec need a file to write: --output FILE".into()).into());
        }
        let context = Context::connect(&self.cluster).await?;
        let text = self.render(&*context.map().await?)?;
        let json = json!({ "config": text });
        Ok(Report::new(text, json))
    }

    fn render(&self, map: &ClusterMap) -> Result<String, RenderError> {
        render(map, &Options { listen: self.listen.clone() })
    }
}

fn report(output: &std::path::Path, written: Written) -> Report {
    let file = output.display();
    let text = match written {
        Written::Changed => format!("Wrote {file}"),
        Written::Unchanged => format!("{file} is as it should be"),
    };
    Report::new(text, json!({"output": output, "changed": written == Written::Changed}))
}
