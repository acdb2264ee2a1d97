//! What is said at the end: counts, and the first few of what went wrong. As text or as one JSON object.

use std::path::Path;

use serde::Serialize;

use crate::{
    admin::report::{Form, Report},
    model::size,
};

/// How many of a kind are named; the others are counted. The journal says what is done, a second run does the rest.
const NAMED: usize = 20;

/// Things that were left out or went wrong.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Notes {
    /// How many.
    pub count: u64,
    /// The first 20 of them.
    pub first: Vec<Note>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Note {
    /// Which file, below the folder; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What is the matter.
    pub why: String,
}

impl Notes {
    pub(super) fn add(&mut self, path: &Path, why: impl ToString) {
        self.count += 1;
        if self.first.len() < NAMED {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            self.first.push(Note { path: path.to_string_lossy().into_owned(), why: why.to_string() });
        }
    }

    /// Lines under a heading; nothing where there are none of them.
    fn text(&self, heading: &str) -> String {
        if self.count == 0 {
            return String::new();
        }
        let mut text = format!("{heading} {}:\n", self.count);
        for Note { path, why } in &self.first {
            // File names may hold what terminals obey.
            text += &format!("  {}: {why}\n", path.escape_debug());
        }
        match self.count - self.first.len() as u64 {
            0 => text,
            more => text + &format!("  and {more} more\n"),
        }
    }
}

/// What an upload did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Uploaded {
    /// Files uploaded.
    pub uploaded: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Files that the journal has, unchanged.
    pub unchanged: u64,
    /// Links, pipes, journals and the like.
    pub skipped: Notes,
    /// Files that are not uploaded.
    pub failed: Notes,
    /// Why it ended before everything was tried.
    pub stopped: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Files that read back as they are.
    pub same: u64,
    /// Their bytes.
    pub same_bytes: u64,
    /// Files that do not, or that could not be compared.
    pub different: Notes,
    /// Why it ended before everything was compared.
    pub stopped: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A summary that can be printed and judged.
pub(super) trait Summary: Serialize + Sized {
    /// Lines for people.
    fn text(&self) -> String;

    /// What went wrong, in one sentence.
    fn complaint(&self) -> Option<String>;

    /// Prints it on standard output; an error if anything went wrong, for the exit code.
    fn conclude(&self, form: Form) -> anyhow::Result<()> {
        form.print(&Report::data(self.text(), self), &mut std::io::stdout())?;
        match self.complaint() {
            None => Ok(()),
            Some(complaint) => Err(anyhow::Error::msg(complaint)),
        }
    }
}

impl Summary for Uploaded {
    fn text(&self) -> String {
        let (files, bytes) = (files(self.uploaded), size::format(self.uploaded_bytes));
        let (seconds, unchanged) = (self.seconds, self.unchanged);
        let done = format!("Uploaded {files}, {bytes}, in {seconds:.1} s; {unchanged} were there already\n");
        done + &self.skipped.text("Skipped") + &self.failed.text("Failed")
    }

    fn complaint(&self) -> Option<String> {
        match (&self.stopped, self.failed.count) {
            (Some(why), _) => Some(format!("stopped: {why}; the same command goes on from here")),
            (None, 0) => None,
            (None, failed) => Some(format!("not uploaded: {}; the same command tries again", files(failed))),
        }
    }
}

impl Summary for Verified {
    fn text(&self) -> String {
        let (files, bytes) = (files(self.same), size::format(self.same_bytes));
        let done = format!("Read back the same: {files}, {bytes}, in {:.1} s\n", self.seconds);
        done + &self.different.text("Different")
    }

    fn complaint(&self) -> Option<String> {
        match (&self.stopped, self.different.count) {
            (Some(why), _) => Some(format!("stopped: {why}")),
            (None, 0) => None,
            (None, count) => Some(format!("not read back the same: {}", files(count))),
        }
    }
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_and_counts_the_rest() {
        let mut notes = Notes::default();
        for n in 0..25 {
            notes.add(Path::new(&format!("a\x1b{n}")), "unreadable");
        }
        let text = notes.text("Failed");
        assert!(text.starts_with("Failed 25:\n  a\\u{1b}0: unreadable\n"), "{text}");
        assert!(text.ends_with("\n  and 5 more\n"), "{text}");
    }

    #[test]
    fn complains_only_when_something_is_wrong() {
        let mut summary = Uploaded { uploaded: 1, ..Uploaded::default() };
        summary.skipped.add(Path::new("link"), "a symbolic link");
        assert_eq!(summary.complaint(), None);
        summary.failed.add(Path::new("x"), "no");
        assert!(summary.complaint().unwrap().contains("1 file;"));
        let mut compared = Verified::default();
        assert_eq!(compared.complaint(), None);
        compared.different.add(Path::new("x"), "no");
        assert!(compared.complaint().is_some());
    }
}
