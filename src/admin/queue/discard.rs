//! `queue discard`: removes dead letters for good. The copies they stood for are not made.

use serde_json::json;

use super::{place::Place, wanted::SomeLetters};
use crate::admin::report::Report;

/// The command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  backpack-admin queue discard zk1:2181 /backpack --id 0123456789abcdef0123456789abcdef"
)]
pub struct Discard {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    letters: SomeLetters,
}

impl Discard {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let filter = self.letters.filter()?;
        let count = self.place.reach().await?.queue.discard(&filter).await?;
        Ok(report(count))
    }
}

fn report(count: u64) -> Report {
    let text = match count {
        0 => "There was no such dead letter.".to_owned(),
        1 => "Removed 1 dead letter.".to_owned(),
        count => format!("Removed {count} dead letters."),
    };
    Report::new(text, json!({"discarded": count}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many() {
        assert_eq!(report(0).text, "There was no such dead letter.");
        assert_eq!(report(2).text, "Removed 2 dead letters.");
        assert_eq!(report(2).json["discarded"], 2);
    }
}
