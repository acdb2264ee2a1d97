//! What a command says: text for people, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

/// The answer of a command, in both forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Lines for people; where the original has the command, its sentence comes first.
    pub text: String,
    /// The same for programs.
    pub json: Value,
}

impl Report {
    /// A report of some lines.
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json }
    }

    /// The report of an edit: the original's sentence, then what helps beyond it.
    pub fn edit(sentence: String, more: Vec<String>, json: Value) -> Self {
        let lines: Vec<String> = [sentence].into_iter().chain(more).collect();
        Self::new(lines.join("\n"), json)
    }

    /// The report of data that is shown as a text of its own.
    pub fn data(text: String, data: &impl Serialize) -> Self {
        let json = serde_json::to_value(data)
            .expect("reports are structs of texts and numbers, which are always JSON");
        Self { text, json }
    }
}

/// In which form reports are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One line of JSON a report.
    Json,
}

impl Form {
    /// Writes a report. A reader that went away (`| head`) is no failure.
    pub fn print(self, report: &Report, to: &mut impl Write) -> io::Result<()> {
        let written = match self {
            Self::Text => writeln!(to, "{}", report.text.trim_end_matches('\n')),
            Self::Json => writeln!(to, "{}", report.json),
        };
        match written.and_then(|()| to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_printed_in_the_form_that_was_asked_for() {
        let report = Report::edit("Done".into(), vec!["More.".into()], json!({"changed": true}));
        let printed = |form: Form| {
            let mut out = Vec::new();
            form.print(&report, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(Form::Text), "Done\nMore.\n");
        assert_eq!(printed(Form::Json), "{\"changed\":true}\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Form::Text.print(&Report::new("text", json!(null)), &mut Gone).is_ok());
    }
}
