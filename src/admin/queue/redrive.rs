//! `queue redrive`: gives dead letters out again, with no attempts counted.

use serde_json::json;

use super::{place::Place, wanted::SomeLetters};
use crate::admin::report::Report;

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue redrive zk1:2181 /backpack --target 4")]
pub struct Redrive {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    letters: SomeLetters,
}

impl Redrive {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let filter = self.letters.filter()?;
        let count = self.place.reach().await?.queue.redrive(&filter).await?;
        Ok(report(count))
    }
}

fn report(count: u64) -> Report {
    let text = match count {
        0 => "There was no such dead letter that can be given out again.".to_owned(),
        1 => "Gave 1 dead letter out again.".to_owned(),
        count => format!("Gave {count} dead letters out again."),
    };
    Report::new(text, json!({"redriven": count}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many() {
        assert_eq!(report(1).text, "Gave 1 dead letter out again.");
        assert_eq!(report(2).text, "Gave 2 dead letters out again.");
        assert_eq!(report(2).json["redriven"], 2);
    }
}
