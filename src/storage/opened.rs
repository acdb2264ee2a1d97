//! The volumes as a start finds them: which there are, and what of them is valid.

use std::{io, sync::Arc};

use super::{
    disk,
    index::Place,
    layout::Layout,
    options::OpenError,
    volume::{SUPERBLOCK_BYTES, Superblock, SuperblockError, Volume},
};

/// A volume, and what is known of it without reading its records.
pub struct Opened {
    /// The volume, readable up to its valid length.
    pub volume: Arc<Volume>,
    /// Bytes of its file.
    pub file_length: u64,
    /// Where its records end, if nothing was lost.
    pub expected_length: u64,
    /// Whether that is known: the superblock of the volume after it, which says so, was read, or there is none.
    length_is_sure: bool,
    /// As it was read; `None` if it is damaged.
    pub superblock: Option<Superblock>,
}

impl Opened {
    /// Whether its superblock was read.
    pub fn is_sound(&self) -> bool {
        self.superblock.is_some()
    }

    /// Whether what is valid of it is a guess: all there is.
    pub fn length_is_guessed(&self) -> bool {
        !self.length_is_sure
    }

    /// What is valid of it is told by somebody else.
    pub fn set_length(&mut self, length: u64) {
        self.expected_length = length;
        self.length_is_sure = true;
        self.volume.set_end(self.valid_length());
    }

    /// Up to where there may be records.
    pub fn valid_length(&self) -> u64 {
        self.expected_length.min(self.file_length)
    }
}

/// Opens all volumes. Where the directory is only looked at, those that are removed meanwhile are left out.
pub fn open_volumes(layout: &Layout) -> Result<Vec<Opened>, OpenError> {
    let numbers = layout.volume_numbers().map_err(OpenError::io("list the volumes"))?;
    let last = numbers.last().copied();
    let mut opened: Vec<Opened> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let volume = match open_volume(layout, number) {
            Err(OpenError::Io { source, .. }) if is_gone(layout, &source) => continue,
            opened => opened?,
        };
        let begun_only = !volume.is_sound() && volume.file_length <= SUPERBLOCK_BYTES;
        if begun_only && Some(number) == last {
            // The superblock is durable before the first record is written: there is none.
            if !layout.may_change() {
                continue;
            }
            tracing::warn!(volume = number, "a volume that was only begun is removed");
            disk::remove(&layout.volume(number))
                .and_then(|()| disk::sync_folder(&layout.volumes()))
                .map_err(OpenError::io(format!("remove volume {number}")))?;
            continue;
        }
        match (opened.last_mut(), volume.superblock) {
            // What the next volume does not vouch for was never acknowledged.
            (Some(previous), Some(superblock)) if superblock.previous == previous.volume.number => {
                previous.set_length(superblock.previous_length);
            }
            (Some(previous), None) => previous.length_is_sure = false,
            _ => {}
        }
        opened.push(volume);
    }
    Ok(opened)
}

fn is_gone(layout: &Layout, error: &io::Error) -> bool {
    !layout.may_change() && error.kind() == io::ErrorKind::NotFound
}

fn open_volume(layout: &Layout, number: u32) -> Result<Opened, OpenError> {
    let path = layout.volume(number);
    let refuse = |reason: String| OpenError::Format { path: path.clone(), reason };
    if number == 0 || number > Place::MAX_VOLUME {
        return Err(refuse(format!("volumes have numbers from 1 to {}", Place::MAX_VOLUME)));
    }
    let io_error = || OpenError::io(format!("open volume {number}"));
    let file = layout.open_volume(number).map_err(io_error())?;
    let length = file.metadata().map_err(io_error())?.len();
    if length >> 40 != 0 {
        return Err(refuse("longer than any volume".to_owned()));
    }
    let read = || Volume::superblock(&file, layout.store, number).map_err(io_error());
    let superblock = match read()? {
        // Compaction may be writing it just now.
        Err(SuperblockError::Damaged) if !layout.may_change() => read()?,
        superblock => superblock,
    };
    let superblock = match superblock {
        Ok(superblock) => Some(superblock),
        Err(SuperblockError::Refused(reason)) => return Err(refuse(reason)),
        Err(SuperblockError::Damaged) => None,
    };
    let volume = Arc::new(Volume::new(layout.store, number, Arc::new(file), length));
    Ok(Opened { volume, file_length: length, expected_length: length, length_is_sure: true, superblock })
}
