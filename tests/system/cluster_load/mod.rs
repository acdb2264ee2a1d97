//! A steady load on a cluster, every upload of it recorded.
//!
//! - [`cluster`]: the cluster it runs on
//! - [`disturbed`]: a load during which something is broken and mended, again and again
//! - [`run`]: clients that upload until enough was acknowledged, and one that reads, while the test disturbs the cluster
//! - `record`: what was sent and answered; `verdict`: what must be true of it in the end

mod record;
mod verdict;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    cluster::{Cluster, ClusterBuilder},
    shard_server::Kind,
    wait::{Deadline, wait_until},
};
pub use record::{Answer, Record, Upload};

/// Clients that upload at the same time, each one upload after the other.
const CLIENTS: usize = 4;

/// For all uploads of a load; most of it is for a slow machine.
const LOAD_WITHIN: Duration = Duration::from_secs(300);

/// Acknowledged uploads of a load, at least.
pub const UPLOADS: usize = 240;

/// How often something is broken during one load.
const TIMES: usize = 3;

/// Uploads that end while it is broken, at least.
const WHILE_BROKEN: usize = UPLOADS / 10;

/// Of so many uploads one goes again to a key that its client used before.
const OVERWRITE_EVERY: usize = 8;

/// Keys per client that are used again and again.
const OVERWRITTEN_KEYS: usize = 3;

/// The pool of the keys that are overwritten. What an overwrite adds to a shard depends on which server knew the older
/// blob, so what coordinators count is compared in the other pool.
const OVERWRITES: &str = "overwrites";

/// The only shard of that pool.
const OVERWRITES_SHARD: &str = "3";

/// Two shards for keys that are used once (servers 1 and 2, 3 and 4), one for those that are overwritten (5 and 6), and
/// two of everything else.
pub fn cluster() -> ClusterBuilder {
    let nodes = [Kind::Node, Kind::Node];
    let shards = ClusterBuilder::new().shard(&nodes).shard(&nodes).shard_in(OVERWRITES, &nodes);
    shards.coordinators(2).replicators(2)
}

/// A load under way.
pub struct Load<'a> {
    cluster: &'a Cluster,
    wanted: usize,
    uploads: Mutex<Vec<Upload>>,
    disturbed: AtomicBool,
}

/// A load during which `break_it` and `mend_it` are called with 0, 1, ... in the middle of work.
pub fn disturbed(cluster: &Cluster, mut break_it: impl FnMut(usize), mend_it: impl Fn(usize)) -> Record {
    run(cluster, UPLOADS, |load| {
        for time in 0..TIMES {
            load.wait_for_acknowledged(UPLOADS / (TIMES + 1));
            break_it(time);
            load.wait_for_more(WHILE_BROKEN);
            mend_it(time);
        }
    })
}

/// Uploads until `wanted` uploads were acknowledged; meanwhile `disturb` runs, and the load goes on until it returns.
pub fn run(cluster: &Cluster, wanted: usize, disturb: impl FnOnce(&Load<'_>)) -> Record {
    let load = Load { cluster, wanted, uploads: Mutex::default(), disturbed: AtomicBool::new(false) };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let load = &load;
            scope.spawn(move || load.upload_as(client));
        }
        scope.spawn(|| load.read());
        // Also when it panics: clients would wait for it for ever.
        let _end = SetWhenDropped(&load.disturbed);
        disturb(&load);
    });
    Record { uploads: load.uploads.into_inner().unwrap_or_else(PoisonError::into_inner) }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Load<'_> {
    /// Waits until so many more uploads were acknowledged.
    pub fn wait_for_acknowledged(&self, count: usize) {
        let until = self.acknowledged() + count;
        wait_until("uploads are acknowledged", LOAD_WITHIN, || self.acknowledged() >= until);
    }

    /// Waits until so many more uploads ended, one way or the other.
    pub fn wait_for_more(&self, count: usize) {
        let until = self.uploads().len() + count;
        wait_until("uploads go on", LOAD_WITHIN, || self.uploads().len() >= until);
    }

    /// Waits until an upload was acknowledged in this shard.
    pub fn wait_for_shard(&self, wanted: &str) {
        let there =
            |upload: &Upload| matches!(&upload.answer, Answer::Acknowledged { shard, .. } if shard == wanted);
        wait_until("uploads go to the shard", LOAD_WITHIN, || self.uploads().iter().any(there));
    }

    fn acknowledged(&self) -> usize {
        self.uploads().iter().filter(|upload| upload.is_acknowledged()).count()
    }

    fn uploads(&self) -> MutexGuard<'_, Vec<Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.disturbed.load(Ordering::SeqCst) && self.acknowledged() >= self.wanted
    }

    fn upload_as(&self, client: usize) {
        let mut dice = fastrand::Rng::with_seed(client as u64);
        let deadline = Deadline::within(LOAD_WITHIN);
        for number in 0.. {
            if self.has_ended() {
                return;
            }
            let so_far = || Record { uploads: self.uploads().clone() };
            assert!(!deadline.is_over(), "the load does not end: {:?}", so_far());
            let upload = self.upload(client, number, &mut dice);
            self.uploads().push(upload);
        }
    }

    fn upload(&self, client: usize, number: usize, dice: &mut fastrand::Rng) -> Upload {
        let overwrites = number % OVERWRITE_EVERY == OVERWRITE_EVERY - 1;
        let key = if overwrites {
            format!("again/{client}-{}", dice.usize(..OVERWRITTEN_KEYS))
        } else {
            format!("client-{client}/{number}")
        };
        let coordinator = (client + number) % self.cluster.coordinators.len();
        let level = ["one", "one", "quorum", "all"][dice.usize(..4)];
        let seed = (client as u64) << 32 | number as u64;
        let size = size(dice);
        let request = self
            .cluster
            .put(coordinator, &key, record::bytes_of(seed, size))
            .header("X-Backpack-Write", level)
            .header("X-Backpack-Pool", if overwrites { OVERWRITES } else { "default" });
        let answer = Answer::of(request.send_blocking());
        Upload { key, overwrites, seed, size, level, coordinator, answer, at: Instant::now() }
    }

    /// Reads what was acknowledged through nginx, again and again. While a server is down, a blob may be missing; what
    /// is given is right.
    fn read(&self) {
        let mut dice = fastrand::Rng::with_seed(CLIENTS as u64);
        while !self.has_ended() {
            let upload = dice.choice(self.uploads().iter()).cloned();
            let Some(upload) = upload.filter(|upload| !upload.overwrites) else {
                thread::yield_now();
                continue;
            };
            let Answer::Acknowledged { shard, .. } = &upload.answer else { continue };
            // A connection that breaks off in mid body is no answer, and nobody takes it for one.
            let Ok(reply) = self.cluster.read_request(shard, &upload.key).send_blocking() else { continue };
            match reply.status {
                200 => assert!(reply.body == upload.bytes(), "{} has other bytes", upload.key),
                status => assert!([404, 502, 503, 504].contains(&status), "{} got {status}", upload.key),
            }
        }
    }
}

/// Mostly small, some up to 2 MiB, a few empty.
fn size(dice: &mut fastrand::Rng) -> usize {
    match dice.u32(..100) {
        0..3 => 0,
        3..45 => dice.usize(1..4 << 10),
        45..85 => dice.usize(4 << 10..64 << 10),
        85..97 => dice.usize(64 << 10..512 << 10),
        _ => dice.usize(512 << 10..=2 << 20),
    }
}
