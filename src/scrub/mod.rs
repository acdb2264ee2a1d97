//! The scrub between servers: compares what the servers of a shard hold, and puts on the queue what is missing, old or damaged.
//! What a queue that was lost forgot is found here.
//!
//! - [`Scrub`]: one comparison of one shard; [`Found`]: what came out of it
//! - `verdict`: what is to be done about one key (pure)
//! - `span`: which ranges of keys differ, by their digests (pure); `pages`: what servers say, page by page
//! - [`Deficit`]: how many copies are missing, and what of that nobody can know
//! - [`Behind`]: servers for which no more tasks are kept
//! - [`QueueSeen`]: whether the queue lost what it held
//! - [`Record`]: what is known of a shard's comparisons, kept in the map store by a [`Keeper`]
//! - [`schedule`]: comparisons that nobody asks for; `due`: when (pure)
//! - [`Sink`]: where what is missing goes; [`Carrier`]: makes it at once, for a server that is being filled
//! - `storages`: which storage each server had when it was compared
//! - `survey`: what each server can be asked; `work`: tasks on their way; `many`: many questions at once

mod behind;
mod carry;
mod compare;
mod deficit;
mod due;
mod found;
mod many;
mod pages;
mod queue_seen;
mod record;
pub mod schedule;
mod span;
mod storages;
mod survey;
mod verdict;
mod work;

pub use behind::{Behind, LEAVE_OUT_FOR};
pub use carry::{Carried, Carrier};
pub use compare::{Looked, Scrub, ScrubError};
pub use deficit::{Deficit, Known, damaged, deficits};
pub use found::{Found, Who};
pub use queue_seen::QueueSeen;
pub use record::{Failed, Going, Keeper, LEASE, Last, Record, path as record_path};
pub use work::Sink;
