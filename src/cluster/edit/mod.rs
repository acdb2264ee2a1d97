//! The changes that admin commands and coordinators make. Each reads, decides, and writes with compare-and-set, again
//! while somebody else changes the same documents. Each is idempotent: doing it twice says [`Outcome::Unchanged`].
//!
//! - `maps`: servers and shards
//! - `members`: servers on their way into a shard and out of it
//! - `settings`: initialisation, the queue, pools
//! - `used`: how much a shard holds, added exactly once
//! - `update`: documents of which we alone know the meaning

mod maps;
mod members;
mod settings;
mod update;
mod used;

use std::time::Duration;

pub use maps::{NewShard, add_server, add_shard, set_read_only};
pub use members::{filled, hand_over, join, leave, remove_server, replace_server, retire, settle, withdraw};
pub use settings::{InitReport, Made, PoolChange, init, set_pool, set_queue};
pub use update::update;
pub use used::{WriterStamp, add_used, set_used};

use super::{
    Edit, Entry, MapStore, StoreError,
    format::{Document, FormatError},
};
use crate::{
    daemon::Backoff,
    model::{PoolName, Server, ServerId, ShardId, Stage},
};

/// How often an edit is decided again because somebody else was faster. Coordinators add to one document about once a
/// second each, so this is reached only when something is wrong.
const MAX_CONFLICTS: u32 = 100;

/// Between conflicts: about as long as a few writes take.
const CONFLICT_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(2), max: Duration::from_millis(200) };

/// How often an edit goes on after the store did not answer (each time waits for the store's operation timeout).
const MAX_UNAVAILABLE: u32 = 2;

/// Whether an edit changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Changed,
    /// All was as asked for already.
    Unchanged,
}

/// Why an edit was not made. The sentence says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The store failed or was not initialised.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document that is to be changed cannot be read, so a change could lose what it holds.
    #[error("{path} cannot be read ({reason}): mend it by hand first")]
    Malformed {
        /// The document.
        path: String,
        /// What is wrong with it.
        reason: FormatError,
    },
    /// Somebody else changed the document each time.
    #[error("{path} is changed by others all the time: try again")]
    Busy {
        /// The document.
        path: String,
    },
    /// The shard is to consist of servers that are not in the map.
    #[error("unknown server {}: add it first with add-server (known are: {})", list(unknown), list(known))]
    UnknownServers {
        /// Those that are not in the map.
        unknown: Vec<ServerId>,
        /// Those that are.
        known: Vec<ServerId>,
    },
    /// A shard without servers, or with one twice.
    #[error("shard {shard} needs at least one server, and none of them twice")]
    BadServers {
        /// The shard.
        shard: ShardId,
    },
    /// A server that belongs to another shard: their keys would share one name space and replace each other.
    #[error(
        "server {server} already belongs to shard {shard}, and equal keys of two shards would replace each other \
         there: choose another server, or force it"
    )]
    ServerTaken {
        /// The server.
        server: ServerId,
        /// The shard it belongs to.
        shard: ShardId,
    },
    /// Other servers for a shard that exists: nothing moves its blobs.
    #[error(
        "shard {shard} exists with the servers {}: changing them moves no blobs, so copy them first, then force it",
        list(servers)
    )]
    ServersChange {
        /// The shard.
        shard: ShardId,
        /// Its servers now.
        servers: Vec<ServerId>,
    },
    /// Two servers at one address would hold one copy and count as two.
    #[error("{address} is server {server} already: one address cannot be two servers")]
    AddressTaken {
        /// `host:port`.
        address: String,
        /// Who has it.
        server: ServerId,
    },
    /// A host that chooses another pool already.
    #[error(
        "uploads to {host} go to pool {pool} already: take that host from it first, with set-pool {pool}"
    )]
    HostTaken {
        /// A value of `Host`.
        host: String,
        /// The pool that it chooses.
        pool: PoolName,
    },
    /// No shard of that name.
    #[error("unknown shard {shard} (known are: {})", list(known))]
    UnknownShard {
        /// As asked for.
        shard: ShardId,
        /// Those in the map.
        known: Vec<ShardId>,
    },
    /// The server does not belong to the shard.
    #[error("server {server} does not belong to shard {shard} (its servers are: {})", list(servers))]
    NotMember {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        server: ServerId,
        /// Its servers.
        servers: Vec<ServerId>,
    },
    /// Another server of the shard is on its way in or out.
    #[error(
        "server {server} of shard {shard} is {stage}: end that first, by running the command again that began it"
    )]
    OnItsWay {
        /// The shard.
        shard: ShardId,
        /// Which.
        server: ServerId,
        /// How far it is.
        stage: Stage,
    },
    /// A step was left out, or somebody else made it.
    #[error(
        "server {server} of shard {shard} is not {stage}, so the next step cannot be made: run the command again"
    )]
    OtherStage {
        /// The shard.
        shard: ShardId,
        /// Which.
        server: ServerId,
        /// What it should have been.
        stage: Stage,
    },
    /// The machine that was filled is not the one of its id any more.
    #[error("server {} is not at {server} any more, so what was filled is not read", server.id)]
    OtherMachine {
        /// The one that was filled.
        server: Server,
    },
    /// Nobody else has the blobs.
    #[error(
        "server {server} is the only one of shard {shard}, so there is nothing to fill another machine from: while it \
         runs, add the new one as another server and use move-shard"
    )]
    OnlyServer {
        /// The shard.
        shard: ShardId,
        /// Which.
        server: ServerId,
    },
    /// A server of a shard cannot be taken out of the map.
    #[error("server {server} belongs to shard {shard}: drain-server moves its shards first")]
    StillMember {
        /// Which.
        server: ServerId,
        /// The shard.
        shard: ShardId,
    },
    /// There is no size document for the shard.
    #[error("shard {shard} has no size document: run add-shard for it again")]
    NoSize {
        /// The shard.
        shard: ShardId,
    },
    /// The size document has no number that can be added to.
    #[error("nobody knows how much shard {shard} holds (current {reason}): run recount")]
    SizeUnknown {
        /// The shard.
        shard: ShardId,
        /// What stands there.
        reason: String,
    },
}

fn list<T: ToString>(ids: &[T]) -> String {
    let ids: Vec<_> = ids.iter().map(T::to_string).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

/// A document as it was read.
struct Read {
    path: String,
    document: Document,
    version: Option<i32>,
}

impl Read {
    fn exists(&self) -> bool {
        self.version.is_some()
    }

    /// The edit that writes the document back.
    fn write(&self, document: &Document) -> Edit {
        let (path, data) = (self.path.clone(), document.to_bytes());
        match self.version {
            Some(version) => Edit::Set { path, data, version },
            None => Edit::Create { path, data },
        }
    }
}

/// What to write, and what the whole edit returns.
struct Decision<T> {
    edits: Vec<Edit>,
    result: T,
}

impl<T> Decision<T> {
    fn keep(result: T) -> Self {
        Self { edits: Vec::new(), result }
    }
}

/// Reads the documents, decides, and writes; again while others are faster. `decide` may run several times.
async fn change<const N: usize, T>(
    store: &dyn MapStore,
    paths: [&str; N],
    decide: impl Fn(&[Read; N]) -> Result<Decision<T>, EditError>,
) -> Result<(T, Outcome), EditError> {
    let (mut conflicts, mut unavailable, mut maybe_made) = (0, 0, false);
    loop {
        let mut asked = false;
        let step = async {
            let decision = decide(&read(store, &paths).await?)?;
            asked = !decision.edits.is_empty();
            store.commit(&decision.edits).await?;
            Ok(decision.result)
        };
        match step.await {
            // After a commit without an answer, "nothing to do" means that it was made.
            Ok(result) if asked || maybe_made => return Ok((result, Outcome::Changed)),
            Ok(result) => return Ok((result, Outcome::Unchanged)),
            Err(EditError::Store(StoreError::Conflict { path })) => {
                conflicts += 1;
                if conflicts > MAX_CONFLICTS {
                    return Err(EditError::Busy { path });
                }
                tokio::time::sleep(CONFLICT_BACKOFF.jittered(conflicts)).await;
            }
            Err(EditError::Store(StoreError::Unavailable(_))) if unavailable < MAX_UNAVAILABLE => {
                unavailable += 1;
                maybe_made |= asked;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn read<const N: usize>(store: &dyn MapStore, paths: &[&str; N]) -> Result<[Read; N], EditError> {
    let read = paths.iter().map(|path| async move { parse(path, store.get(path).await?) });
    let read = futures_util::future::try_join_all(read).await?;
    Ok(read.try_into().unwrap_or_else(|_| unreachable!("one document per path was read")))
}

fn parse(path: &str, entry: Option<Entry>) -> Result<Read, EditError> {
    let path = path.to_owned();
    let Some(Entry { data, version }) = entry else {
        return Ok(Read { path, document: Document::default(), version: None });
    };
    match Document::parse(&data) {
        Ok(document) => Ok(Read { path, document, version: Some(version) }),
        Err(reason) => Err(EditError::Malformed { path, reason }),
    }
}
