//! A blob open for reading: its bytes, verified, from wherever they are.

use std::{fs::File, io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    Blob, BlobInfo, StorageError,
    blocks::{self, BLOCK_BYTES, around},
    damage::Damage,
    index::Place,
    lookup::Fetched,
    pread::{Reads, is_unreadable},
    verify::Wrong,
    volume::Volume,
    whole,
};
use crate::model::Checksum;

/// Where the bytes are.
pub enum Source {
    /// In memory, verified.
    Memory(Bytes),
    /// In a volume, from that offset on.
    Volume {
        /// The volume.
        volume: Arc<Volume>,
        /// The first byte.
        offset: u64,
        /// Sums of the blocks, 4 bytes each.
        sums: Bytes,
    },
    /// In a file of their own.
    File(Arc<File>),
}

/// A blob open for reading. It needs nothing of the engine but what is counted.
pub struct OpenBlob {
    info: BlobInfo,
    /// The hash of its key and where its record is: what damage is noted under.
    spot: (u64, Place),
    source: Source,
    reads: Arc<Reads>,
    damage: Arc<Damage>,
}

impl OpenBlob {
    /// A blob whose bytes are there.
    pub fn new(
        info: BlobInfo,
        spot: (u64, Place),
        source: Source,
        reads: Arc<Reads>,
        damage: Arc<Damage>,
    ) -> Self {
        Self { info, spot, source, reads, damage }
    }

    fn damaged(&self, wrong: Wrong) -> StorageError {
        self.damage.found(self.spot.0, self.spot.1, wrong)
    }

    /// Reads a span of a file; fewer bytes than asked for, or bytes the disk cannot read, are damage.
    async fn span(&self, file: &Arc<File>, span: Range<u64>) -> Result<Bytes, StorageError> {
        let length = (span.end - span.start) as usize;
        match self.reads.read(file, length, span.start).await {
            Ok(buffer) if buffer.as_ref().len() == length => Ok(buffer.freeze()),
            Ok(_) => Err(self.damaged(Wrong::Short)),
            Err(error) if is_unreadable(&error) => Err(self.damaged(Wrong::Unreadable)),
            Err(source) => Err(StorageError::Io { context: format!("read {:?}", self.spot.1), source }),
        }
    }

    fn verified(&self, bytes: Bytes, sums: &[u8], wanted: Range<usize>) -> Result<Bytes, StorageError> {
        match blocks::verify(&bytes, sums) {
            Ok(()) => Ok(bytes.slice(wanted)),
            Err(_) => Err(self.damaged(Wrong::Block)),
        }
    }

    async fn read_volume(
        &self,
        volume: &Volume,
        offset: u64,
        sums: &Bytes,
        (start, end): (u64, u64),
    ) -> Result<Bytes, StorageError> {
        let (first, last) = around(start, end, self.info.length);
        let blocks = self.span(&volume.file, offset + first..offset + last).await?;
        let sums = sums.get((first / BLOCK_BYTES * 4) as usize..).unwrap_or_default();
        self.verified(blocks, sums, (start - first) as usize..(end - first) as usize)
    }

    async fn read_file(&self, file: &Arc<File>, start: u64, end: u64) -> Result<Bytes, StorageError> {
        let mut parts = Vec::with_capacity(1);
        for piece in whole::pieces(start, end, self.info.length) {
            let blocks = self.span(file, piece.blocks).await?;
            let sums = self.span(file, piece.sums).await?;
            parts.push(self.verified(blocks, &sums, piece.wanted)?);
        }
        Ok(join(parts))
    }
}

/// One part as it is; more only where a span crosses a segment.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

#[async_trait]
impl Blob for OpenBlob {
    fn info(&self) -> &BlobInfo {
        &self.info
    }

    async fn read(&self, start: u64, end: u64) -> Result<Bytes, StorageError> {
        if start > end || end > self.info.length {
            let what = format!("{start}..{end} is not inside a blob of {} bytes", self.info.length);
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            return Err(StorageError::Io { context: "read a blob".to_owned(), source });
        }
        if start == end {
            return Ok(Bytes::new());
        }
        match &self.source {
            Source::Memory(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            Source::Volume { volume, offset, sums } => {
                self.read_volume(volume, *offset, sums, (start, end)).await
            }
            Source::File(file) => self.read_file(file, start, end).await,
        }
    }
}

/// Where the bytes of a small blob are. What is in memory already is verified here, before anything is sent.
pub fn packed(fetched: &Fetched, hash: u64, damage: &Damage) -> Result<Source, StorageError> {
    let Some(data) = &fetched.data else {
        return Ok(Source::Volume {
            volume: fetched.volume.clone(),
            offset: fetched.data_at,
            sums: fetched.sums.clone(),
        });
    };
    if data.len() as u64 != fetched.facts.length || Checksum::of(data) != fetched.facts.checksum {
        return Err(damage.found(hash, fetched.entry.place, Wrong::Checksum));
    }
    Ok(Source::Memory(data.clone()))
}
