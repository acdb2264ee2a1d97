//! `volume dump`: a line for every record.

use std::{
    io::{self, BufWriter, Write},
    ops::Range,
};

use serde_json::{Map, Value, json};

use super::{
    place::{Place, said},
    show,
};
use crate::{
    admin::report::Form,
    storage::{Met, Record},
};

/// The command's example and what a line says.
const EXAMPLE: &str = "\
Example:
  backpack-admin volume dump /var/lib/backpack --prefix photos/ --meta

Each line: volume:offset, kind (blob, file, tombstone or gap), live or dead, version, length of the blob, checksum, key. With --meta a
tab and the metadata follow. Bytes that are no record are lines too, of the kinds damaged and unfinished (never acknowledged), unless
keys are chosen. Works while the node runs; memory as for `volume list`.";

/// The command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Dump {
    #[command(flatten)]
    place: Place,

    /// Only this volume
    #[arg(long, env = "BACKPACK_VOLUME", value_name = "N")]
    volume: Option<u32>,

    /// Only records of this key
    #[arg(long, env = "BACKPACK_VOLUME_KEY", value_name = "KEY")]
    key: Option<String>,

    /// Only records of keys that start so
    #[arg(long, env = "BACKPACK_VOLUME_PREFIX", value_name = "PREFIX", conflicts_with = "key")]
    prefix: Option<String>,

    /// Print the headers kept with each blob
    #[arg(
        long,
        env = "BACKPACK_VOLUME_META",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    meta: bool,
}

impl Dump {
    /// Does it, line by line.
    pub fn run(&self, form: Form) -> anyhow::Result<()> {
        let inspection = self.place.look()?;
        let mut out = BufWriter::new(io::stdout().lock());
        let mut written = Ok(());
        let walked = inspection.walk(self.volume, &mut |met| {
            written = match self.line(&met, form) {
                Some(line) => writeln!(out, "{line}"),
                None => Ok(()),
            };
            written.is_ok()
        });
        walked.map_err(said)?;
        match written.and_then(|()| out.flush()) {
            // A reader that went away (`| head`) is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => Ok(done?),
        }
    }

    /// The line of what is wanted.
    fn line(&self, met: &Met<'_>, form: Form) -> Option<String> {
        let all = self.key.is_none() && self.prefix.is_none();
        let (volume, bytes, kind) = match met {
            Met::Record(record) if self.wants(record.key()) => return Some(self.record(record, form)),
            Met::Damaged { volume, bytes } if all => (*volume, bytes, "damaged"),
            Met::Unfinished { volume, bytes } if all => (*volume, bytes, "unfinished"),
            _ => return None,
        };
        Some(stretch(volume, bytes, kind, form))
    }

    fn wants(&self, key: &[u8]) -> bool {
        self.key.as_ref().is_none_or(|wanted| wanted.as_bytes() == key)
            && self.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_bytes()))
    }

    fn record(&self, record: &Record<'_>, form: Form) -> String {
        if form == Form::Json {
            return self.object(record).to_string();
        }
        let Record { volume, offset, is_live, .. } = record;
        let (kind, state) = (record.kind(), if *is_live { "live" } else { "dead" });
        let (version, length, checksum) = (record.version(), record.length(), record.checksum());
        let key = show::key(record.key());
        let mut line = format!("{volume}:{offset} {kind} {state} {version} {length} {checksum} {key}");
        if self.meta {
            line += &format!("\t{}", show::meta(record.meta()));
        }
        line
    }

    fn object(&self, record: &Record<'_>) -> Value {
        let mut object = Map::new();
        object.insert("volume".into(), json!(record.volume));
        object.insert("offset".into(), json!(record.offset));
        object.insert("kind".into(), json!(record.kind()));
        object.insert("live".into(), json!(record.is_live));
        object.insert("version".into(), json!(record.version()));
        object.insert("length".into(), json!(record.length()));
        object.insert("checksum".into(), json!(record.checksum()));
        show::key_to(&mut object, record.key());
        if self.meta {
            object.insert("meta".into(), show::meta(record.meta()));
        }
        Value::Object(object)
    }
}

fn stretch(volume: u32, bytes: &Range<u64>, kind: &str, form: Form) -> String {
    let (offset, length) = (bytes.start, bytes.end - bytes.start);
    match form {
        Form::Text => format!("{volume}:{offset} {kind} - - {length} - -"),
        Form::Json => json!({"volume": volume, "offset": offset, "kind": kind, "length": length}).to_string(),
    }
}
