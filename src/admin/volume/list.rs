//! `volume list`: the volumes of a node and how much of each is still needed.

use serde_json::json;

use super::place::Place;
use crate::{
    admin::{age, report::Report, table::table},
    model::size,
    storage::{FilesInfo, SavedIndex, VolumeInfo},
};

/// The command's example and what it costs.
const EXAMPLE: &str = "\
Example:
  backpack-admin volume list /var/lib/backpack

Works while the node runs. What is needed of a volume is known from the saved index and what was written since; where no index was
saved, the heads of all records are read. That takes as long and as much memory as a start of the node, 17 bytes for each blob.
RECORDS are those that are the newest of their key; TOMBSTONES are the deletes among them.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct List {
    #[command(flatten)]
    place: Place,
}

impl List {
    /// Does it.
    pub fn run(&self) -> anyhow::Result<Report> {
        let inspection = self.place.look()?;
        Ok(report(&inspection.volumes(), inspection.files(), inspection.saved_index()))
    }
}

fn report(volumes: &[VolumeInfo], files: FilesInfo, saved: SavedIndex) -> Report {
    let sum = |of: fn(&VolumeInfo) -> u64| volumes.iter().map(of).sum::<u64>();
    let (bytes, live, dead) = (sum(|v| v.bytes), sum(|v| v.live_bytes), sum(|v| v.dead_bytes));
    let (records, tombstones) = (sum(|v| v.records), sum(|v| v.tombstones));
    let mut text = String::new();
    if !volumes.is_empty() {
        text = volumes_table(volumes) + "\n\n";
    }
    let count = volumes.len();
    text += &format!(
        "{count} volumes, {}: {} needed by {records} records ({tombstones} of them tombstones), {} dead\n",
        size::format(bytes),
        size::format(live),
        size::format(dead)
    );
    text += &format!("{} files of their own, {}\n", files.count, size::format(files.bytes));
    text += saved_index(saved);
    let totals = json!({
        "volumes": count, "bytes": bytes, "records": records, "tombstones": tombstones, "live_bytes": live, "dead_bytes": dead,
    });
    Report::new(text, json!({"volumes": volumes, "files": files, "totals": totals, "saved_index": saved}))
}

fn volumes_table(volumes: &[VolumeInfo]) -> String {
    let rows = volumes.iter().map(|volume| {
        vec![
            volume.number.to_string(),
            size::format(volume.bytes),
            volume.records.to_string(),
            volume.tombstones.to_string(),
            size::format(volume.live_bytes),
            size::format(volume.dead_bytes),
            volume.created_ms.map_or_else(|| "-".to_owned(), age::since),
            state(volume),
        ]
    });
    table(&[">VOLUME", ">BYTES", ">RECORDS", ">TOMBSTONES", ">LIVE", ">DEAD", ">AGE", "STATE"], rows)
}

fn state(volume: &VolumeInfo) -> String {
    let mut words = vec![if volume.sealed { "sealed" } else { "last" }.to_owned()];
    if volume.created_ms.is_none() {
        words.push("damaged superblock".to_owned());
    }
    if volume.lost_bytes > 0 {
        words.push(format!("lost its last {}", size::format(volume.lost_bytes)));
    }
    if volume.unfinished_bytes > 0 {
        words.push(format!("{} not acknowledged", size::format(volume.unfinished_bytes)));
    }
    words.join(", ")
}

/// A line for people about the saved index.
pub fn saved_index(saved: SavedIndex) -> &'static str {
    match saved {
        SavedIndex::Used => "The saved index is right",
        SavedIndex::None => "There is no saved index: the next start reads the heads of all records",
        SavedIndex::Wrong => {
            "The saved index is not what the volumes say: the next start reads the heads of all records"
        }
    }
}
