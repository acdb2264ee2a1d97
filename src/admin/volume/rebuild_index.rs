//! `volume rebuild-index`: a new saved index, of what the volumes say.

use anyhow::bail;
use serde_json::json;

use super::place::{Place, Reading, said};
use crate::{
    admin::report::Report,
    daemon::program::raise_open_files,
    model::size,
    storage::{OpenError, Rebuilt, rebuild_index},
};

/// The command's example and when it helps.
const EXAMPLE: &str = "\
Example:
  backpack-admin volume rebuild-index /var/lib/backpack

A start of the node does the same where the saved index is missing or wrong; this does it before. The heads of all records are read:
2 to 3 microseconds a record, 17 bytes of memory a blob. The node must not run. Ended before its end, it leaves no saved index.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct RebuildIndex {
    #[command(flatten)]
    place: Place,
}

impl RebuildIndex {
    /// Does it.
    pub fn run(&self) -> anyhow::Result<Report> {
        raise_open_files();
        let reading = Reading::new("reading heads");
        let done = rebuild_index(&self.place.dir, &mut |bytes, of| reading.add(bytes, of));
        drop(reading);
        match done {
            Ok(done) => Ok(report(&done)),
            Err(error @ OpenError::Locked(_)) => bail!("{error}: stop the node first"),
            Err(error) => Err(said(error)),
        }
    }
}

fn report(done: &Rebuilt) -> Report {
    let Rebuilt { blobs, tombstones, index_bytes, damaged } = done;
    let mut text = format!(
        "Saved an index of {blobs} blobs and {tombstones} tombstones, {}\n",
        size::format(*index_bytes)
    );
    if *index_bytes == 0 {
        text = "There is no volume, so no index to save\n".to_owned();
    }
    if *damaged > 0 {
        text += &format!("Damage was met in {damaged} places: `backpack-admin volume verify` lists it\n");
    }
    Report::new(text, json!(done))
}
