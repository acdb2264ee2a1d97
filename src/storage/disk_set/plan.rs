//! `DISKS`: which directories make up a node's storage, and which of them a key is in. Every directory has a copy; the
//! one with the greatest revision counts. `docs/format.md` draws it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    model::Version,
    storage::{layout::write_durably, options::OpenError},
};

/// The file's name.
pub const NAME: &str = "DISKS";
const FORMAT_NAME: &str = "backpack-disks";
/// A greater one is refused.
const FORMAT_VERSION: u32 = 1;
/// Keys are spread over so many slots by their hash: fine enough that 100 disks of different sizes fill evenly.
pub const SLOTS: usize = 4096;

/// Which directories make up the storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    format: String,
    version: u32,
    /// Of the whole, kept for good: the id of its first disk.
    pub id: Version,
    /// Grows with each change.
    pub revision: u64,
    /// Of the hash that gives a key its slot.
    seed: u64,
    /// The directories.
    pub disks: Vec<Member>,
    /// Who takes which slots, oldest first. New keys go by the last one; each one before it was the last once, so a key
    /// may be where it says.
    pub generations: Vec<Vec<Share>>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The id in its `FORMAT`.
    pub id: Version,
    /// Where it was last.
    pub dir: PathBuf,
}

/// Slots that follow those of the share before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Whose they are. No member any more: what was there is given up.
    pub disk: Version,
    /// How many.
    pub slots: u32,
}

impl Plan {
    /// Of no directory yet, so without an id.
    pub fn new() -> Self {
        Self {
            id: Version::from_bytes([0; 16]),
            format: FORMAT_NAME.to_owned(),
            version: FORMAT_VERSION,
            revision: 0,
            seed: fastrand::u64(..),
            disks: Vec::new(),
            generations: Vec::new(),
        }
    }

    /// The plan in a directory, if it has one.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io(format!("read {}", path.display()))(error)),
        };
        let plan: Result<Self, _> = serde_json::from_slice(&bytes);
        let reason = match plan {
            Ok(plan) if plan.format == FORMAT_NAME && plan.version == FORMAT_VERSION => match plan.flaw() {
                None => return Ok(Some(plan)),
                Some(flaw) => flaw.to_owned(),
            },
            Ok(plan) => format!("{:?} of version {} is not known to this program", plan.format, plan.version),
            Err(error) => format!("it cannot be read: {error}"),
        };
        Err(OpenError::Format { path, reason })
    }

    /// Writes it into a directory, durably.
    pub fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let context = format!("write {}", dir.join(NAME).display());
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| OpenError::io(context.clone())(error.into()))?;
        write_durably(dir, NAME, &text).map_err(OpenError::io(context))
    }

    /// Begins a generation in which each disk has slots in proportion to its weight: the bytes it has free, so that all
    /// are full at the same time.
    pub fn begin_generation(&mut self, weights: &[(Version, u64)]) {
        let all: u128 = weights.iter().map(|(_, weight)| u128::from((*weight).max(1))).sum();
        let (mut before, mut given) = (0, 0);
        let share = |&(disk, weight): &(Version, u64)| {
            before += u128::from(weight.max(1));
            // Rounded on the sum, so that all slots are given and none twice.
            let until = (before * SLOTS as u128 / all) as u32;
            let slots = until - given;
            given = until;
            Share { disk, slots }
        };
        self.generations.push(weights.iter().map(share).collect());
    }

    /// The slot of a key.
    pub fn slot(&self, key: &[u8]) -> usize {
        xxh3_64_with_seed(key, self.seed) as usize % SLOTS
    }

    /// For each slot, the members that may hold its keys, as their numbers in [`Plan::disks`]: first the one that takes
    /// new ones.
    pub fn homes(&self) -> Vec<Box<[usize]>> {
        let mut homes = vec![Vec::new(); SLOTS];
        for generation in self.generations.iter().rev() {
            let mut slots = homes.iter_mut();
            for share in generation {
                let disk = self.disks.iter().position(|disk| disk.id == share.disk);
                for homes in slots.by_ref().take(share.slots as usize) {
                    homes.extend(disk.filter(|disk| !homes.contains(disk)));
                }
            }
        }
        homes.into_iter().map(Vec::into_boxed_slice).collect()
    }

    /// What is wrong with a plan that was read.
    fn flaw(&self) -> Option<&'static str> {
        let has_all = |generation: &Vec<Share>| {
            generation.iter().map(|share| u64::from(share.slots)).sum::<u64>() == SLOTS as u64
        };
        let is_member = |share: &Share| self.disks.iter().any(|disk| disk.id == share.disk);
        match self.generations.last() {
            None => Some("it gives no disk any slots"),
            Some(last) if !last.iter().all(is_member) => Some("it gives slots to a disk that is no member"),
            _ if !self.generations.iter().all(has_all) => Some("a generation does not give each slot once"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> Version {
        Version::from_parts(n, 1)
    }

    fn plan(ids: &[u64]) -> Plan {
        let disks = ids.iter().map(|&n| Member { id: id(n), dir: format!("/disk{n}").into() }).collect();
        Plan { disks, ..Plan::new() }
    }

    #[test]
    fn slots_go_by_weight_and_each_has_one_home() {
        let mut plan = plan(&[1, 2, 3]);
        plan.begin_generation(&[(id(1), 3000), (id(2), 1000), (id(3), 0)]);
        let homes = plan.homes();
        let of = |n| homes.iter().filter(|homes| ***homes == [n]).count();
        assert_eq!((of(0), of(1), of(2)), (3071, 1023, 2));
        assert_eq!(plan.flaw(), None);
    }

    #[test]
    fn a_key_may_be_where_any_generation_says() {
        let mut plan = plan(&[1, 2]);
        plan.begin_generation(&[(id(1), 1)]);
        plan.begin_generation(&[(id(1), 1), (id(2), 1)]);
        let homes = plan.homes();
        assert_eq!((&*homes[0], &*homes[SLOTS - 1]), (&[0][..], &[1, 0][..]));
        plan.disks.remove(0);
        plan.begin_generation(&[(id(2), 1)]);
        assert!(plan.homes().iter().all(|homes| **homes == [0]));
    }

    #[test]
    fn written_and_read_again_and_refused_where_it_makes_no_sense() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), None);
        let mut plan = plan(&[1, 2]);
        plan.begin_generation(&[(id(1), 5), (id(2), 6)]);
        plan.write(dir.path()).unwrap();
        assert_eq!(Plan::read(dir.path()).unwrap(), Some(plan.clone()));
        let text = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        for bad in [
            text.replace("\"version\": 1", "\"version\": 2"),
            text.replace("backpack-disks", "other"),
            text.replace("\"slots\": 1861", "\"slots\": 4294967295"),
            text.replace(&id(2).to_string(), &id(3).to_string()).replacen(
                &id(3).to_string(),
                &id(2).to_string(),
                1,
            ),
            text[..text.len() / 2].to_owned(),
            String::new(),
        ] {
            assert_ne!(bad, text);
            std::fs::write(dir.path().join(NAME), &bad).unwrap();
            assert!(matches!(Plan::read(dir.path()), Err(OpenError::Format { .. })), "{bad}");
        }
    }
}
