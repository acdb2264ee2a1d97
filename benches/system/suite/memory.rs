//! What a coordinator and a node need for very many uploads that are open at the same time, all of them in mid body.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use super::{
    Scale, cpu,
    line::{Line, Target},
    sheet::Sheet,
};
use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    process::Process,
    shard_server::Kind,
    wait::wait_until,
};

/// Sizes of the bodies: such as most are, and such as are kept for a replay only while there is room.
const SIZES: [usize; 2] = [16 << 10, 128 << 10];

/// A coordinator may have so much, and so much more for each open upload.
const PROGRAM_MIB: f64 = 64.0;
const UPLOAD_MIB: f64 = 32.0 / 1024.0;

const BEGUN_AT_ONCE: usize = 1000;

/// For what was sent to be read.
const READ_WITHIN: Duration = Duration::from_secs(300);

/// A program that computed nothing for so long has read what there is.
const IDLE: Duration = Duration::from_millis(500);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    backpack::daemon::program::raise_open_files();
    for size in SIZES {
        // Nobody is to lose patience while the others begin.
        let cluster = ClusterBuilder::new().usual_times().env("BACKPACK_COORDINATOR_BODY_IDLE", "3600");
        let cluster =
            cluster.env("BACKPACK_NODE_UPLOAD_IDLE", "3600").env("BACKPACK_COORDINATOR_PATIENCE", "600000");
        let cluster = cluster.shard(&[Kind::Node; 2]).replicators(0).start();
        let (coordinator, nodes) = (&**cluster.coordinators[0].daemon(), cluster.nodes());
        let all = [&[coordinator], &nodes[..]].concat();
        let mut uploads = Vec::new();
        while uploads.len() < scale.open_uploads {
            // Not all of them in the same second: connections that must wait for longer than a second are given up.
            let most = scale.open_uploads.min(uploads.len() + BEGUN_AT_ONCE);
            uploads.extend((uploads.len()..most).map(|number| Upload::begin(&cluster, number, size)));
            all.iter().copied().for_each(wait_idle);
        }
        let largest_node = nodes.iter().map(|node| resident_mib(node)).fold(0.0, f64::max);
        let allowed = PROGRAM_MIB + UPLOAD_MIB * scale.open_uploads as f64;
        let what = |who| format!("{} uploads of {} KiB in mid body: {who}", scale.open_uploads, size >> 10);
        let line = Line::limited(what("coordinator"), "MiB", resident_mib(coordinator), allowed);
        sheet.add(line.target(Target::AtMost(1.0)));
        sheet.add(Line::limited(what("one of two nodes"), "MiB", largest_node, allowed));
        uploads.into_iter().for_each(Upload::finish);
    }
}

/// An upload of which half was sent.
struct Upload {
    connection: TcpStream,
    rest: Vec<u8>,
}

impl Upload {
    fn begin(cluster: &Cluster, number: usize, size: usize) -> Self {
        let addr = cluster.coordinators[0].addr();
        let mut connection = TcpStream::connect(addr).expect("connect to a coordinator");
        let head = format!("PUT /open/{number} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {size}\r\n\r\n");
        connection.write_all(head.as_bytes()).expect("send a head");
        let rest = vec![7; size / 2];
        connection.write_all(&rest).expect("send half of a body");
        Self { connection, rest }
    }

    fn finish(mut self) {
        self.connection.write_all(&self.rest).expect("send the rest of a body");
        let mut status = String::new();
        BufReader::new(self.connection).read_line(&mut status).expect("read an answer");
        assert!(status.contains(" 200 "), "{status}");
    }
}

fn wait_idle(process: &Process) {
    wait_until("what was sent is read", READ_WITHIN, || {
        let before = cpu::of(&[process]);
        std::thread::sleep(IDLE);
        cpu::of(&[process]) == before
    });
}

/// Resident memory.
pub fn resident_mib(process: &Process) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("read a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a process has memory") / 1024.0
}
