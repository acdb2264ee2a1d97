//! One folder: its journal is opened, its files are found, counted and uploaded, each answer is journaled.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use xxhash_rust::xxh3::xxh3_128;

use super::{
    Args, Entry, Uploaded,
    journal::Journal,
    parallel::{self, Job, Work},
    progress::Progress,
    retry::{Again, Failure},
    roots::Root,
    send::Sender,
    sift::{Sieve, Sifted},
};
use crate::model::Key;

/// So many files in a row that a coordinator did not take, each after all its retries, end the run: it is away, and
/// a million files more would take days to fail. More than fail together when it restarts.
const HOPELESS_FAILURES: u32 = 100;

/// Uploads one folder and adds to the summary. `keys` are hashes of the keys of all folders of this run, where there
/// are several.
pub(super) async fn upload_root(
    args: &Args,
    root: &Root,
    sender: &Arc<Sender>,
    keys: &mut Option<HashSet<u128>>,
    summary: &mut Uploaded,
) -> anyhow::Result<()> {
    let (journal, done, unreadable) = Journal::open(&root.journal)?;
    if unreadable > 0 {
        let name = root.journal.display();
        tracing::warn!("{unreadable} lines of {name} cannot be read: their files are uploaded again");
    }
    let sieve = Sieve { prefix: args.prefix.clone(), done: Arc::new(done), journal: journal.identity()? };
    count(sieve.clone(), root, sender.progress.clone());
    let items = sieve.through(root.walk()).map(Ok);
    let mut uploading = Uploading {
        folder: root.folder.as_path().into(),
        sender: sender.clone(),
        journal,
        keys,
        summary,
        failures_in_a_row: 0,
    };
    parallel::carry_out(&mut uploading, items, usize::from(args.parallel), &sender.stop).await?;
    uploading.journal.sync()
}

/// Counts what is to be uploaded, beside the upload, for the progress bar alone. The thread ends with its walk or with
/// the process.
fn count(sieve: Sieve, root: &Root, progress: Arc<Progress>) {
    let items = sieve.through(root.walk());
    thread::spawn(move || {
        for item in items {
            if let Sifted::Upload(_, bytes) = item {
                progress.found(bytes);
            }
        }
    });
}

struct Uploading<'a> {
    folder: Arc<Path>,
    sender: Arc<Sender>,
    journal: Journal,
    keys: &'a mut Option<HashSet<u128>>,
    summary: &'a mut Uploaded,
    failures_in_a_row: u32,
}

impl Uploading<'_> {
    /// Whether no other folder of this run gave this key. The second blob would hide the first one if chance chose
    /// the same shard.
    fn is_new(&mut self, key: &Key) -> bool {
        self.keys.as_mut().is_none_or(|keys| keys.insert(xxh3_128(key.as_str().as_bytes())))
    }

    fn refuse(&mut self, path: &Path) {
        let why = "another folder of this command has the same key: upload this one alone, with --prefix";
        self.summary.failed.add(path, why);
    }

    fn failed(&mut self, path: &Path, failure: Failure) {
        if failure.again == Again::Never {
            self.failures_in_a_row = 0;
        } else {
            self.failures_in_a_row += 1;
        }
        self.summary.failed.add(path, failure.text);
        if self.failures_in_a_row == HOPELESS_FAILURES && !self.sender.stop.begun() {
            let why = format!("the coordinator did not take {HOPELESS_FAILURES} files in a row");
            self.summary.stopped = Some(why);
            self.sender.stop.begin();
        }
    }
}

impl Work for Uploading<'_> {
    type Item = Sifted;
    type Done = (PathBuf, Result<Entry, Failure>);

    fn begin(&mut self, item: Sifted) -> Option<Job<Self::Done>> {
        match item {
            Sifted::Skipped(path, why) => self.summary.skipped.add(&path, why),
            Sifted::Unreadable(path, error) => {
                self.summary.failed.add(&path, format!("cannot be read: {error}"));
            }
            Sifted::Unchanged(path, key) => {
                if self.is_new(&key) {
                    self.summary.unchanged += 1;
                } else {
                    self.refuse(&path);
                }
            }
            Sifted::Upload(upload, _) => {
                if !self.is_new(&upload.key) {
                    self.refuse(&upload.path);
                    return None;
                }
                let (sender, folder) = (self.sender.clone(), self.folder.clone());
                return Some(Box::pin(async move {
                    let result = sender.send(&folder, &upload).await;
                    (upload.path, result)
                }));
            }
        }
        None
    }

    fn settle(&mut self, (path, result): Self::Done) -> anyhow::Result<()> {
        self.sender.progress.finished_file();
        match result {
            Ok(entry) => {
                self.journal.append(&entry)?;
                self.failures_in_a_row = 0;
                self.summary.uploaded += 1;
                self.summary.uploaded_bytes += entry.length;
            }
            Err(failure) => self.failed(&path, failure),
        }
        Ok(())
    }
}
