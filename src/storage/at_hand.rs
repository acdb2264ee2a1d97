//! A blob in memory.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{BlobInfo, record::FIXED_BYTES};

/// What a blob takes beside the bytes of its record: what is known of it, its counters, a label without metadata.
const BESIDE_BYTES: usize = 576;
/// And a pair of its metadata beside its text.
const BESIDE_PAIR_BYTES: usize = 96;
/// Times that the text of its metadata is there: in the record, as text, on the label.
const META_TIMES: usize = 3;

/// A blob in memory, whole and checked. Some are kept there, because they are read again and again.
#[derive(Debug)]
pub struct AtHand {
    key: Bytes,
    info: BlobInfo,
    data: Bytes,
    label: OnceLock<Box<[u8]>>,
}

impl AtHand {
    /// A blob of that key with these bytes.
    pub fn new(key: Bytes, info: BlobInfo, data: Bytes) -> Self {
        Self { key, info, data, label: OnceLock::new() }
    }

    /// Its key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What is known of it.
    pub fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// Its bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// What whoever gives it out writes on it, which is always the same: made once, and kept as long as the blob is.
    pub fn label(&self, make: impl FnOnce(&BlobInfo) -> Vec<u8>) -> &[u8] {
        self.label.get_or_init(|| make(&self.info).into())
    }

    /// The memory that it takes while it is kept, about, in bytes; its label counts from the beginning.
    pub fn memory_bytes(&self) -> usize {
        let pairs = self.info.meta.pairs();
        let text: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let record = FIXED_BYTES + self.key.len() + self.data.len();
        record + META_TIMES * text + pairs.len() * BESIDE_PAIR_BYTES + BESIDE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Checksum, Meta, Version};

    #[test]
    fn a_label_is_written_once_and_metadata_takes_room() {
        let blob = |pairs: Vec<(String, String)>| {
            let info = BlobInfo {
                version: Version::from_parts(1, 1),
                length: 5,
                checksum: Checksum::of(b"bytes"),
                meta: Meta::from_pairs(pairs),
            };
            AtHand::new(Bytes::from_static(b"k"), info, Bytes::from_static(b"bytes"))
        };
        let plain = blob(Vec::new());
        assert_eq!(plain.label(|info| info.length.to_string().into()), b"5");
        assert_eq!(plain.label(|_| unreachable!("it has one")), b"5");
        let named = blob(vec![("a".repeat(10), "b".repeat(90))]);
        assert!(named.memory_bytes() >= plain.memory_bytes() + 300);
    }
}
