//! `backpack-admin bench`: uploads and reads many blobs, and says how fast that went. Works against a coordinator, a node,
//! nginx, and any other server that takes PUT and GET.
//!
//! - [`args`]: what is told; [`sizes`] -> [`blobs`]: the blobs; [`placed`]: where each was stored
//! - [`schedule`]: when requests start; [`phase`]: carries it out; [`work`]: one request; [`wire`]: one connection
//! - [`failure`], [`histogram`] -> [`tally`]: what is counted; [`live`]: what is seen of it; [`cpu`]: what it costs here
//! - [`measured`], [`outcome`]: what is said

mod args;
mod blobs;
mod cpu;
mod failure;
mod histogram;
mod live;
mod measured;
mod outcome;
mod phase;
mod placed;
mod schedule;
mod sizes;
mod tally;
mod wire;
mod work;

use std::{io::stdout, sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::Value;

pub use args::Args;
use args::{MAX_SECONDS, Phase as Measure};
use blobs::Blobs;
use measured::Measured;
use outcome::{Left, Outcome};
use phase::Phase;
use placed::Placed;
use schedule::Schedule;
use wire::Place;
use work::{Verb, Work};

use crate::{
    admin::report::{Form, Report},
    daemon::{Shutdown, program::raise_open_files, shutdown::DEFAULT_DRAIN},
};

/// The command: measures, prints what it found, deletes what it uploaded, and fails if a request failed.
pub(super) async fn run(args: Args, form: Form) -> anyhow::Result<()> {
    raise_open_files();
    let stop = Shutdown::on_signal(DEFAULT_DRAIN).context("listen for signals")?;
    let bench = Bench::new(args);
    let mut outcome = bench.outcome();
    let measured = bench.measure(&stop, &mut outcome).await;
    if !outcome.is_empty() {
        if form == Form::Text {
            // Before the blobs are deleted, which may take its time and be interrupted.
            form.print(&outcome.report(), &mut stdout())?;
        }
        let left = bench.clean_up(&stop).await;
        let line = left.text(&outcome.folder);
        outcome.left = Some(left);
        let last = if form == Form::Text { Report::new(line, Value::Null) } else { outcome.report() };
        form.print(&last, &mut stdout())?;
    }
    measured?;
    match outcome.complaint() {
        None => Ok(()),
        Some(complaint) => Err(anyhow::Error::msg(complaint)),
    }
}

/// A run.
struct Bench {
    args: Args,
    work: Arc<Work>,
}

impl Bench {
    fn new(args: Args) -> Self {
        let within = Duration::from_secs(args.timeout.into());
        let folder = format!("bench-{:08x}", fastrand::u32(..));
        let work = Work {
            blobs: Blobs::new(folder, args.size, args.seed),
            placed: Placed::new(args.count),
            write_to: Arc::new(Place::new(&args.url, within)),
            read_from: Arc::new(Place::new(args.read_from.as_ref().unwrap_or(&args.url), within)),
            write: args.write_level,
            verify: args.verify,
        };
        Self { args, work: Arc::new(work) }
    }

    /// Uploads and reads. What was measured before a failure is in the outcome too.
    async fn measure(&self, stop: &Shutdown, outcome: &mut Outcome) -> anyhow::Result<()> {
        let args = &self.args;
        let all = || (0..args.count).collect();
        match args.only {
            Some(Measure::Get) => {
                let filled = self.phase(Verb::Put, all(), self.as_fast_as_it_goes(args.count.into()), stop);
                outcome.fill = Some(filled.await?);
            }
            _ => {
                outcome.put = Some(self.phase(Verb::Put, all(), self.planned(args.count.into()), stop).await?)
            }
        }
        if args.only != Some(Measure::Put) && !stop.begun() {
            outcome.get = self.read(stop).await?;
        }
        outcome.stopped = stop.begun().then_some("asked to stop");
        Ok(())
    }

    /// Reads what was uploaded; `None` where nothing was.
    async fn read(&self, stop: &Shutdown) -> anyhow::Result<Option<Measured>> {
        let mut stored = self.work.placed.all();
        if stored.is_empty() {
            return Ok(None);
        }
        // Not in the order in which disks have them.
        fastrand::Rng::with_seed(self.args.seed).shuffle(&mut stored);
        let reads = self.args.reads.unwrap_or(stored.len() as u64);
        self.phase(Verb::Get, stored, self.planned(reads), stop).await.map(Some)
    }

    /// Deletes what was uploaded, unless it is to be kept.
    async fn clean_up(&self, stop: &Shutdown) -> Left {
        let stored = self.work.placed.all();
        let count = stored.len() as u64;
        if self.args.keep || stored.is_empty() {
            let why = self.args.keep.then(|| "--keep".to_owned());
            return Left { deleted: 0, blobs: count, why, failed: false };
        }
        // Asked to stop measuring, it cleans up; asked to stop meanwhile, it leaves the rest.
        let stop = if stop.begun() { Shutdown::default() } else { stop.child() };
        match self.phase(Verb::Delete, stored, self.as_fast_as_it_goes(count), &stop).await {
            Ok(deleting) => Left::after(count, &deleting),
            Err(error) => Left { deleted: 0, blobs: count, why: Some(format!("{error:#}")), failed: true },
        }
    }

    async fn phase(
        &self,
        verb: Verb,
        blobs: Vec<u32>,
        schedule: Schedule,
        stop: &Shutdown,
    ) -> anyhow::Result<Measured> {
        let (work, concurrency) = (self.work.clone(), self.args.concurrency as usize);
        let url = if verb == Verb::Get { self.read_from() } else { self.args.url.to_string() };
        let phase = Phase { work, verb, blobs, schedule, concurrency };
        phase.run(stop).await.with_context(|| format!("{} at {url}", verb.name()))
    }

    fn planned(&self, count: u64) -> Schedule {
        Schedule { count, within: Duration::from_secs(self.args.seconds.into()), rate: self.args.rate }
    }

    fn as_fast_as_it_goes(&self, count: u64) -> Schedule {
        Schedule { count, within: Duration::from_secs(MAX_SECONDS.into()), rate: None }
    }

    fn read_from(&self) -> String {
        self.args.read_from.as_ref().unwrap_or(&self.args.url).to_string()
    }

    fn outcome(&self) -> Outcome {
        let args = &self.args;
        Outcome {
            url: args.url.to_string(),
            read_from: self.read_from(),
            folder: self.work.blobs.folder().to_owned(),
            size: args.size.to_string(),
            seed: args.seed,
            concurrency: args.concurrency,
            r#loop: if args.rate.is_some() { "open" } else { "closed" },
            rate_per_second: args.rate,
            verified: args.verify,
            fill: None,
            put: None,
            get: None,
            stopped: None,
            left: None,
        }
    }
}
