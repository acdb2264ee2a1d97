//! The rules, on made-up sources: what is allowed, and each kind of violation.

use super::violations;

/// The lines of the violations, and a part of each message.
fn check(file: &str, text: &str, expected: &[(usize, &str)]) {
    let found = violations(file, text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (line, part)) in found.iter().zip(expected) {
        assert!(found.starts_with(&format!("{file}:{line}: ")) && found.contains(part), "{found}");
    }
}

#[test]
fn down_is_allowed() {
    check("src/coordinator/upload.rs", "use crate::{client::Put, http, model::Key, queue::Queue};", &[]);
    check("src/bin/backpack.rs", "use backpack::{standalone, daemon};", &[]);
    check("src/standalone.rs", "use crate::node::serve;", &[]);
    check("src/queue/redis/link.rs", "use super::{super::Queue, scripts}; use crate::queue::Want;", &[]);
}

#[test]
fn up_and_sideways_is_not() {
    check("src/model/key.rs", "\nuse crate::http::Body;", &[(2, "model imports http, which is above it")]);
    check("src/node/mod.rs", "use crate::coordinator;", &[(1, "node imports its neighbour coordinator")]);
    check("src/queue/mod.rs", "use crate::cluster::View;", &[(1, "neighbour cluster")]);
    check("src/http/mod.rs", "fn f() {\n crate::node::x();\n}", &[(2, "http imports node")]);
    check("src/daemon/mod.rs", "use crate::Thing;", &[(1, "from the root")]);
}

#[test]
fn every_branch_of_a_group_is_seen() {
    let text = "use crate::{\n    model::{Key, Task},\n    node,\n    admin::{self, x::{y, z}},\n    http::Body,\n};";
    check("src/storage/mod.rs", text, &[(3, "node"), (4, "admin")]);
}

#[test]
fn super_that_leads_to_the_root_is_seen() {
    check("src/http/mod.rs", "use super::node::x;", &[(1, "node")]);
    check("src/http/server.rs", "use super::node::x;", &[]);
    check("src/http/server.rs", "use super::super::{model, node};", &[(1, "node")]);
    let inline =
        "mod tests {\n use super::super::node;\n use super::super::super::node;\n}\nuse super::super::node;";
    check("src/http/server.rs", inline, &[(3, "node"), (5, "node")]);
}

#[test]
fn comments_and_texts_are_no_imports() {
    let text = "//! [`crate::node`]\n/* crate::node /* */ crate::node */ \"crate::node \\\" crate::node\" r#\"\" crate::node\"#\n\
                '\"' crate::node; fn f<'a>(x: &'a str) { '\\'' } crate::node;";
    check("src/http/mod.rs", text, &[(3, "node"), (3, "node")]);
}

#[test]
fn a_driver_outside_its_place_is_seen() {
    for (file, text) in [
        ("src/node/mod.rs", "use heed::Env;"),
        ("src/admin/mod.rs", "use deadpool_redis;"),
        ("src/queue/mod.rs", "fn f() -> redis::Client {}"),
        ("src/cluster/view.rs", "use {zookeeper_client::Client, x};"),
    ] {
        check(file, text, &[(1, "the driver")]);
    }
    check("src/cluster/zookeeper.rs", "use zookeeper_client as zk;", &[]);
    check("src/cluster/zookeeper/session.rs", "use zookeeper_client as zk;", &[]);
    check("src/embedded/txn.rs", "use heed::Env;", &[]);
    check("src/queue/mod.rs", "mod redis;\npub use redis::RedisQueue;\nuse self::redis::x;", &[]);
    check("src/queue/follow.rs", "use super::redis::RedisQueue; let redis = 1; take heed;", &[]);
}

#[test]
fn a_new_module_must_be_placed() {
    check("src/misc.rs", "", &[(1, "in no layer")]);
    check("src/lib.rs", "pub mod node;", &[]);
}
