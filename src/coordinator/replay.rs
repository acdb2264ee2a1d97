//! The memory that the beginnings of uploads are kept in, so that they can be sent anew: bounded for each of them, and for
//! all together, however many are open.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;

/// Of each upload so much is kept whatever the others keep: most are no longer.
const ALWAYS_BYTES: u64 = 16 << 10;

/// Parts up to this length, together, are kept as one: each takes some 70 bytes besides its own, and a client may send single ones.
const JOINED_BYTES: usize = 1 << 10;

/// Memory for all uploads, beyond the first [`ALWAYS_BYTES`] of each.
#[derive(Debug)]
pub struct Room {
    left: AtomicU64,
}

impl Room {
    /// So many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// The beginning of one upload, in the parts in which it came; small ones are joined.
#[derive(Debug)]
pub struct Kept {
    room: Arc<Room>,
    /// Bytes at most.
    limit: u64,
    parts: Vec<Bytes>,
    length: u64,
    /// Bytes of the room that are ours.
    taken: u64,
}

impl Kept {
    /// Nothing yet, and never more than `limit` bytes.
    pub fn new(room: &Arc<Room>, limit: u64) -> Self {
        Self { room: room.clone(), limit, parts: Vec::new(), length: 0, taken: 0 }
    }

    /// Whether a body of that length is kept whatever the others keep.
    pub fn always_keeps(&self, length: u64) -> bool {
        length <= self.limit.min(ALWAYS_BYTES)
    }

    /// Keeps the next part; `false` if it is too much, or there is no room left.
    pub fn keep(&mut self, part: &Bytes) -> bool {
        let length = self.length + part.len() as u64;
        let need = length.saturating_sub(ALWAYS_BYTES) - self.taken;
        if length > self.limit || !self.room.take(need) {
            return false;
        }
        self.length = length;
        self.taken += need;
        match self.parts.last_mut().filter(|last| last.len() + part.len() <= JOINED_BYTES) {
            Some(last) => *last = [&last[..], part].concat().into(),
            None => self.parts.push(part.clone()),
        }
        true
    }

    /// All parts.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// What is kept of the part with the byte at that position, from there on.
    pub fn part_at(&self, position: u64) -> Option<Bytes> {
        let mut skipped = usize::try_from(position).ok()?;
        for part in &self.parts {
            if skipped < part.len() {
                return Some(part.slice(skipped..));
            }
            skipped -= part.len();
        }
        None
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.taken, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(length: u64) -> Bytes {
        vec![7; length as usize].into()
    }

    #[test]
    fn parts_are_found_by_their_bytes() {
        let mut kept = Kept::new(&Room::new(0), 3000);
        assert!(kept.keep(&part(1000)) && kept.keep(&part(1200)));
        for (position, length) in
            [(0, Some(1000)), (999, Some(1)), (1000, Some(1200)), (1300, Some(900)), (2200, None)]
        {
            assert_eq!(kept.part_at(position).map(|part| part.len()), length, "{position}");
        }
        assert!(kept.keep(&part(800)) && !kept.keep(&part(1)), "no more than its limit");
        assert_eq!(kept.parts().len(), 3);
    }

    #[test]
    fn single_bytes_are_kept_together() {
        let mut kept = Kept::new(&Room::new(0), ALWAYS_BYTES);
        let all: Vec<u8> = (0..ALWAYS_BYTES).map(|n| (n % 251) as u8).collect();
        for byte in &all {
            assert!(kept.keep(&Bytes::copy_from_slice(&[*byte])));
        }
        assert_eq!(kept.parts().len(), all.len() / JOINED_BYTES);
        assert_eq!(kept.parts().concat(), all);
        // Whatever was handed out: the rest follows without a gap.
        for begin in [0, 1, 1023, 1024, 5000, all.len() - 1] {
            let mut rest = Vec::new();
            while let Some(part) = kept.part_at((begin + rest.len()) as u64) {
                rest.extend_from_slice(&part);
            }
            assert_eq!(rest, all[begin..], "{begin}");
        }
    }

    #[test]
    fn all_together_have_no_more_than_the_room() {
        let room = Room::new(1000);
        let mut first = Kept::new(&room, u64::MAX);
        let mut second = Kept::new(&room, u64::MAX);
        assert!(first.keep(&part(ALWAYS_BYTES)) && second.keep(&part(ALWAYS_BYTES)), "of each so much");
        assert!(first.keep(&part(600)));
        assert!(!second.keep(&part(600)));
        assert!(second.keep(&part(400)) && !first.keep(&part(1)));
        drop(first);
        assert_eq!(room.left.load(Relaxed), 600);
        assert!(second.keep(&part(600)));
        drop(second);
        assert_eq!(room.left.load(Relaxed), 1000);
    }
}
