//! Memory that is read into. It is used again: fresh memory costs more in zeroing and page faults than the read itself.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{READ_CHUNK_BYTES, blocks::BLOCK_BYTES};

/// Room for a chunk that begins and ends inside blocks. What is longer gets memory of its own.
const LARGEST_BYTES: usize = (READ_CHUNK_BYTES + 2 * BLOCK_BYTES) as usize;
/// All sizes, so that no buffer is more than twice as large as what it holds while that is sent, but the smallest.
const SIZES: [usize; 10] =
    [1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, LARGEST_BYTES];
/// Of each size so much is kept for the next reads; more comes and goes with the load.
const KEPT_BYTES: usize = 4 << 20;

/// Buffers that wait to be used again, by size.
#[derive(Debug, Default)]
pub struct Buffers([Mutex<Vec<Vec<u8>>>; SIZES.len()]);

impl Buffers {
    /// A buffer of that many bytes. What is in it is left from before.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let Some(size) = SIZES.iter().position(|size| length <= *size) else {
            return Buffer { bytes: vec![0; length], length, home: None };
        };
        let kept = self.0[size].lock().pop();
        let bytes = kept.unwrap_or_else(|| vec![0; SIZES[size]]);
        Buffer { bytes, length, home: Some((self.clone(), size)) }
    }
}

/// Memory to read into; as [`Bytes`] it goes back to where it came from with the last slice of it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Option<(Arc<Buffers>, usize)>,
}

impl Buffer {
    /// What is read into.
    pub fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Keeps the first `length` bytes only.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// The bytes, to be shared and sliced without copying.
    pub fn freeze(mut self) -> Bytes {
        if self.home.is_some() {
            return Bytes::from_owner(self);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(self.length);
        Bytes::from(bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((home, size)) = self.home.take() {
            let mut kept = home.0[size].lock();
            if kept.len() < KEPT_BYTES / SIZES[size] {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(buffers: &Buffers) -> Vec<usize> {
        buffers.0.iter().map(|kept| kept.lock().len()).collect()
    }

    #[test]
    fn buffers_come_back_when_the_last_slice_goes() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(200_000);
        buffer.as_mut()[199_999] = 9;
        let bytes = buffer.freeze();
        let slice = bytes.slice(199_999..);
        drop(bytes);
        assert_eq!((slice[0], kept(&buffers)), (9, vec![0; SIZES.len()]));
        drop(slice);
        assert_eq!(kept(&buffers), [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(buffers.take(200_001).as_ref().len(), 200_001);
    }

    #[test]
    fn each_size_has_its_own_and_huge_ones_are_not_kept() {
        let buffers = Arc::new(Buffers::default());
        for length in [0, 1 << 10, (1 << 10) + 1, LARGEST_BYTES, LARGEST_BYTES + 1] {
            let mut buffer = buffers.take(length);
            buffer.truncate(length / 2);
            assert_eq!(buffer.freeze().len(), length / 2);
        }
        assert_eq!(kept(&buffers), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        let many: Vec<Buffer> = (0..100).map(|_| buffers.take(100_000)).collect();
        drop(many);
        assert_eq!(kept(&buffers), [0, 0, 0, 0, 0, 0, 0, KEPT_BYTES / (128 << 10), 0, 0]);
    }
}
