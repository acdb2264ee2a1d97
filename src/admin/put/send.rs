//! One file to the coordinator. It is read twice: first for its checksum, which goes with the request so that the
//! coordinator can refuse what arrives damaged, then for its bytes. The second time most files are still in memory.

use std::{
    fs::Metadata,
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use rustix::fs::OFlags;
use serde::Deserialize;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt},
};

use super::{
    content_type,
    journal::{Entry, FileState, Placed},
    progress::{Counted, Progress},
    retry::{self, Failure},
    wire::{MAX_ANSWER_BYTES, Wire, in_time},
};
use crate::{
    client::{PutBody, PutSender},
    daemon::Shutdown,
    http::{Body, headers},
    model::{Checksum, Crc64, Key, ShardId, WriteLevel},
};

/// Bytes of a file in memory at once; a few of these for each upload that runs.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file to upload.
#[derive(Debug)]
pub(super) struct Upload {
    /// Its path below the folder.
    pub(super) path: PathBuf,
    /// Where it goes.
    pub(super) key: Key,
}

/// What all uploads share.
pub(super) struct Sender {
    pub(super) wire: Wire,
    pub(super) write: Option<WriteLevel>,
    pub(super) retries: u32,
    pub(super) stop: Shutdown,
    pub(super) progress: Arc<Progress>,
}

impl Sender {
    /// Uploads a file of that folder, trying again where that can help.
    pub(super) async fn send(&self, folder: &Path, upload: &Upload) -> Result<Entry, Failure> {
        let full = folder.join(&upload.path);
        retry::until_done(self.retries, &self.stop, || self.attempt(&full, upload)).await
    }

    async fn attempt(&self, full: &Path, upload: &Upload) -> Result<Entry, Failure> {
        let mut file = open(full).await?;
        let state = state_of(&file).await?;
        let checksum = checksum_of(&mut file, state.size).await?;
        file.seek(SeekFrom::Start(0)).await.map_err(unreadable)?;
        let placed = self.put(&mut file, upload, state.size, checksum).await?;
        if state_of(&file).await? != state {
            return Err(changed());
        }
        Ok(Entry::new(&upload.path, state, upload.key.clone(), checksum, placed))
    }

    async fn put(
        &self,
        file: &mut File,
        upload: &Upload,
        length: u64,
        checksum: Checksum,
    ) -> Result<Placed, Failure> {
        let mut counted = self.progress.counted();
        let (sender, body) = PutBody::channel(Some(length));
        let body = if length == 0 { Body::Empty } else { body };
        let answer = self.wire.send(self.request(upload, length, checksum, body)?);
        tokio::pin!(answer);
        let answered = tokio::select! {
            biased;
            // Before the last byte: it refuses the upload.
            answered = &mut answer => answered,
            fed = feed(file, length, sender, &mut counted) => {
                fed?;
                in_time(answer).await.flatten()
            }
        };
        let placed = read_answer(answered?, checksum).await?;
        counted.keep();
        Ok(placed)
    }

    fn request(
        &self,
        upload: &Upload,
        length: u64,
        checksum: Checksum,
        body: Body,
    ) -> Result<Request<Body>, Failure> {
        let mut request = self.wire.request(Method::PUT, &format!("/{}", upload.key), body)?;
        let to = request.headers_mut();
        to.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let content_type = content_type::of(&upload.path);
        to.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers::set(to, headers::CHECKSUM, checksum);
        if let Some(write) = self.write {
            headers::set(to, headers::WRITE, write);
        }
        Ok(request)
    }
}

/// Opens what must still be a regular file: not a link that somebody put there since, and not a pipe, where opening
/// would wait for a writer.
pub(super) async fn open(path: &Path) -> Result<File, Failure> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).await.map_err(unreadable)
}

/// The state of an open file; an error if it is no regular one.
pub(super) async fn state_of(file: &File) -> Result<FileState, Failure> {
    let metadata: Metadata = file.metadata().await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::never("it is no regular file any more"));
    }
    Ok(FileState::of(&metadata))
}

/// The checksum of a file's first `length` bytes.
async fn checksum_of(file: &mut File, length: u64) -> Result<Checksum, Failure> {
    let mut crc = Crc64::default();
    let mut left = length;
    while left > 0 {
        let chunk = read_chunk(file, left).await?;
        left -= chunk.len() as u64;
        crc.update(&chunk);
    }
    Ok(crc.finish())
}

/// Feeds a file's first `length` bytes to a request.
async fn feed(file: &mut File, length: u64, sender: PutSender, counted: &mut Counted) -> Result<(), Failure> {
    let mut left = length;
    while left > 0 {
        let chunk = read_chunk(file, left).await?;
        let bytes = chunk.len();
        if !in_time(sender.send(chunk)).await? {
            // Nobody takes it: the request has ended and says why.
            return std::future::pending().await;
        }
        left -= bytes as u64;
        counted.add(bytes);
    }
    sender.end().await;
    Ok(())
}

async fn read_chunk(file: &mut File, left: u64) -> Result<Bytes, Failure> {
    let capacity = left.min(CHUNK_BYTES as u64);
    let mut chunk = BytesMut::with_capacity(capacity as usize);
    match file.take(capacity).read_buf(&mut chunk).await {
        Ok(0) => Err(changed()),
        Ok(_) => Ok(chunk.freeze()),
        Err(error) => Err(unreadable(error)),
    }
}

/// What is said of a file that cannot be read.
pub(super) fn unreadable(error: std::io::Error) -> Failure {
    Failure::never(format!("cannot be read: {error}"))
}

fn changed() -> Failure {
    Failure::soon("it was changed while it was read")
}

async fn read_answer(response: Response<Incoming>, sent: Checksum) -> Result<Placed, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        shard_id: ShardId,
    }
    let version = headers::get(response.headers(), headers::VERSION);
    let received: Option<Checksum> = headers::get(response.headers(), headers::CHECKSUM);
    if received.is_some_and(|received| received != sent) {
        return Err(Failure::soon("the coordinator received other bytes than were sent"));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = in_time(body).await?.map_err(Failure::soon)?;
    match serde_json::from_slice::<Answer>(&body.to_bytes()) {
        Ok(answer) => Ok(Placed { shard: answer.shard_id, version }),
        Err(_) => Err(Failure::never("the answer names no shard: is this address a coordinator?")),
    }
}
