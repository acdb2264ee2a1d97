//! One blob from a server to another: ask the target, stream from the first source that has it, verify.
//!
//! Copying is idempotent: a target that holds the version or a newer one is left alone.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode};

use super::{
    Fetched, ServerError, Servers,
    get::Answered,
    look::Presence,
    transfer::{Announced, Side},
};
use crate::{
    http::RequestId,
    model::{Key, Server, Version},
};

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// So many bytes were copied.
    Copied(u64),
    /// The target held it.
    AlreadyThere,
    /// The target keeps something newer than what was wanted.
    Newer(Version),
    /// A source says that the blob was deleted, by a version at least as new; the target has that tombstone now.
    Deleted,
}

/// Why a copy was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The target's fault.
    #[error("target: {0}")]
    Target(ServerError),
    /// No source could give it; what the last one said that was more than "missing".
    #[error("source {server}: {error}")]
    Source {
        /// The last source that failed.
        server: String,
        /// How.
        error: ServerError,
    },
    /// Every source answered, and none has it.
    #[error("no source has it")]
    NoSource,
}

/// A blob up to this length is held whole while it is copied. It is sent for nothing to a target that has it: for longer
/// ones that would cost more than to ask first.
pub(super) const SMALL_BYTES: u64 = 64 * 1024;

/// What is to be copied.
#[derive(Debug, Clone)]
pub struct CopyPlan<'a> {
    /// The blob's key.
    pub key: &'a Key,
    /// The version wanted; a source that holds a newer one gives that. `None`: whatever a source has.
    pub version: Option<Version>,
    /// Where it may be, the best first.
    pub sources: &'a [Arc<Server>],
    /// Where it goes.
    pub target: &'a Server,
    /// How long a source may keep the copy waiting in mid body, all its waits together, before it fails as
    /// [`ServerError::Slow`]; it gets a second more for each 256 KiB. `None`: for as long as it makes progress.
    pub patience: Option<Duration>,
    /// The target hardly has it yet: one that keeps versions by itself is not asked before it gets a small blob.
    pub is_new: bool,
}

/// Called with the number of bytes about to be passed on; returns when they may be (a byte-rate limit).
pub trait Pace: Send + Sync {
    /// Waits until so many bytes may pass.
    fn pass(&self, bytes: usize) -> impl Future<Output = ()> + Send;
}

/// No limit.
pub struct Unpaced;

impl Pace for Unpaced {
    async fn pass(&self, _bytes: usize) {}
}

impl Servers {
    /// Makes one copy. A source that is truncated or gives wrong bytes never makes a copy: the target gets the last byte
    /// only of a blob that was received whole and right.
    pub async fn copy(
        &self,
        plan: &CopyPlan<'_>,
        pace: &impl Pace,
        id: &RequestId,
    ) -> Result<Copied, CopyError> {
        let mut target = Target::new(self, plan, id);
        if plan.is_new && plan.version.is_some() && self.keeps_versions(plan.target) {
            return match self.copy_to(&mut target, pace).await {
                // It may have it from elsewhere.
                Err(failed @ (CopyError::NoSource | CopyError::Source { .. })) => {
                    target.satisfied().await.map_err(CopyError::Target)?.ok_or(failed)
                }
                result => result,
            };
        }
        match target.satisfied().await.map_err(CopyError::Target)? {
            Some(satisfied) => Ok(satisfied),
            None => self.copy_to(&mut target, pace).await,
        }
    }

    /// From the first source that has it.
    async fn copy_to(&self, target: &mut Target<'_>, pace: &impl Pace) -> Result<Copied, CopyError> {
        let mut failed = CopyError::NoSource;
        for source in target.plan.sources {
            match self.copy_from(source, target, pace).await {
                Ok(copied) => return Ok(copied),
                Err(Side::Target(error)) => return Err(CopyError::Target(error)),
                Err(Side::Source(ServerError::Missing)) => {}
                Err(Side::Source(error)) => {
                    failed = CopyError::Source { server: source.id.to_string(), error };
                }
            }
        }
        Err(failed)
    }

    async fn copy_from(
        &self,
        source: &Server,
        target: &mut Target<'_>,
        pace: &impl Pace,
    ) -> Result<Copied, Side> {
        let (plan, id) = (target.plan, target.id);
        let answer = self.open_source(source, plan, id).await?;
        let length = match &answer {
            Answered::Blob(blob) => blob.length(),
            Answered::Deleted(_) => None,
        };
        let small = length.is_some_and(|length| length <= SMALL_BYTES);
        if !small && let Some(satisfied) = target.satisfied().await.map_err(Side::Target)? {
            return Ok(satisfied);
        }
        let mut blob = match answer {
            Answered::Deleted(version) => return self.copy_tombstone(version, target).await,
            Answered::Blob(blob) => blob,
        };
        let mut announced = Announced { length: blob.length(), checksum: blob.checksum() };
        match judge(target.there.as_ref(), &blob, plan.version) {
            Need::Nothing => return Ok(Copied::AlreadyThere),
            Need::Copy => {}
            Need::Comparison => {
                if announced.checksum.is_none() {
                    announced = self.measure(source, plan.key, pace, id).await.map_err(Side::Source)?;
                    blob = self.open_blob(source, plan, id).await?;
                }
                let held = self.measure(plan.target, plan.key, pace, id).await.map_err(Side::Target)?;
                if held == announced {
                    return Ok(Copied::AlreadyThere);
                }
            }
        }
        let without_length = announced.length.is_none();
        match self.transfer(plan, blob, announced, pace, id).await {
            // Read it once for the length, then once for the copy: nothing is spooled.
            Err(Side::Target(ServerError::NeedsLength)) if without_length => {
                let announced = self.measure(source, plan.key, pace, id).await.map_err(Side::Source)?;
                let blob = self.open_blob(source, plan, id).await?;
                self.transfer(plan, blob, announced, pace, id).await
            }
            result => result,
        }
    }

    /// What the source has, if it is new enough.
    async fn open_source(
        &self,
        source: &Server,
        plan: &CopyPlan<'_>,
        id: &RequestId,
    ) -> Result<Answered, Side> {
        let answer = self.get(source, plan.key, Method::GET, &HeaderMap::new(), id).await;
        let answer = answer.map_err(Side::Source)?;
        let version = match &answer {
            Answered::Blob(blob) if blob.status != StatusCode::OK => {
                let what = format!("{} to a plain GET", blob.status);
                return Err(Side::Source(ServerError::WrongBytes(what)));
            }
            Answered::Blob(blob) if !blob.has_an_end() => {
                let what = "it says neither length nor checksum, so a cut would not be noticed";
                return Err(Side::Source(ServerError::WrongBytes(what.to_owned())));
            }
            Answered::Blob(blob) => blob.version(),
            Answered::Deleted(version) => *version,
        };
        if is_old(version, plan.version) { Err(Side::Source(ServerError::Missing)) } else { Ok(answer) }
    }

    /// The same, of a blob that was there a moment ago.
    async fn open_blob(&self, source: &Server, plan: &CopyPlan<'_>, id: &RequestId) -> Result<Fetched, Side> {
        match self.open_source(source, plan, id).await? {
            Answered::Blob(blob) => Ok(blob),
            Answered::Deleted(_) => Err(Side::Source(ServerError::Missing)),
        }
    }

    async fn copy_tombstone(&self, version: Option<Version>, target: &Target<'_>) -> Result<Copied, Side> {
        let plan = target.plan;
        let Some(version) = version.or(plan.version) else {
            return Err(Side::Source(ServerError::Missing));
        };
        match self.delete(plan.target, plan.key, version, target.id).await {
            Ok(_) => Ok(Copied::Deleted),
            // It keeps no tombstones, and there is nothing to delete.
            Err(ServerError::Unsupported(_)) if target.there == Some(Presence::Nothing) => {
                Ok(Copied::Deleted)
            }
            Err(error) => Err(Side::Target(error)),
        }
    }
}

/// Where a copy goes, asked at most once what it has.
struct Target<'a> {
    servers: &'a Servers,
    plan: &'a CopyPlan<'a>,
    id: &'a RequestId,
    /// What it said; `None` before it was asked.
    there: Option<Presence>,
}

impl<'a> Target<'a> {
    fn new(servers: &'a Servers, plan: &'a CopyPlan<'a>, id: &'a RequestId) -> Self {
        Self { servers, plan, id, there: None }
    }

    /// Asks it, unless that was done. What to say of the copy if it needs none, whatever the sources have.
    async fn satisfied(&mut self) -> Result<Option<Copied>, ServerError> {
        if self.there.is_some() {
            return Ok(None);
        }
        let there = self.servers.look(self.plan.target, self.plan.key, self.id).await?;
        let there = self.there.insert(there);
        Ok(satisfied(version_of(there), self.plan.version))
    }
}

pub(super) fn is_old(held: Option<Version>, wanted: Option<Version>) -> bool {
    matches!((held, wanted), (Some(held), Some(wanted)) if held < wanted)
}

/// What to say of a target that needs nothing, for it holds the wanted version or a newer one.
pub(super) fn satisfied(held: Option<Version>, wanted: Option<Version>) -> Option<Copied> {
    let (held, wanted) = (held?, wanted?);
    match held.cmp(&wanted) {
        Ordering::Less => None,
        Ordering::Equal => Some(Copied::AlreadyThere),
        Ordering::Greater => Some(Copied::Newer(held)),
    }
}

pub(super) fn version_of(there: &Presence) -> Option<Version> {
    match there {
        Presence::Blob { version, .. } => *version,
        Presence::Deleted(version) => *version,
        Presence::Nothing => None,
    }
}

/// What the target needs, now that the source's side is known too.
enum Need {
    Copy,
    Nothing,
    /// It holds a blob of the same length, without a version that could tell which: only the bytes can.
    Comparison,
}

/// A target that was not asked decides by itself.
fn judge(there: Option<&Presence>, source: &Fetched, wanted: Option<Version>) -> Need {
    let Some(there) = there else { return Need::Copy };
    let version = source.version().or(wanted);
    let needless = match there {
        Presence::Blob { version: None, length, .. } => {
            let same_length = length.is_some() && *length == source.length();
            return if same_length { Need::Comparison } else { Need::Copy };
        }
        Presence::Blob { version: Some(held), .. } => version.is_some_and(|version| *held >= version),
        // What has no version never undoes a delete that has one.
        Presence::Deleted(Some(deleted)) => version.is_none_or(|version| *deleted >= version),
        Presence::Deleted(None) | Presence::Nothing => false,
    };
    if needless { Need::Nothing } else { Need::Copy }
}
