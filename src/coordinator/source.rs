//! The body of one upload on its way through: read part by part, verified, with its beginning kept for a replay.
//!
//! The last part is held back until the whole body is known to be right, so a server never gets the last byte of a
//! wrong or broken-off body, and such a blob never becomes visible. Of a small body no server gets a byte before. Where the
//! length was not announced any part may be the last, so each is held back until the next one comes.

use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::replay::Kept;
use crate::{
    http::{
        BodyError, RequestBody,
        verify::{Verifier, VerifyError},
    },
    model::{Checksum, Crc64},
};

/// Why a body cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It could not be read to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It is not what the client said it would be.
    #[error(transparent)]
    Mismatch(#[from] VerifyError),
    /// The spool for servers that want a length failed.
    #[error("keep the body in a temporary file: {0}")]
    Spool(#[from] std::io::Error),
}

/// Parts read back from a spool have this size.
const SPOOL_PART_BYTES: usize = 256 * 1024;

/// The body of one upload.
pub struct Source {
    body: RequestBody,
    /// Taken when the body ended.
    verifier: Option<Verifier>,
    crc: Crc64,
    length: u64,
    /// May be the last part.
    held: Option<Bytes>,
    ended: bool,
    /// All parts handed out so far, as long as all of them can be kept.
    replay: Option<Kept>,
    handed_out: u64,
    spool: Option<tokio::fs::File>,
}

impl Source {
    /// A body whose beginning is kept there.
    pub fn new(body: RequestBody, verifier: Verifier, replay: Kept) -> Self {
        Self {
            body,
            verifier: Some(verifier),
            crc: Crc64::default(),
            length: 0,
            held: None,
            ended: false,
            replay: Some(replay),
            handed_out: 0,
            spool: None,
        }
    }

    /// The body's length, where it is known: announced, or read to its end.
    pub fn known_length(&self) -> Option<u64> {
        if self.ended { Some(self.length) } else { self.body.announced() }
    }

    /// Bytes read so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The checksum of what was read so far; of the whole body once it ended.
    pub fn checksum(&self) -> Checksum {
        self.crc.finish()
    }

    /// The whole body was read and is right.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether all that was handed out can be handed out again.
    pub fn can_replay(&self) -> bool {
        self.replay.is_some() || self.spool.is_some()
    }

    /// Reads a body that is short enough to be kept to its end: until then it costs its own bytes, and no server anything.
    pub async fn gather(&mut self) -> Result<(), SourceError> {
        let always_kept = |length: &u64| self.replay.as_ref().is_some_and(|kept| kept.always_keeps(*length));
        let Some(length) = self.body.announced().filter(always_kept) else { return Ok(()) };
        if self.ended {
            return Ok(());
        }
        let (mut whole, mut gathered) = (Bytes::new(), Vec::new());
        while let Some(part) = self.body.next().await? {
            self.take_in(&part);
            // A part holds the buffer that it was read into: well for one that is all there is, too much while more is awaited.
            if part.len() as u64 == length {
                whole = part;
            } else {
                gathered.extend_from_slice(&part);
            }
        }
        self.end()?;
        if !gathered.is_empty() {
            whole = gathered.into();
        }
        if !whole.is_empty() {
            self.hand_out(whole);
        }
        Ok(())
    }

    /// The body is read to its end.
    fn end(&mut self) -> Result<(), VerifyError> {
        let checksum = self.checksum();
        self.verifier.take().map_or(Ok(()), |verifier| verifier.finish(checksum))?;
        self.ended = true;
        Ok(())
    }

    /// The next part to hand out; `None` at the end of a body that is right. May be dropped while it waits without
    /// losing anything.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.body.next().await? {
                Some(bytes) => {
                    self.take_in(&bytes);
                    let may_be_last = self.body.announced().is_none_or(|length| self.length == length);
                    let next = if may_be_last { self.held.replace(bytes) } else { Some(bytes) };
                    if let Some(part) = next {
                        return Ok(Some(self.hand_out(part)));
                    }
                }
                None => {
                    self.end()?;
                    return Ok(self.held.take().map(|last| self.hand_out(last)));
                }
            }
        }
    }

    fn take_in(&mut self, bytes: &Bytes) {
        self.crc.update(bytes);
        if let Some(verifier) = &mut self.verifier {
            verifier.update(bytes);
        }
        self.length += bytes.len() as u64;
    }

    fn hand_out(&mut self, bytes: Bytes) -> Bytes {
        self.handed_out += bytes.len() as u64;
        if self.replay.as_mut().is_some_and(|kept| !kept.keep(&bytes)) {
            self.replay = None;
        }
        bytes
    }

    /// Reads the rest of the body, to memory as far as it can be kept there and else to an unnamed file in `dir`, so
    /// that its length is known. Only for servers that take no body without a length. Nothing must have been handed
    /// out that cannot be replayed.
    pub async fn spool(&mut self, dir: &Path) -> Result<(), SourceError> {
        while !self.ended && self.replay.is_some() {
            let kept = self.replay.as_ref().map_or(Vec::new(), |kept| kept.parts().to_vec());
            let Some(part) = self.next().await? else { break };
            if self.replay.is_none() {
                let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(dir)?);
                for bytes in kept.iter().chain([&part]) {
                    file.write_all(bytes).await?;
                }
                while let Some(part) = self.next().await? {
                    file.write_all(&part).await?;
                }
                file.flush().await?;
                self.spool = Some(file);
            }
        }
        Ok(())
    }

    /// All of a body that ended, if it is there in one piece.
    pub fn whole(&self) -> Option<Bytes> {
        match self.replay.as_ref().filter(|_| self.ended)?.parts() {
            [] => Some(Bytes::new()),
            [all] => Some(all.clone()),
            _ => None,
        }
    }

    /// Hands out again what was handed out, part by part: give the number of bytes replayed so far; `None` when all
    /// was replayed.
    pub async fn replay_from(&mut self, position: u64) -> Result<Option<Bytes>, SourceError> {
        if position >= self.handed_out {
            return Ok(None);
        }
        if let Some(file) = &mut self.spool {
            file.seek(std::io::SeekFrom::Start(position)).await?;
            let mut part = Vec::with_capacity(SPOOL_PART_BYTES);
            file.take(SPOOL_PART_BYTES as u64).read_to_end(&mut part).await?;
            return Ok((!part.is_empty()).then(|| part.into()));
        }
        Ok(self.replay.as_ref().and_then(|kept| kept.part_at(position)))
    }
}
