//! The whole system beside what it stands against, on this machine: `make bench`.
//!
//! Wiring only; [`suite`] has the parts. `--quick` only shows that it runs; names of parts choose these. Files go below the
//! build's target folder, which is on a disk: that is what is measured.

mod suite;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).expect("make a folder in the build's target folder");
    // What an earlier run left behind is in another one.
    let folder = tempfile::tempdir_in(folder).expect("make a folder for this run");
    tempfile::env::override_temp_dir(folder.path()).expect("nobody has asked for a temporary folder yet");
    // This is cargo's, for every bench.
    match suite::run(std::env::args().skip(1).filter(|arg| arg != "--bench"), folder.path()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::from(2)
        }
    }
}
