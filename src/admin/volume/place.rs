//! The directory that a command is about.

use std::{cell::Cell, path::PathBuf};

use crate::{
    admin::progress::Progress,
    daemon::program::raise_open_files,
    storage::{Inspection, OpenError},
};

/// Progress is drawn after so many bytes: more often it would cost as much as the reading.
const DRAWN_BYTES: u64 = 1 << 20;

/// Which directory.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Data directory of a node, one of them if it has several disks; of a one-machine system a node-N in its folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

impl Place {
    /// Looks at it. Nothing in it is changed.
    pub fn look(&self) -> anyhow::Result<Inspection> {
        raise_open_files();
        let reading = Reading::new("finding the newest records");
        Inspection::open(&self.dir, &mut |bytes, of| reading.add(bytes, of)).map_err(said)
    }
}

/// The error of a storage, which says in one sentence what is the matter.
pub fn said(error: OpenError) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// What is seen of a reading while it lasts.
pub struct Reading {
    progress: Progress,
    undrawn: Cell<u64>,
}

impl Reading {
    /// Shows nothing yet.
    pub fn new(words: &str) -> Self {
        Self { progress: Progress::new(words), undrawn: Cell::new(0) }
    }

    /// So many bytes more were read, of so many.
    pub fn add(&self, bytes: u64, of: u64) {
        let undrawn = self.undrawn.get() + bytes;
        if undrawn < DRAWN_BYTES {
            self.undrawn.set(undrawn);
            return;
        }
        self.undrawn.set(0);
        self.progress.expect_in_all(of);
        self.progress.add(undrawn);
    }

    /// Prints something else meanwhile.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.progress.aside(print)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.progress.end();
    }
}
