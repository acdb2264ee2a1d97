//! A node with more and more blobs: uploads, reads, memory, and how long it takes to start.
//!
//! The blobs are short, so that ten million of them take less than 2 GB, and the storage engine writes them in this process, as if
//! somebody had filled the node for years. Throughput is of blobs of 1 KiB that the load itself uploads, among all the others: it
//! knows no other keys. That any of the others is read as fast is a line of its own.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use backpack::{
    model::{Meta, Version},
    storage::{Engine, NewBlob, Options, Storage, SyncMode},
};
use bytes::Bytes;

use super::{
    super::{
        Scale,
        figures::Figures,
        load::Load,
        memory::resident_mib,
        servers::Node,
        sheet::Sheet,
        turns::{Round, clear, settle},
        wire::Wire,
    },
    curve, curve_of, number,
};

/// Bytes of the blobs that are there before.
const BODY: usize = 100;

/// Bytes of those that are uploaded.
const SIZE: usize = 1 << 10;

/// Blobs that the load reads again and again.
const READ_BLOBS: u64 = 1000;

/// Writers of what is there before: enough that the engine never waits for one.
const WRITERS: u64 = 64;

/// How operators have it.
const SYNC: &str = "group";

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let empty_mib = resident_mib(Node::start(SYNC).process());
    let mut first = None;
    for &blobs in scale.growth_blobs {
        let step = Step::measure(scale, blobs, empty_mib);
        step.add_lines(first.get_or_insert_with(|| step.clone()), sheet);
    }
}

/// What was measured with so many blobs.
#[derive(Clone)]
struct Step {
    blobs: u64,
    started_ms: f64,
    bytes_a_blob: f64,
    any_p99_ms: f64,
    get: Vec<Round>,
    put: Vec<Round>,
}

impl Step {
    fn measure(scale: &Scale, blobs: u64, empty_mib: f64) -> Self {
        let folder = tempfile::tempdir().expect("make a folder for a node");
        fill(folder.path(), blobs);
        settle();
        let started = Instant::now();
        let node = Node::on(folder.path(), SYNC);
        let started_ms = started.elapsed().as_secs_f64() * 1000.0;
        let any_p99_ms = read_any(scale, node.addr(), blobs);
        let bytes_a_blob = (resident_mib(node.process()) - empty_mib) * f64::from(1 << 20) / blobs as f64;
        let rounds = |load: &dyn Fn() -> Load| -> Vec<Round> {
            let round = |_| {
                clear(scale);
                Round::of(&[node.process()], || load().run())
            };
            (0..scale.rounds).map(round).collect()
        };
        // Reads first: uploads make it more than so many blobs.
        let get = rounds(&|| Load::get(scale, node.addr(), node.addr(), SIZE, READ_BLOBS));
        let put = rounds(&|| Load::put(scale, node.addr(), SIZE));
        Self { blobs, started_ms, bytes_a_blob, any_p99_ms, get, put }
    }

    fn add_lines(&self, first: &Self, sheet: &mut Sheet) {
        let on = format!("{} blobs", number(self.blobs));
        for (verb, rounds) in [("GET", [&self.get[..], &first.get]), ("PUT", [&self.put, &first.put])] {
            let what = format!("{on}: {verb} of 1 KiB");
            sheet.add(curve(what.clone(), "a second", rounds, Round::per_second));
            sheet.add(curve(what.clone(), "per CPU s", rounds, Round::per_cpu_second));
            sheet.add(curve(format!("{what}, p99"), "ms", rounds, |round| round.answered.p99_ms));
        }
        let mut add = |what: &str, unit, of: fn(&Self) -> f64| {
            let figures = [self, first].map(|step| Figures::from_iter([of(step)]));
            sheet.add(curve_of(format!("{on}: {what}"), unit, figures.each_ref()));
        };
        add("GET of any blob, one at a time, p99", "ms", |step| step.any_p99_ms);
        add("memory a blob", "bytes", |step| step.bytes_a_blob);
        add("start to ready", "ms", |step| step.started_ms);
    }
}

/// Writes so many blobs into an empty folder, and closes it as a node does that stops.
fn fill(folder: &Path, blobs: u64) {
    let options = Options { sync: SyncMode::Never, ..Options::default() };
    let engine = Engine::open(folder, options).expect("open an empty storage");
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("make a runtime");
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| runtime.spawn(write(engine.clone(), writer, blobs))).collect();
    runtime.block_on(async {
        for writer in writers {
            writer.await.expect("a writer comes to its end");
        }
        engine.close().await.expect("close a storage");
    });
}

async fn write(engine: Arc<Engine>, writer: u64, blobs: u64) {
    let body = Bytes::from_static(&[7; BODY]);
    for number in (writer..blobs).step_by(WRITERS as usize) {
        let key = key(number).parse().expect("it is a key");
        let (version, length) = (Version::from_parts(1, 1), Some(BODY as u64));
        let blob = NewBlob { key, version, meta: Meta::default(), length };
        let mut upload = engine.create(blob).await.expect("begin a blob");
        upload.write(body.clone()).await.expect("write a blob");
        upload.commit().await.expect("end a blob");
    }
}

/// In no order, as ids of photos are.
fn key(number: u64) -> String {
    format!("photos/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Reads blobs that were there before, any of them: what nearly all of the reads took less than.
fn read_any(scale: &Scale, addr: &str, blobs: u64) -> f64 {
    let mut wire = Wire::connect(addr);
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..scale.any_reads {
        let target = format!("/{}", key(fastrand::u64(..blobs)));
        let asked = Instant::now();
        let status = wire.ask("GET", &target, "", b"");
        took.push(asked.elapsed());
        assert_eq!(status, 200, "{target}");
    }
    took.sort_unstable();
    took[(took.len() - 1) * 99 / 100].as_secs_f64() * 1000.0
}
