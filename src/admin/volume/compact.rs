//! `volume compact`: the space of overwritten and deleted blobs back, while the node does not run.

use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;

use super::place::{Place, Reading, said};
use crate::{
    admin::{
        misuse::Misuse,
        report::{Form, Report},
    },
    daemon::{Shutdown, program::raise_open_files, shutdown::DEFAULT_DRAIN},
    model::size,
    storage::{CompactHow, Compacted, DEFAULT_COMPACT_DEAD_RATIO, OpenError, compact_offline},
};

/// The command's example and what it leaves.
const EXAMPLE: &str = "\
Example:
  backpack-admin volume compact /var/lib/backpack --dead-ratio 0.1

The node must not run: while it runs it compacts by itself. The last volume stays as it is, and volumes with damage in them too. May
be ended at any time, and called again: nothing is lost, and what was given back stays so.";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Compact {
    #[command(flatten)]
    place: Place,

    /// Rewrite volumes of which this part or more is dead, 0.05 to 1
    #[arg(
        long,
        env = "BACKPACK_NODE_COMPACT_DEAD_RATIO",
        default_value_t = DEFAULT_COMPACT_DEAD_RATIO,
        value_name = "PART"
    )]
    dead_ratio: f64,

    /// Read and write at most this much in a second [default: as much as the disk gives]
    #[arg(long, env = "BACKPACK_VOLUME_BYTES_PER_SECOND", value_parser = size::parse, value_name = "SIZE")]
    bytes_per_second: Option<u64>,

    /// Forget deletes that are older, as the node does; no fewer days than the node is told [default: all are kept]
    #[arg(
        long,
        env = "BACKPACK_NODE_TOMBSTONE_DAYS",
        value_parser = clap::value_parser!(u64).range(1..=36_500),
        value_name = "DAYS"
    )]
    tombstone_days: Option<u64>,
}

impl Compact {
    /// Does it, until it is done or told to stop.
    pub fn run(&self, form: Form) -> anyhow::Result<()> {
        if self.bytes_per_second == Some(0) {
            return Err(Misuse("--bytes-per-second: with 0 it would never end".to_owned()).into());
        }
        raise_open_files();
        let stop = Shutdown::on_signal(DEFAULT_DRAIN)?;
        let how = CompactHow {
            dead_ratio: self.dead_ratio,
            bytes_per_second: self.bytes_per_second,
            tombstone_age: self.tombstone_days.map(|days| DAY * days as u32),
        };
        let reading = Reading::new("moving what is needed");
        let done = compact_offline(&self.place.dir, how, &mut |bytes, of| {
            reading.add(bytes, of);
            !stop.begun()
        });
        drop(reading);
        let done = done.map_err(refused)?;
        form.print(&report(&done), &mut std::io::stdout())?;
        if done.stopped {
            bail!("stopped before the end; the same command goes on from here");
        }
        Ok(())
    }
}

fn refused(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Locked(_) => anyhow!(
            "{error}: a node that runs compacts by itself (--compact-dead-ratio, --compact-bytes-per-second); stop it \
             to do it here"
        ),
        OpenError::Options(sentence) => Misuse(sentence).into(),
        error => said(error),
    }
}

fn report(done: &Compacted) -> Report {
    let given_back = done.removed_bytes.saturating_sub(done.moved_bytes);
    let mut text = format!(
        "Given back: {} ({} volumes of {} removed, {} of it written again elsewhere)\n",
        size::format(given_back),
        done.removed_volumes,
        size::format(done.removed_bytes),
        size::format(done.moved_bytes)
    );
    for (volume, why) in &done.left_alone {
        text += &format!("Volume {volume} was left alone: {why}\n");
    }
    text += &format!("Still dead: {}\n", size::format(done.dead_bytes));
    let mut json = json!(done);
    json["given_back_bytes"] = json!(given_back);
    Report::new(text, json)
}
