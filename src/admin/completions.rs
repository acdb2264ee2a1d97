//! `completions`: what a shell needs to complete our commands.

use clap::Command;
use clap_complete::{Shell, generate};
use serde_json::json;

use super::report::Report;

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  backpack-admin completions bash > /etc/bash_completion.d/backpack-admin")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    /// Does it, for this program.
    pub fn run(&self, mut program: Command) -> Report {
        let mut script = Vec::new();
        let name = program.get_name().to_owned();
        generate(self.shell, &mut program, name, &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        Report::new(script.clone(), json!({"shell": self.shell.to_string(), "script": script}))
    }
}
