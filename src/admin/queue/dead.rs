//! `queue dead`: the tasks that were given up, and why.

use super::{
    list::{operation, version},
    place::Place,
    wanted::Letters,
};
use crate::{
    admin::{age, report::Report, table::table},
    queue::DeadLetter,
};

/// Dead letters shown where nobody says how many.
const DEFAULT_LIMIT: usize = 100;

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin queue dead zk1:2181 /backpack --target 4")]
pub struct Dead {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    letters: Letters,
    /// At most so many
    #[arg(long, env = "BACKPACK_QUEUE_LIMIT", value_name = "COUNT", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
}

impl Dead {
    /// Does it.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let reached = self.place.reach().await?;
        let letters = reached.queue.dead(&self.letters.filter(), self.limit).await?;
        let next = [self.place.command("redrive"), self.place.command("discard")];
        Ok(report(&letters, self.limit, &next))
    }
}

fn report(letters: &[DeadLetter], limit: usize, [redrive, discard]: &[String; 2]) -> Report {
    if letters.is_empty() {
        return Report::data("No such dead letter.".into(), &letters);
    }
    let headings = ["ID", "TARGET", "WHAT", "KEY", "VERSION", ">TRIES", ">DIED", "REASON"];
    let mut text = table(&headings, letters.iter().map(row));
    if letters.len() >= limit {
        text += &format!("\nThese are the first {limit}: --limit shows more.");
    }
    text += &format!(
        "\nTry them again: {redrive} --all (or --id, --target, --key)\nForget one: {discard} --id ID"
    );
    Report::data(text, &letters)
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let [target, what, key, version] = match &letter.task {
        Some(task) => [task.to.to_string(), operation(task).to_owned(), task.key.to_string(), version(task)],
        None => ["-", "no task", &letter.raw, "-"].map(one_line),
    };
    let (tries, died) = (letter.attempts.to_string(), format!("{} ago", age::since(letter.died_ms)));
    vec![letter.id.clone(), target, what, key, version, tries, died, one_line(&letter.reason)]
}

/// What stood in the queue may be anything.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::unix_ms;

    #[test]
    fn poison_is_shown_on_one_line() {
        let letter = DeadLetter {
            id: "7f".into(),
            task: None,
            raw: "a\nb".into(),
            attempts: 0,
            reason: "the entry is no task".into(),
            died_ms: unix_ms(),
        };
        let said = report(&[letter], 100, &["redrive".into(), "discard".into()]).text;
        let line = said.lines().nth(1).unwrap();
        assert_eq!(line, "7f  -       no task  a b  -            0  0 s ago  the entry is no task");
        assert!(said.ends_with("Forget one: discard --id ID"));
    }
}
