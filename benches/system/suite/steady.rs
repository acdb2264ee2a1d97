//! Whether anything grows while a cluster does the same all the time: uploads over a bounded set of keys, reads and deletes, at a
//! moderate pace; a coordinator, two nodes and a replicator, with ZooKeeper and Redis behind them.
//!
//! The memory of a process and its open files are looked at all the time. What they are at the end stands beside what they were once all
//! had warmed up; a process that keeps something of each request shows it in the difference.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{Scale, figures::Figures, line::Line, memory::resident_mib, sheet::Sheet, wire::Wire};
use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    process::Process,
    shard_server::Kind,
};

/// Connections that ask, each with keys of its own.
const ASKING: usize = 8;

/// Each of them so often: 400 requests a second in all, of which a machine of two cores does several times as many.
const EVERY: Duration = Duration::from_millis(20);

/// Keys of each: overwritten again and again, so that no index has a reason to grow.
const KEYS: usize = 250;

/// Sizes of the blobs: from nothing to this.
const MAX_BYTES: usize = 16 << 10;

/// How often it is looked, in a run.
const LOOKS: u32 = 300;

/// Of the looks, which count as the beginning, once all has warmed up, and which as the end.
const BEGINNING: std::ops::Range<usize> = 60..120;
const END: std::ops::Range<usize> = 240..300;

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let cluster = ClusterBuilder::new().usual_times().shard(&[Kind::Node; 2]).start();
    let processes = processes(&cluster);
    let stop = AtomicBool::new(false);
    let looks: Vec<Vec<Look>> = thread::scope(|scope| {
        let asking = (0..ASKING).map(|number| {
            let (stop, wire) = (&stop, Wire::connect(cluster.coordinators[0].addr()));
            scope.spawn(move || ask(number, wire, stop))
        });
        let asking: Vec<_> = asking.collect();
        let began = Instant::now();
        let looks = (1..=LOOKS).map(|look| {
            let due = scale.long_run * look / LOOKS;
            thread::sleep(due.saturating_sub(began.elapsed()));
            processes.iter().map(|(_, process)| Look::at(process)).collect()
        });
        let looks = looks.collect();
        stop.store(true, Relaxed);
        asking.into_iter().for_each(|asking| asking.join().expect("all requests are answered"));
        looks
    });
    cluster.assert_all_run();
    let run = scale.long_run.as_secs();
    for (at, (name, _)) in processes.iter().enumerate() {
        let mut add = |what: &str, unit, of: fn(&Look) -> f64| {
            let median =
                |looks: &[Vec<Look>]| looks.iter().map(|look| of(&look[at])).collect::<Figures>().median();
            let figures = [END, BEGINNING].map(|part| Figures::from_iter([median(&looks[part])]));
            let what = format!("{run} s of requests: {what} of {name}, end / beginning");
            sheet.add(Line::beside(what, unit, figures, |end, beginning| end - beginning));
        };
        add("memory", "MiB", |look| look.resident_mib);
        add("open files", "files", |look| look.files as f64);
    }
}

fn processes(cluster: &Cluster) -> Vec<(&'static str, &Process)> {
    let nodes = cluster.nodes();
    let mut processes = vec![
        ("the coordinator", &**cluster.coordinators[0].daemon()),
        ("the replicator", &**cluster.replicators[0].daemon()),
        ("a node", nodes[0]),
        ("the other node", nodes[1]),
    ];
    processes
        .extend(["a Redis", "the other Redis"].into_iter().zip(cluster.redis.iter().map(|redis| &**redis)));
    processes
}

/// What a process has at a moment.
struct Look {
    resident_mib: f64,
    files: usize,
}

impl Look {
    fn at(process: &Process) -> Self {
        let files = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("list open files").count();
        Self { resident_mib: resident_mib(process), files }
    }
}

/// Of ten requests six are uploads, three are reads and one is a delete.
fn ask(number: usize, mut wire: Wire, stop: &AtomicBool) {
    let body = vec![7; MAX_BYTES];
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += EVERY;
        let key = format!("steady/{number}/{}", fastrand::usize(..KEYS));
        let (status, may) = match fastrand::u8(..10) {
            0..6 => {
                (wire.ask("PUT", &format!("/{key}"), "", &body[..fastrand::usize(..MAX_BYTES)]), &[200][..])
            }
            6..9 => (wire.ask("GET", &format!("/1:{key}"), "", b""), &[200, 404, 410][..]),
            _ => (wire.ask("DELETE", &format!("/1:{key}"), "", b""), &[200, 204, 404, 410][..]),
        };
        assert!(may.contains(&status), "{status} about {key}");
    }
}
