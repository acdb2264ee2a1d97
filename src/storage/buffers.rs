//! Memory that is read into. Big buffers are used again: fresh ones cost more in zeroing and page faults than the
//! read itself.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{READ_CHUNK_BYTES, blocks::BLOCK_BYTES};

/// Room for a chunk that begins and ends inside blocks.
const POOLED_BYTES: usize = (READ_CHUNK_BYTES + 2 * BLOCK_BYTES) as usize;
/// Shorter reads get memory of their own: a pooled buffer would hold more than they need while they are sent.
const POOL_FROM_BYTES: usize = POOLED_BYTES / 2;
/// Buffers kept for the next reads; more come and go with the load.
const KEPT: usize = 64;

/// Buffers that wait to be used again.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of that many bytes. What is in it is left from before.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        if !(POOL_FROM_BYTES..=POOLED_BYTES).contains(&length) {
            return Buffer { bytes: vec![0; length], length, home: None };
        }
        let bytes = self.0.lock().pop().unwrap_or_else(|| vec![0; POOLED_BYTES]);
        Buffer { bytes, length, home: Some(self.clone()) }
    }
}

/// Memory to read into; as [`Bytes`] it goes back to the pool with the last slice of it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Option<Arc<Buffers>>,
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
        if let Some(home) = self.home.take() {
            let mut kept = home.0.lock();
            if kept.len() < KEPT {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_buffers_come_back_when_the_last_slice_goes() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(300_000);
        buffer.as_mut()[299_999] = 9;
        let bytes = buffer.freeze();
        let slice = bytes.slice(299_999..);
        drop(bytes);
        assert_eq!((slice[0], buffers.0.lock().len()), (9, 0));
        drop(slice);
        assert_eq!(buffers.0.lock().len(), 1);
        assert_eq!(buffers.take(300_000).as_ref().len(), 300_000);
    }

    #[test]
    fn small_ones_and_huge_ones_do_not() {
        let buffers = Arc::new(Buffers::default());
        for length in [0, 1000, POOLED_BYTES + 1] {
            let mut buffer = buffers.take(length);
            buffer.truncate(length / 2);
            assert_eq!(buffer.freeze().len(), length / 2);
        }
        assert!(buffers.0.lock().is_empty());
    }
}
