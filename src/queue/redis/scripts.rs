//! The Lua scripts. Each step that must not be seen half done is one script: the server runs it whole or not at all, also
//! when it writes it to its append-only file.
//!
//! Keys, all under the queue's key:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `:ready:<target>` | stream, group `replicators` | tasks to give out, and those given out and not yet ended |
//! | `:delayed:<target>` | sorted set | tasks by the time they come due |
//! | `:attempts:<target>` | hash | SHA-1 of a delayed task -> its attempts, where not 0 |
//! | `:targets`, `:paused` | sets | every target that ever had a task; those given out no tasks |
//! | `:agenda` | sorted set | target -> when `claim` must look at it, 0 = now |
//! | `:leases` | sorted set | target -> when a lease of it may have ended |
//! | `:id` | string | a name of its own that it has had since it was empty |
//! | `:dead`, `:dead:order`, `:dead:count` | hash, sorted set, hash | letters by id; ids by time; target -> letters |

use std::sync::LazyLock;

use deadpool_redis::redis::Script;

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))));
    };
}

script!(PUSH, "push.lua");
script!(CANCEL, "cancel.lua");
script!(CLAIM, "claim.lua");
script!(RENEW, "renew.lua");
script!(ACK, "ack.lua");
script!(BACK, "back.lua");
script!(BURY, "bury.lua");
script!(TARGETS, "targets.lua");
script!(STATS, "stats.lua");
script!(LIST, "list.lua");
script!(DEAD, "dead.lua");
script!(REDRIVE, "redrive.lua");
script!(DISCARD, "discard.lua");
script!(PAUSE, "pause.lua");
