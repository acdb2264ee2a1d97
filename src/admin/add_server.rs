//! `add-server`: puts a server into the map, or gives one another address.

use serde_json::json;

use super::{
    address::ServerUrl,
    context::{ClusterArgs, Context},
    report::Report,
};
use crate::{
    cluster::edit::{self, Outcome},
    model::{Server, ServerId},
};

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin add-server zk1:2181 /backpack 1 http://one:10001")]
pub struct AddServer {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Name of the server
    #[arg(value_name = "ID")]
    id: ServerId,
    /// Where it listens: http://host:port
    #[arg(value_name = "URL")]
    url: ServerUrl,
}

impl AddServer {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let context = Context::connect(&self.cluster).await?;
        let server = self.url.server(&self.id);
        let before = context.map().await?.servers.get(&self.id).cloned();
        let outcome = edit::add_server(&*context.store, &server).await?;
        Ok(report(&self.url, &server, before.as_deref(), outcome))
    }
}

fn report(url: &ServerUrl, server: &Server, before: Option<&Server>, outcome: Outcome) -> Report {
    let more = match (before, outcome) {
        (_, Outcome::Unchanged) => vec!["It was there already: nothing changed.".to_owned()],
        (Some(before), Outcome::Changed) => {
            vec![format!("It was {before} before: what it holds must be found at the new address.")]
        }
        (None, Outcome::Changed) => Vec::new(),
    };
    let json = json!({
        "server": {"id": server.id, "host": server.host, "port": server.port},
        "changed": outcome == Outcome::Changed,
    });
    Report::edit(format!("Added {url} as {}", server.id), more, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_original_sentence_and_what_happened() {
        let server = |port| Server { id: "1".parse().unwrap(), host: "one".into(), port };
        let url: ServerUrl = "http://one:10001".parse().unwrap();
        let said = |before: Option<&Server>, outcome| report(&url, &server(10001), before, outcome).text;
        assert_eq!(said(None, Outcome::Changed), "Added http://one:10001 as 1");
        assert!(said(Some(&server(10001)), Outcome::Unchanged).contains("nothing changed"));
        assert!(said(Some(&server(7)), Outcome::Changed).contains("It was http://one:7 before"));
    }
}
