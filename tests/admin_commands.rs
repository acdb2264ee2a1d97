//! `backpack-admin` as its users call it: the real program against real ZooKeeper and Redis, and against the embedded parts
//! of a system that runs.

mod admin_cases;
mod support;
