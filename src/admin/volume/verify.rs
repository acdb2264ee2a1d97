//! `volume verify`: every byte of a data directory, compared with its checksums.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{
    list::saved_index,
    place::{Place, Reading, said},
    show,
};
use crate::{
    admin::report::{Form, Report},
    model::size,
    storage::{Damage, Verified},
};

/// The command's example and its exit codes.
const EXAMPLE: &str = "\
Example:
  backpack-admin volume verify /var/lib/backpack

Exit code 0: all is as it was written; 3: something is damaged, and listed; 1: it could not be read to the end. Works while the node
runs: what is being written is no damage, nor is what compaction removes. What was never acknowledged is counted, and is no damage
either. With --json: a line {\"damaged\": ..} for each damage, then a line {\"verified\": ..}.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Verify {
    #[command(flatten)]
    place: Place,

    /// Only this volume, and the files that its records name
    #[arg(long, env = "BACKPACK_VOLUME", value_name = "N")]
    volume: Option<u32>,
}

/// Something is damaged; it was listed. The exit code is [`DamageFound::EXIT_CODE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged: {0}")]
pub struct DamageFound(u64);

impl DamageFound {
    /// Tells damage from a reading that failed.
    pub const EXIT_CODE: u8 = 3;
}

impl Verify {
    /// Does it; prints what is damaged as it is found.
    pub fn run(&self, form: Form) -> anyhow::Result<()> {
        let inspection = self.place.look()?;
        let reading = Reading::new("verifying");
        let mut printed = Ok(());
        let mut on_damage = |damage: Damage<'_>| {
            let report = Report::new(line(&damage), json!({"damaged": object(&damage)}));
            if let Err(error) = reading.aside(|| form.print(&report, &mut io::stdout())) {
                printed = Err(error);
            }
        };
        let mut on_read = |bytes, of| reading.add(bytes, of);
        let done = inspection.verify(self.volume, &mut on_read, &mut on_damage).map_err(said)?;
        drop(reading);
        printed?;
        let mut out = io::stdout();
        form.print(&Report::new(text(&done), json!({"verified": done})), &mut out)?;
        out.flush()?;
        if done.damaged > 0 { Err(DamageFound(done.damaged).into()) } else { Ok(()) }
    }
}

fn line(damage: &Damage<'_>) -> String {
    let Damage { volume, start, end, wrong, blob } = damage;
    let place = format!("damaged: volume {volume} at {start} to {end}: {wrong}");
    let Some(blob) = blob else { return place };
    let (version, length) = (blob.version, blob.length);
    let state = if blob.is_live { "" } else { ", not needed any more" };
    format!("{place}: {} version {version}, {length} bytes{state}", show::key(blob.key))
}

fn object(damage: &Damage<'_>) -> Value {
    let Damage { volume, start, end, wrong, blob } = damage;
    let mut object = Map::new();
    object.insert("volume".into(), json!(volume));
    object.insert("start".into(), json!(start));
    object.insert("end".into(), json!(end));
    object.insert("wrong".into(), json!(wrong));
    if let Some(blob) = blob {
        show::key_to(&mut object, blob.key);
        object.insert("version".into(), json!(blob.version));
        object.insert("length".into(), json!(blob.length));
        object.insert("live".into(), json!(blob.is_live));
    }
    Value::Object(object)
}

fn text(done: &Verified) -> String {
    let mut text = format!(
        "Read {} volumes with {} records, {}, and {} files of their own, {}\n",
        done.volumes,
        done.records,
        size::format(done.bytes),
        done.files,
        size::format(done.file_bytes)
    );
    if done.unfinished_bytes > 0 {
        let bytes = size::format(done.unfinished_bytes);
        text += &format!("Never acknowledged, so no damage: {bytes}, being written or left by a crash\n");
    }
    if done.unnamed_files > 0 {
        let bytes = size::format(done.unnamed_bytes);
        text +=
            &format!("Files that no record names: {}, {bytes}; a start removes them\n", done.unnamed_files);
    }
    text += saved_index(done.saved_index);
    text + &match done.damaged {
        0 => "\nNothing is damaged".to_owned(),
        count => format!("\nDamaged: {count}, listed above"),
    }
}
