//! A blob being written: in memory while it is small and there is memory, else in a file of its own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobWriter, NewBlob, StorageError, Written,
    blocks::block_sums,
    budget::Reservation,
    commit::{Content, commit},
    file_body::FileBody,
    pairs,
    shared::Shared,
};
use crate::model::{Checksum, Crc64};

/// The first piece of memory of a blob whose length is not known, or is more than this.
const FIRST_BYTES: u64 = 64 << 10;

/// A blob being written.
pub struct Body {
    shared: Arc<Shared>,
    blob: NewBlob,
    pairs: Vec<u8>,
    crc: Crc64,
    received: u64,
    store: Store,
}

enum Store {
    Memory(MemoryBody),
    File(Box<FileBody>),
    /// An error came up, or a call was cancelled half way: what there is is not whole.
    Broken,
}

impl Body {
    /// Begins a blob.
    pub async fn create(shared: Arc<Shared>, blob: NewBlob) -> Result<Self, StorageError> {
        shared.health.check()?;
        shared.check_room(blob.length.unwrap_or(0))?;
        let Some(pairs) = pairs::encode(&blob.meta) else {
            return Err(misuse(format!("the metadata has more than {} bytes", pairs::MAX_PAIRS_BYTES)));
        };
        let store = if blob.length.is_some_and(|length| length > shared.options.small_limit) {
            Store::File(Box::new(FileBody::create(shared.clone()).await?))
        } else {
            Store::Memory(MemoryBody { bytes: Vec::new(), share: shared.budget.share() })
        };
        Ok(Self { shared, blob, pairs, crc: Crc64::default(), received: 0, store })
    }

    /// The most that may still come, for sizing memory.
    fn most(&self) -> u64 {
        self.blob.length.unwrap_or(u64::MAX).min(self.shared.options.small_limit)
    }
}

#[async_trait]
impl BlobWriter for Body {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let got = self.received.saturating_add(bytes.len() as u64);
        let store = std::mem::replace(&mut self.store, Store::Broken);
        if let Some(announced) = self.blob.length.filter(|&announced| got > announced) {
            return Err(StorageError::WrongLength { announced, got });
        }
        self.store = match store {
            Store::Memory(mut memory) => {
                if memory.push(&bytes, self.most()) {
                    Store::Memory(memory)
                } else {
                    let mut file = FileBody::create(self.shared.clone()).await?;
                    file.push(&memory.bytes).await?;
                    drop(memory);
                    file.push(&bytes).await?;
                    Store::File(Box::new(file))
                }
            }
            Store::File(mut file) => {
                file.push(&bytes).await?;
                Store::File(file)
            }
            Store::Broken => return Err(misuse("the blob failed before".to_owned())),
        };
        self.crc.update(&bytes);
        self.received = got;
        Ok(())
    }

    fn checksum(&self) -> Checksum {
        self.crc.finish()
    }

    async fn commit(self: Box<Self>) -> Result<Written, StorageError> {
        let Self { shared, blob, pairs, crc, received, store } = *self;
        if let Some(announced) = blob.length.filter(|&announced| announced != received) {
            return Err(StorageError::WrongLength { announced, got: received });
        }
        let content = match store {
            Store::Memory(MemoryBody { bytes, share }) => {
                let sums = if bytes.len() > super::blocks::BLOCK_BYTES as usize {
                    block_sums(&bytes)
                } else {
                    // One block: the blob's own checksum covers it.
                    Vec::new()
                };
                Content::Memory { data: Bytes::from(bytes), sums, share }
            }
            Store::File(file) => Content::File(file),
            Store::Broken => return Err(misuse("the blob failed before".to_owned())),
        };
        let checksum = crc.finish();
        let before = commit(&shared, blob.key, blob.version, checksum, pairs, content).await?;
        Ok(Written { before, checksum, length: received })
    }
}

struct MemoryBody {
    bytes: Vec<u8>,
    share: Reservation,
}

impl MemoryBody {
    /// Takes the bytes if the blob stays within `most` and there is memory.
    fn push(&mut self, bytes: &[u8], most: u64) -> bool {
        let need = self.bytes.len() as u64 + bytes.len() as u64;
        if need > most {
            return false;
        }
        if need > self.share.bytes() {
            let ample = (2 * self.share.bytes()).max(FIRST_BYTES).max(need).min(most);
            if !self.share.grow_to(ample) && !self.share.grow_to(need) {
                return false;
            }
            self.bytes.reserve_exact(self.share.bytes() as usize - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        true
    }
}

fn misuse(what: String) -> StorageError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
    StorageError::Io { context: "write a blob".to_owned(), source }
}
