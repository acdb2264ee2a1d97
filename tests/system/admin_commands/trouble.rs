//! ZooKeeper is down, hangs, or refuses.

use super::Cluster;
use crate::support::{port::free_port, tls::Certificates, zookeeper::ZooKeeper};

/// It stays away until the program has ended, so nothing but the program ends the wait.
#[track_caller]
fn says_that_it_is_away(cluster: &Cluster) {
    let said = cluster.call("print-stats", "");
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
    let sentence = format!("error: ZooKeeper does not answer at {}", cluster.zk);
    assert!(said.stderr.contains(&sentence) && said.stderr.contains("Check that it runs"), "{said:?}");
}

#[test]
fn a_zookeeper_that_is_down_is_named_within_ten_seconds() {
    says_that_it_is_away(&Cluster::at(&format!("127.0.0.1:{}", free_port()), "/backpack"));
}

#[test]
fn a_zookeeper_that_hangs_is_named_within_ten_seconds() {
    let server = ZooKeeper::start();
    let cluster = Cluster::at(&server.addr(), "/backpack");
    cluster.set_up("127.0.0.1:1");
    server.stop();
    says_that_it_is_away(&cluster);
    server.cont();
    cluster.ok("print-stats", "");
}

#[test]
fn who_may_not_write_is_told_so() {
    let cluster = Cluster::new();
    let owner = cluster.env("BACKPACK_ZK_AUTH", "admin:sesame");
    owner.set_up("127.0.0.1:1");
    cluster.ok("print-stats", "");
    let before = cluster.documents();
    let refused = cluster.refused(1, "add-server", "7 one:7");
    assert!(refused.contains("refuses access"), "{refused}");
    let wrong = cluster.env("BACKPACK_ZK_AUTH", "admin:barley").refused(1, "enable-shard", "2");
    assert!(wrong.contains("refuses access") && !wrong.contains("barley"), "{wrong}");
    assert_eq!(cluster.documents(), before);
    owner.ok("enable-shard", "2");
    let malformed = cluster.env("BACKPACK_ZK_AUTH", "barley").refused(2, "enable-shard", "2");
    assert!(malformed.contains("user:password") && !malformed.contains("barley"), "{malformed}");
}

#[test]
fn zookeeper_over_tls_is_reached_with_its_certificates() {
    let certificates = Certificates::generate();
    let server = ZooKeeper::start_tls(&certificates, false);
    let cluster = Cluster::at(&server.tls_addr(), "/backpack");
    let trusting = cluster.env("BACKPACK_ZK_TLS_CA", certificates.ca().to_str().unwrap());
    trusting.set_up("127.0.0.1:1");
    assert!(trusting.ok("print-stats", "").starts_with("Shards:\n1 [1, 4]"));
}
