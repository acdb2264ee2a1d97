//! Moves the bytes of a copy: streams them, holds the last part (of a small blob, all) back until the whole is known to be
//! right, and makes sure of what the target took.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::{
    Answered, Copied, CopyPlan, Fetched, Pace, Presence, PutBody, PutHead, PutSender, ServerError, Servers,
    Stored,
    copy::{SMALL_BYTES, is_old, satisfied, version_of},
};
use crate::{
    http::RequestId,
    model::{Checksum, Crc64, Key, Server},
};

/// Whose fault it is.
pub(super) enum Side {
    Source(ServerError),
    Target(ServerError),
}

/// What is known of a blob before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) length: Option<u64>,
    pub(super) checksum: Option<Checksum>,
}

/// What came of a blob.
#[derive(Default)]
struct Taken {
    length: u64,
    crc: Crc64,
}

impl Taken {
    /// Fails where more comes than was announced.
    fn take(&mut self, bytes: &[u8], announced: Announced) -> Result<(), ServerError> {
        self.length += bytes.len() as u64;
        self.crc.update(bytes);
        match announced.length {
            Some(length) if self.length > length => {
                Err(ServerError::WrongBytes(format!("more than the {length} bytes came that were announced")))
            }
            _ => Ok(()),
        }
    }

    /// Compares with what was announced.
    fn check(&self, announced: Announced) -> Result<(), ServerError> {
        if let Some(length) = announced.length
            && length != self.length
        {
            let what = format!("{} bytes came, {length} were announced", self.length);
            return Err(ServerError::WrongBytes(what));
        }
        if announced.checksum.is_some_and(|checksum| checksum != self.crc.finish()) {
            return Err(ServerError::WrongBytes("the checksum does not match".to_owned()));
        }
        Ok(())
    }
}

/// Slower than this, a source had better be another one.
const SLOW_BYTES_PER_SECOND: u64 = 256 * 1024;

/// How long a copy waited for its source.
struct Waits {
    patience: Option<Duration>,
    waited: Duration,
}

impl Waits {
    /// The next bytes, after so many that came.
    async fn next(&mut self, source: &mut Fetched, came: u64) -> Result<Option<Bytes>, ServerError> {
        let Some(patience) = self.patience else { return source.next().await };
        let limit = patience + Duration::from_secs_f64(came as f64 / SLOW_BYTES_PER_SECOND as f64);
        let asked = Instant::now();
        let next = tokio::time::timeout(limit.saturating_sub(self.waited), source.next()).await;
        self.waited += asked.elapsed();
        next.unwrap_or(Err(ServerError::Slow(self.waited)))
    }
}

impl Servers {
    /// Streams an open blob to the target.
    pub(super) async fn transfer(
        &self,
        plan: &CopyPlan<'_>,
        mut blob: Fetched,
        announced: Announced,
        pace: &impl Pace,
        id: &RequestId,
    ) -> Result<Copied, Side> {
        let head = PutHead {
            key: plan.key.clone(),
            version: blob.version().or(plan.version),
            meta: blob.meta(),
            length: announced.length,
            checksum: announced.checksum,
            conditions: HeaderMap::new(),
        };
        let waits = Waits { patience: plan.patience, waited: Duration::ZERO };
        let (taken, stored) = if (1..=SMALL_BYTES).contains(&announced.length.unwrap_or(0)) {
            let (bytes, taken) = whole(&mut blob, announced, pace, waits).await.map_err(Side::Source)?;
            let stored = self.put(plan.target, &head, bytes.into(), id).await;
            (taken, stored.map_err(Side::Target)?)
        } else {
            let (sender, body) = PutBody::channel(head.length);
            let feed = feed(&mut blob, sender, announced, pace, waits);
            let put = self.put(plan.target, &head, body, id);
            tokio::pin!(feed, put);
            tokio::select! {
                biased;
                // A source that failed ends the PUT too: dropped, it is broken off.
                taken = &mut feed => (taken.map_err(Side::Source)?, put.await.map_err(Side::Target)?),
                stored = &mut put => {
                    let stored = stored.map_err(Side::Target)?;
                    if stored.is_early {
                        return judge_early(stored, &head);
                    }
                    // It has all that was announced, and answered so soon.
                    (feed.await.map_err(Side::Source)?, stored)
                }
            }
        };
        self.note_versions(plan.target, &stored);
        self.verify(plan, &stored, &taken, &head, id).await.map_err(Side::Target)?;
        match satisfied(stored.version, head.version) {
            Some(newer @ Copied::Newer(_)) => Ok(newer),
            _ => Ok(Copied::Copied(taken.length)),
        }
    }

    /// Our own nodes say what they received; others are asked how long it is.
    async fn verify(
        &self,
        plan: &CopyPlan<'_>,
        stored: &Stored,
        taken: &Taken,
        head: &PutHead,
        id: &RequestId,
    ) -> Result<(), ServerError> {
        let superseded = stored.version.is_some() && stored.version > head.version;
        match stored.checksum {
            Some(received) if received != taken.crc.finish() && !superseded => {
                let what = "the target received other bytes than were sent";
                return Err(ServerError::WrongBytes(what.to_owned()));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        match self.look(plan.target, plan.key, id).await? {
            there if is_old(version_of(&there), head.version) => {
                Err(ServerError::WrongBytes("the target took it and still has something older".to_owned()))
            }
            Presence::Blob { length: Some(length), .. } if length != taken.length => {
                let what = format!("the target has {length} bytes of it, {} were sent", taken.length);
                Err(ServerError::WrongBytes(what))
            }
            Presence::Blob { .. } | Presence::Deleted(_) => Ok(()),
            Presence::Nothing => {
                Err(ServerError::WrongBytes("the target took it and has not got it".to_owned()))
            }
        }
    }

    /// Reads a server's blob for its length and checksum alone.
    pub(super) async fn measure(
        &self,
        server: &Server,
        key: &Key,
        pace: &impl Pace,
        id: &RequestId,
    ) -> Result<Announced, ServerError> {
        let mut blob = match self.get(server, key, Method::GET, &HeaderMap::new(), id).await? {
            Answered::Blob(blob) if blob.status == StatusCode::OK => blob,
            _ => return Err(ServerError::Missing),
        };
        let mut taken = Taken::default();
        while let Some(bytes) = blob.next().await? {
            pace.pass(bytes.len()).await;
            taken.take(&bytes, Announced { length: None, checksum: None })?;
        }
        Ok(Announced { length: Some(taken.length), checksum: Some(taken.crc.finish()) })
    }
}

/// A target may say before the last byte that it holds this version or a newer one; any other success is none.
fn judge_early(stored: Stored, head: &PutHead) -> Result<Copied, Side> {
    match satisfied(stored.version, head.version) {
        Some(copied) => Ok(copied),
        None if stored.version.is_some() && head.version.is_none() => Ok(Copied::AlreadyThere),
        None => Err(Side::Target(ServerError::Broken("it answered before the end of the body".to_owned()))),
    }
}

/// All of a small blob, once it is known to be right.
async fn whole(
    source: &mut Fetched,
    announced: Announced,
    pace: &impl Pace,
    mut waits: Waits,
) -> Result<(Bytes, Taken), ServerError> {
    let (mut taken, mut parts) = (Taken::default(), Vec::new());
    while let Some(bytes) = waits.next(source, taken.length).await? {
        pace.pass(bytes.len()).await;
        taken.take(&bytes, announced)?;
        parts.push(bytes);
    }
    taken.check(announced)?;
    let bytes = if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() };
    Ok((bytes, taken))
}

/// Feeds a body, holding the last part back until the whole is known to be right: a server must never get the last
/// byte of a wrong blob.
async fn feed(
    source: &mut Fetched,
    sender: PutSender,
    announced: Announced,
    pace: &impl Pace,
    mut waits: Waits,
) -> Result<Taken, ServerError> {
    let mut taken = Taken::default();
    let mut held = None;
    while let Some(bytes) = waits.next(source, taken.length).await? {
        pace.pass(bytes.len()).await;
        taken.take(&bytes, announced)?;
        if let Some(before) = held.replace(bytes)
            && !sender.send(before).await
        {
            // Nobody takes it: the PUT has ended and says why.
            return std::future::pending().await;
        }
    }
    taken.check(announced)?;
    if let Some(last) = held
        && !sender.send(last).await
    {
        return std::future::pending().await;
    }
    sender.end().await;
    Ok(taken)
}
