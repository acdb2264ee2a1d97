//! What must be true of every history, whatever went wrong in it. Pure, on what was recorded and what the disks hold.

use backpack::model::Version;
use http::StatusCode;

use super::{
    cluster::{Cluster, Held, REPLAY},
    plan::Act,
    users::{Deed, History},
};

/// Everything that is not as promised, in sentences.
pub fn check(cluster: &Cluster, history: &History) -> Vec<String> {
    let mut wrong = history.lies.clone();
    let writes: Vec<Write> = history.deeds.iter().enumerate().filter_map(Write::of).collect();
    for write in &writes {
        if !write.deed.believed_a_lie() {
            wrong.extend(is_everywhere(cluster, write, history));
        }
        wrong.extend(is_newest(write, &writes));
    }
    wrong.extend(history.deeds.iter().enumerate().filter_map(|(place, deed)| follows(cluster, place, deed)));
    wrong.extend(reads(cluster, history, &writes));
    wrong.extend(history.deeds.iter().enumerate().filter_map(outruns));
    wrong
}

/// A write that was acknowledged.
struct Write<'a> {
    place: usize,
    deed: &'a Deed,
    shard: usize,
    version: Version,
    /// That there must be.
    copies: usize,
    of: usize,
}

impl<'a> Write<'a> {
    fn of((place, deed): (usize, &'a Deed)) -> Option<Self> {
        let (shard, version, copies) = deed.acknowledged()?;
        let of = deed.answer.as_ref()?.1.copies?.1;
        Some(Self { place, deed, shard, version, copies, of })
    }

    fn is_of(&self, shard: usize, key: &str) -> bool {
        self.shard == shard && self.deed.step.key == key
    }

    /// What a server holds that has exactly this.
    fn left(&self) -> Held {
        match self.deed.step.act {
            Act::Delete { .. } => Held::Tombstone(self.version),
            _ => Held::Blob(self.version, self.deed.bytes.clone()),
        }
    }
}

/// Every server of its shard holds it, or something newer that somebody meant to write.
fn is_everywhere(cluster: &Cluster, write: &Write, history: &History) -> Vec<String> {
    let key = &write.deed.step.key;
    let judge = |(server, held): (usize, Held)| {
        let meant = match &held {
            held if held.version() == Some(write.version) => *held == write.left(),
            held if held.version() < Some(write.version) => false,
            held => is_meant(held, write.shard, key, history),
        };
        let Write { place, shard, version, .. } = write;
        (!meant).then(|| {
            format!(
                "#{place} {key} {version} was acknowledged, but server {server} of shard {shard} holds {}",
                short(&held)
            )
        })
    };
    cluster.held(write.shard, key).into_iter().enumerate().filter_map(judge).collect()
}

/// Whether this is what some request asked for: under the version that it was acknowledged as, if it was, or one that it had
/// before, for a write that meets a newer version takes a newer one yet.
fn is_meant(held: &Held, shard: usize, key: &str, history: &History) -> bool {
    history.deeds.iter().filter(|deed| deed.step.key == key).any(|deed| {
        let same = match (held, &deed.step.act) {
            (Held::Tombstone(_), Act::Delete { shard: of, .. }) => *of == shard,
            (Held::Blob(_, bytes), Act::Put { .. }) => *bytes == deed.bytes,
            _ => false,
        };
        let acknowledged = deed.acknowledged();
        same && acknowledged.is_none_or(|(of, version, _)| of != shard || Some(version) >= held.version())
    })
}

/// It is newer than every write that was acknowledged before it began, where a server must have known of both: one
/// coordinator gave both, or so many servers had each that one had both.
fn is_newest(write: &Write, writes: &[Write]) -> Vec<String> {
    let key = &write.deed.step.key;
    let before = writes
        .iter()
        .filter(|before| before.is_of(write.shard, key) && before.deed.ended() < write.deed.began);
    let older = before.filter(|before| {
        let met = before.copies + write.copies > write.of;
        let same = before.deed.step.coordinator == write.deed.step.coordinator;
        (met || same) && before.version >= write.version
    });
    let say = |before: &Write| {
        format!(
            "#{} {key} was acknowledged as {} ({} copies), though #{} had been as {} ({} copies)",
            write.place, write.version, write.copies, before.place, before.version, before.copies
        )
    };
    older.map(say).collect()
}

/// "Done on 1 of 2, the others follow": then they do, where it is not overtaken.
fn follows(cluster: &Cluster, place: usize, deed: &Deed) -> Option<String> {
    let (_, answer) = deed.answer.as_ref()?;
    let said = String::from_utf8_lossy(&answer.body);
    let is_upload = matches!(deed.step.act, Act::Put { .. });
    if !is_upload || answer.status != StatusCode::SERVICE_UNAVAILABLE || !said.contains("the others follow") {
        return None;
    }
    (0..cluster.shards.len()).find_map(|shard| {
        let held = cluster.held(shard, &deed.step.key);
        let is_its = |held: &&Held| matches!(held, Held::Blob(_, bytes) if *bytes == deed.bytes);
        let version = held.iter().filter(is_its).map(Held::version).max()?;
        let behind = held.iter().position(|held| held.version() < version)?;
        let held: Vec<_> = held.iter().map(short).collect();
        let key = &deed.step.key;
        Some(format!(
            "#{place} {key} was to follow, but server {behind} of shard {shard} is behind: {held:?}"
        ))
    })
}

/// No read gave what nobody had uploaded, nor less than what every server had before it began.
fn reads(cluster: &Cluster, history: &History, writes: &[Write]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, deed) in history.deeds.iter().enumerate() {
        let (Act::Get { shard }, Some((_, answer))) = (&deed.step.act, &deed.answer) else { continue };
        let key = &deed.step.key;
        let known = writes.iter().filter(|write| {
            write.is_of(*shard, key) && write.copies == write.of && write.deed.ended() < deed.began
        });
        let floor = known.map(|write| write.version).max();
        let got = match answer.status {
            StatusCode::OK => Held::Blob(answer.version.unwrap(), answer.body.clone()),
            StatusCode::GONE => Held::Tombstone(answer.version.unwrap()),
            StatusCode::NOT_FOUND => Held::Nothing,
            _ => continue,
        };
        // A delete may be only on a server that is not asked yet, or no more.
        let is_certain = |write: &&Write| {
            let is_delete = matches!(write.deed.step.act, Act::Delete { .. });
            write.copies > usize::from(is_delete && cluster.has_one_on_its_way(*shard))
        };
        let has_been = |write: &&Write| write.is_of(*shard, key) && write.deed.ended() < deed.began;
        let any = writes.iter().filter(has_been).find(is_certain);
        if let (Held::Nothing, Some(before)) = (&got, any) {
            wrong.push(format!(
                "#{place} was told that no server has {key}, though #{} was acknowledged before",
                before.place
            ));
        }
        if got.version() < floor {
            wrong.push(format!(
                "#{place} read {key} as {}, though all servers had {floor:?} before",
                short(&got)
            ));
        }
        if got != Held::Nothing && !is_meant(&got, *shard, key, history) {
            wrong.push(format!("#{place} read {key} as {}, which nobody wrote", short(&got)));
        }
    }
    wrong
}

/// A coordinator whose clock is behind follows the others', as long as it can begin again.
fn outruns((place, deed): (usize, &Deed)) -> Option<String> {
    let (_, answer) = deed.answer.as_ref()?;
    let gave_up = answer.status == StatusCode::CONFLICT && deed.bytes.len() as u64 <= REPLAY;
    gave_up.then(|| format!("#{place} {} was refused for a newer version", deed.step.key))
}

fn short(held: &Held) -> String {
    match held {
        Held::Nothing => "nothing".to_owned(),
        Held::Tombstone(version) => format!("a tombstone {version}"),
        Held::Blob(version, bytes) => {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(12)]).into_owned();
            format!("{version} ({} bytes: {start})", bytes.len())
        }
    }
}
