//! Both sides of a comparison, one after the other, round by round: what else the machine does meets both of them.

use std::{fs::File, path::Path};

use rustix::fs::Advice;

use super::{Scale, cpu, load::Answered};
use crate::support::process::Process;

/// One side's turn.
#[derive(Debug, Clone)]
pub struct Round {
    /// What was done.
    pub answered: Answered,
    /// Processor time of the side's servers.
    pub cpu_seconds: f64,
}

impl Round {
    /// Measures what these servers need for it.
    pub fn of(servers: &[&Process], load: impl FnOnce() -> Answered) -> Self {
        let before = cpu::of(servers);
        let answered = load();
        Self { answered, cpu_seconds: cpu::of(servers) - before }
    }

    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        self.answered.per_second
    }

    /// Requests for a second of the servers' processor time.
    pub fn per_cpu_second(&self) -> f64 {
        // Less than a tick counts as one.
        self.answered.requests as f64 / self.cpu_seconds.max(0.01)
    }
}

/// All turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// Of our side.
    pub ours: Vec<Round>,
    /// Of the other.
    pub peer: Vec<Round>,
}

impl Turns {
    /// Has both sides do their turn in every round.
    pub fn take(scale: &Scale, mut ours: impl FnMut() -> Round, mut peer: impl FnMut() -> Round) -> Self {
        let mut turns = Self::default();
        for _ in 0..scale.rounds {
            clear(scale);
            turns.ours.push(ours());
            clear(scale);
            turns.peer.push(peer());
        }
        turns
    }
}

/// Waits until the disk that everything is on has what was written: what one side did not wait for would be written in the other's
/// turn.
pub fn settle() {
    let disk = File::open(tempfile::env::temp_dir()).expect("open the temporary folder");
    rustix::fs::syncfs(disk).expect("sync a disk");
}

/// Settles, and has the kernel forget what was written. Otherwise what is written next needs memory that was not used yet: where a host
/// lends it page by page, that takes ten times as long as memory which is used again, and from some gigabytes on whoever
/// writes is slow.
pub fn clear(scale: &Scale) {
    settle();
    scale.files.iter().for_each(|folder| forget(folder));
}

/// Drops what the page cache has of the files in a folder and in those below it. What is gone meanwhile needs no dropping.
fn forget(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => forget(&path),
            Ok(kind) if kind.is_file() => {
                if let Ok(file) = File::open(&path) {
                    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("drop a file's pages");
                }
            }
            _ => {}
        }
    }
}
