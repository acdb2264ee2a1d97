//! Everything that stands on real servers, or runs a part as a whole: one program, so that support is compiled and linked once, and
//! tests that wait leave the machine to others.
//!
//! One file, or one folder, is one promise or one part; `cargo test --test system cluster_moves` runs one of them.

mod admin_commands;
mod bench;
#[path = "../../benches/system/suite/mod.rs"]
mod bench_suite;
mod client_cases;
mod client_connections;
mod client_copy;
mod client_copy_faults;
mod client_faults;
mod cluster_compat;
mod cluster_kill;
mod cluster_load;
mod cluster_moves;
mod cluster_scrub;
mod cluster_store;
mod cluster_walkthrough;
mod cluster_worse;
mod coordinator;
mod coordinator_support;
mod coordinator_versions;
mod coordinator_zookeeper;
mod nginx_read_path;
mod node_bad_input;
mod node_blobs;
#[path = "../node_double/mod.rs"]
mod node_double;
mod node_hung_disk;
mod node_life;
mod node_plain;
mod node_process;
mod observability;
mod put_cluster;
mod put_double;
mod put_upload;
mod queue_cases;
mod queue_conformance;
mod queue_embedded;
mod queue_faults;
mod queue_replicated;
mod replicator_life;
mod replicator_process;
#[path = "../replicator_rig/mod.rs"]
mod replicator_rig;
mod replicator_targets;
mod replicator_tasks;
mod scrub;
#[path = "../simulation/queue.rs"]
mod simulation_queue;
mod slow_servers;
mod standalone;
mod storage_compaction;
mod storage_conformance;
mod storage_recovery;
#[path = "../support/mod.rs"]
mod support;
mod support_servers;
mod volume_commands;
