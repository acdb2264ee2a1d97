//! Where each blob was stored. A coordinator names a shard in its answer, and the blob is read as `/<shard>:<key>`; with
//! any other server it is `/<key>`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::RwLock;
use serde::Deserialize;

use crate::model::ShardId;

/// Not stored, or not known to be.
const NOWHERE: u32 = 0;

/// Under its key.
const PLAIN: u32 = 1;

/// In the shard of this number and on.
const FIRST_SHARD: u32 = 2;

/// Where the blobs of a run are: four bytes for each.
pub struct Placed {
    places: Vec<AtomicU32>,
    shards: RwLock<Vec<ShardId>>,
}

impl Placed {
    /// So many blobs, none of them stored.
    pub fn new(count: u32) -> Self {
        Self { places: (0..count).map(|_| AtomicU32::new(NOWHERE)).collect(), shards: RwLock::default() }
    }

    /// A blob was stored; this is the body of the answer.
    pub fn stored(&self, number: u32, answer: &[u8]) {
        #[derive(Deserialize)]
        struct Answer {
            shard_id: ShardId,
        }
        let place = match serde_json::from_slice::<Answer>(answer) {
            Ok(answer) => self.of_shard(answer.shard_id),
            Err(_) => PLAIN,
        };
        self.places[number as usize].store(place, Relaxed);
    }

    /// A blob was deleted.
    pub fn deleted(&self, number: u32) {
        self.places[number as usize].store(NOWHERE, Relaxed);
    }

    /// The path under which a blob with this key is read and deleted.
    pub fn path(&self, number: u32, key: &str) -> String {
        match self.places[number as usize].load(Relaxed).checked_sub(FIRST_SHARD) {
            None => format!("/{key}"),
            Some(shard) => format!("/{}:{key}", self.shards.read()[shard as usize]),
        }
    }

    /// The blobs that are stored.
    pub fn all(&self) -> Vec<u32> {
        let stored = |number: &u32| self.places[*number as usize].load(Relaxed) != NOWHERE;
        (0..self.places.len() as u32).filter(stored).collect()
    }

    fn of_shard(&self, shard: ShardId) -> u32 {
        let position = |shards: &[ShardId]| shards.iter().position(|known| *known == shard);
        let known = position(&self.shards.read());
        let at = known.unwrap_or_else(|| {
            let mut shards = self.shards.write();
            position(&shards).unwrap_or_else(|| {
                shards.push(shard.clone());
                shards.len() - 1
            })
        });
        FIRST_SHARD + at as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_read_where_the_answer_said() {
        let placed = Placed::new(5);
        placed.stored(0, b"");
        placed.stored(1, b"{\"shard_id\":\"7\"}\n");
        placed.stored(2, b"<html>stored</html>");
        placed.stored(3, br#"{"shard_id":"b"}"#);
        let paths: Vec<String> = (0..4).map(|number| placed.path(number, "x/1")).collect();
        assert_eq!(paths, ["/x/1", "/7:x/1", "/x/1", "/b:x/1"]);
        placed.deleted(1);
        assert_eq!(placed.all(), [0, 2, 3]);
    }
}
