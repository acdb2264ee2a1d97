//! `backpack-admin verify`: reads every file of a journal back, by `/<shard>:<key>`, and compares it with the file on
//! disk, byte by byte.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use http::Method;
use http_body_util::BodyExt;
use tokio::{fs::File, io::AsyncReadExt};

use super::{
    BaseUrl,
    journal::{Entry, Line, Lines, hash_path},
    parallel::{self, Job, Work},
    progress::Progress,
    retry::{self, Failure},
    send,
    summary::{Summary, Verified},
    wire::{Wire, in_time},
};
use crate::{
    admin::report::Form,
    daemon::{Shutdown, shutdown::DEFAULT_DRAIN},
    http::Body,
};

/// The command's example.
const EXAMPLE: &str = "\
Example:
  backpack-admin verify http://127.0.0.1:8080 ~/photos/.backpack-put.jsonl ~/photos

The last line about a path counts. Exit code 1 and a list if anything differs.";

/// Reads every file of an upload back and compares it with the file on disk
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Where blobs are read: nginx or a coordinator, http://host:port
    #[arg(value_name = "BASE_URL")]
    pub base: BaseUrl,

    /// The journal that `put` wrote
    pub journal: PathBuf,

    /// The folder that was uploaded
    pub folder: PathBuf,

    /// Files compared at once
    #[arg(long, env = "BACKPACK_VERIFY_PARALLEL", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,

    /// Further tries for a file after a 5xx answer or a broken connection
    #[arg(long, env = "BACKPACK_VERIFY_RETRIES", value_name = "N", default_value_t = 8)]
    pub retries: u32,
}

/// The command: compares, prints what it found, and fails if anything differs.
pub(in crate::admin) async fn run(args: Args, form: Form) -> anyhow::Result<()> {
    let stop = Shutdown::on_signal(DEFAULT_DRAIN).context("listen for signals")?;
    verify(&args, &stop).await?.conclude(form)
}

/// Compares until all is done or `stop` begins.
pub async fn verify(args: &Args, stop: &Shutdown) -> anyhow::Result<Verified> {
    let started = Instant::now();
    let progress = Progress::new();
    let entries = Entries::open(&args.journal)?;
    let reader = Reader {
        wire: Wire::new(args.base.clone()),
        folder: args.folder.clone(),
        retries: args.retries,
        stop: stop.clone(),
        progress: progress.clone(),
    };
    entries.last.values().for_each(|(_, bytes)| progress.found(*bytes));
    let mut comparing = Comparing { reader: Arc::new(reader), found: Verified::default() };
    let result = parallel::carry_out(&mut comparing, entries, usize::from(args.parallel), stop).await;
    progress.end();
    let mut found = comparing.found;
    found.stopped = stop.begun().then(|| "asked to stop".to_owned());
    found.seconds = started.elapsed().as_secs_f64();
    result.map(|()| found)
}

struct Comparing {
    reader: Arc<Reader>,
    found: Verified,
}

impl Work for Comparing {
    type Item = Recorded;
    type Done = (PathBuf, Result<u64, Failure>);

    fn begin(&mut self, item: Recorded) -> Option<Job<Self::Done>> {
        let entry = match item {
            Recorded::Entry(entry) => entry,
            Recorded::Unreadable(number) => {
                let line = format!("line {number} of the journal");
                self.found.different.add(Path::new(&line), "cannot be read");
                return None;
            }
        };
        let reader = self.reader.clone();
        Some(Box::pin(async move { (entry.path(), reader.compare(&entry).await) }))
    }

    fn settle(&mut self, (path, result): Self::Done) -> anyhow::Result<()> {
        self.reader.progress.finished_file();
        match result {
            Ok(bytes) => {
                self.found.same += 1;
                self.found.same_bytes += bytes;
            }
            Err(failure) => self.found.different.add(&path, failure.text),
        }
        Ok(())
    }
}

struct Reader {
    wire: Wire,
    folder: PathBuf,
    retries: u32,
    stop: Shutdown,
    progress: Arc<Progress>,
}

impl Reader {
    /// The number of bytes compared.
    async fn compare(&self, entry: &Entry) -> Result<u64, Failure> {
        let full = self.folder.join(entry.path());
        retry::until_done(self.retries, &self.stop, || self.attempt(&full, entry)).await
    }

    async fn attempt(&self, full: &Path, entry: &Entry) -> Result<u64, Failure> {
        let file = send::open(full).await?;
        let changed = send::state_of(&file).await? != entry.state();
        let compared = self.compare_bytes(file, entry).await;
        compared.map_err(|failure| match changed {
            true => Failure { text: format!("{} (the file was changed since)", failure.text), ..failure },
            false => failure,
        })
    }

    async fn compare_bytes(&self, mut file: File, entry: &Entry) -> Result<u64, Failure> {
        let path = format!("/{}:{}", entry.shard, entry.key);
        let request = self.wire.request(Method::GET, &path, Body::Empty)?;
        let answer = in_time(self.wire.send(request)).await??;
        let mut counted = self.progress.counted();
        let mut body = answer.into_body();
        let mut offset = 0;
        let mut local = Vec::new();
        while let Some(frame) = in_time(body.frame()).await? {
            let Ok(bytes) = frame.map_err(Failure::soon)?.into_data() else { continue };
            local.clear();
            (&mut file).take(bytes.len() as u64).read_to_end(&mut local).await.map_err(send::unreadable)?;
            if local != bytes {
                return Err(difference(offset, &local, &bytes));
            }
            offset += bytes.len() as u64;
            counted.add(bytes.len());
        }
        if file.read_u8().await.is_ok() {
            return Err(Failure::never(format!("ends after {offset} bytes, the file goes on")));
        }
        counted.keep();
        Ok(offset)
    }
}

fn difference(offset: u64, local: &[u8], read_back: &[u8]) -> Failure {
    let same = local.iter().zip(read_back).take_while(|(a, b)| a == b).count();
    let at = offset + same as u64;
    Failure::never(match same == local.len() {
        true => format!("goes on where the file ends, after {at} bytes"),
        false => format!("differs from byte {at} on"),
    })
}

/// What a journal says, the last line about each path only.
struct Entries {
    lines: Lines,
    number: u64,
    /// For each path (hashed) its last line and the length there.
    last: HashMap<u128, (u64, u64)>,
}

enum Recorded {
    Entry(Box<Entry>),
    /// The line with this number.
    Unreadable(u64),
}

impl Entries {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || fs::File::open(path).with_context(|| format!("open the journal {}", path.display()));
        let mut lines = Lines::new(open()?, path)?;
        let mut last = HashMap::new();
        let mut number = 0;
        while let Some(line) = lines.next()? {
            number += 1;
            if let Line::Entry(entry) = line {
                last.insert(hash_path(&entry.path()), (number, entry.length));
            }
        }
        Ok(Self { lines: Lines::new(open()?, path)?, number: 0, last })
    }
}

impl Iterator for Entries {
    type Item = anyhow::Result<Recorded>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next() {
                Ok(line) => line?,
                Err(error) => return Some(Err(error)),
            };
            self.number += 1;
            match line {
                Line::Unreadable => return Some(Ok(Recorded::Unreadable(self.number))),
                Line::Entry(entry) => {
                    let last = self.last.get(&hash_path(&entry.path()));
                    if last.is_some_and(|(number, _)| *number == self.number) {
                        return Some(Ok(Recorded::Entry(entry)));
                    }
                }
            }
        }
    }
}
