//! What of the volumes a run was made of: it is believed as long as they still hold that.

use std::{io, sync::Arc};

use crate::storage::{checkpoint::mark, index::Place, restore::agrees, volume::Volume};

/// The volumes, up to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Nothing was left out of the run because of a record behind this place, and everything before it is durable.
    pub end: Place,
    /// CRC-32C of up to 4 KiB before the end.
    pub mark: u32,
    /// The volumes up to the end, ascending, with what of them is valid.
    pub volumes: Vec<(u32, u64)>,
}

impl Reach {
    /// Of these volumes, ascending, up to the end of a record.
    pub fn of(volumes: &[Arc<Volume>], end: Place) -> io::Result<Self> {
        let last = volumes.iter().find(|volume| volume.number == end.volume());
        // Nothing is to be compared where it is gone: compaction took it.
        let mark = last.map_or(Ok(0), |last| mark(last, end.offset()))?;
        let length = |volume: &Arc<Volume>| match volume.number == end.volume() {
            true => end.offset(),
            false => volume.end(),
        };
        let before = volumes.iter().take_while(|volume| volume.number <= end.volume());
        let volumes = before.map(|volume| (volume.number, length(volume))).collect();
        Ok(Self { end, mark, volumes })
    }

    /// Whether the volumes, which may have grown and may have been compacted, still hold it. Says what does not.
    pub fn check(&self, volumes: &[Arc<Volume>]) -> io::Result<Result<(), &'static str>> {
        let found: Vec<_> = volumes.iter().map(|volume| (volume.number, volume.end(), false)).collect();
        if let Err(reason) = agrees(self.end, &self.volumes, &found) {
            return Ok(Err(reason));
        }
        let last = volumes.iter().find(|volume| volume.number == self.end.volume());
        let is_same =
            last.map_or(Ok(true), |last| Ok::<_, io::Error>(mark(last, self.end.offset())? == self.mark))?;
        Ok(if is_same { Ok(()) } else { Err("the last volume was cut and written again") })
    }
}
