//! `backpack-admin volume ...` on the directories of real nodes, stopped and running: what is there is said, what is damaged
//! is found, and looking changes nothing.
//!
//! - `looking`: a stopped node and a running one; `load`: a node that is written to and compacts meanwhile
//! - `offline`: what changes the directory of a stopped node
//! - `damage`: what disks and people do to a directory; `refusals`: directories that are not a node's

mod damage;
mod load;
mod looking;
mod offline;
mod refusals;
mod rig;
