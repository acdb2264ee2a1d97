//! A node that is written to and compacts while it is looked at: no damage where there is none.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use crate::support::{
    http::Request,
    wait::{START_WITHIN, wait_until},
};

use super::rig::*;

/// Looks, each with all commands, while the node is written to.
const LOOKS: usize = 8;
const WRITERS: usize = 4;

#[test]
fn what_is_written_and_removed_meanwhile_is_no_damage() {
    let node = Node::start(&["--compact-dead-ratio", "0.05", "--compact-bytes-per-second", "1gb"]);
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (node, stop, written) = (&node, &stop, &written);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(writer as u64);
                while !stop.load(Ordering::Relaxed) {
                    let n = random.usize(..30);
                    // All kinds of blobs, nearly all of them overwrites; some deletes.
                    match random.u8(..8) {
                        0 => node.put(&format!("/whole/{writer}/{n}"), body(n, 0, 120_000)),
                        1 => node.delete(&format!("/small/{writer}/{n}")),
                        2 => node.delete(&format!("/whole/{writer}/{n}")),
                        3 => node.put(&format!("/long/{writer}/{n}"), body(n, 0, 80_000)),
                        _ => node.put(&format!("/small/{writer}/{n}"), body(n, 0, 3_000)),
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let looked = thread::scope(|looks| looks.spawn(|| look(&node, &written)).join());
        stop.store(true, Ordering::Relaxed);
        looked.expect("nothing was found wrong");
    });
}

/// Looks again and again, and in the end at a node that removed volumes meanwhile.
fn look(node: &Node, written: &AtomicUsize) {
    let dir = node.dir();
    for _ in 0..LOOKS {
        let before = written.load(Ordering::Relaxed);
        wait_until("more is written", START_WITHIN, || written.load(Ordering::Relaxed) > before + 50);
        let sums = verified(&ok("verify", &dir, &["--json"]));
        assert_eq!(sums["damaged"], 0, "{sums}");
        let dump = ok("dump", &dir, &["--json"]).lines();
        assert!(!dump.iter().any(|line| line["kind"] == "damaged"));
        ok("list", &dir, &[]);
    }
    let stats = Request::get(&node.addr, "/stats").send_blocking().unwrap().text();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(
        stats["storage"]["reclaimed_bytes"].as_u64().or(stats["reclaimed_bytes"].as_u64()) > Some(0),
        "{stats}"
    );
}
