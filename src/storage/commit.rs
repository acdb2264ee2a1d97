//! The last step of a write or a delete: see what is there, hand it to the writer, clean up behind it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Before, StorageError,
    budget::Reservation,
    decide::{Verdict, decide},
    file_body::FileBody,
    record::Kind,
    shared::Shared,
    writer::Request,
};
use crate::model::{Checksum, Key, Version};

/// What is written.
pub enum Content {
    /// A small blob.
    Memory {
        /// Its bytes.
        data: Bytes,
        /// Sums of its blocks, if they are more than one.
        sums: Vec<u32>,
        /// The memory they take.
        share: Reservation,
    },
    /// A blob in a file of its own, not yet finished.
    File(Box<FileBody>),
    /// A delete.
    Tombstone,
}

impl Content {
    fn kind(&self) -> Kind {
        match self {
            Self::Memory { .. } => Kind::Blob,
            Self::File(_) => Kind::File,
            Self::Tombstone => Kind::Tombstone,
        }
    }
}

/// Makes the write, durably, unless the key holds that version or a newer one.
pub async fn commit(
    shared: &Arc<Shared>,
    key: Key,
    version: Version,
    checksum: Checksum,
    pairs: Vec<u8>,
    content: Content,
) -> Result<Before, StorageError> {
    shared.health.check()?;
    let hash = shared.hash(key.as_str().as_bytes());
    let kind = content.kind();
    // What the index holds is durable, so a write that comes too late needs nothing more. The writer decides again.
    let known = shared.look_up(hash, &key).await;
    let old = known.map(|known| known.old(&shared.damage));
    if let Verdict::Newer(held) = decide(version, kind, old.as_ref()) {
        return Ok(Before::Newer(held));
    }
    let (data, sums, reservation, finished) = match content {
        Content::Memory { data, sums, share } => (data, sums, Some(share), None),
        Content::File(body) => (Bytes::new(), Vec::new(), None, Some(body.finish().await?)),
        Content::Tombstone => (Bytes::new(), Vec::new(), None, None),
    };
    let (file, doomed) = finished.unzip();
    let done = shared
        .submit(|permit, answer| Request {
            hash,
            key,
            version,
            kind,
            checksum,
            pairs,
            sums,
            data,
            file,
            doomed,
            known,
            moved: None,
            _reservation: reservation,
            _permit: Some(permit),
            answer,
        })
        .await?;
    // Removed by a thread that may wait, while the caller goes on.
    drop(done.stale);
    Ok(done.before)
}
