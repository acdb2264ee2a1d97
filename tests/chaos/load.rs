//! Clients that upload, overwrite, delete and read while everything breaks, each one thing after the other, and write down
//! what they asked and what they were told.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    record::{Answer, Asked, Bytes, Op, Reader, Record, Since},
    support::http::Request,
};

/// Clients that do everything, and others that only read.
const CLIENTS: usize = 6;
const READERS: usize = 2;
/// What one client begins at most, so that the machine has something left for the cluster.
const EVERY: Duration = Duration::from_millis(35);
/// A client waits so long for an answer. Longer than a coordinator waits for a server.
const PATIENCE: Duration = Duration::from_secs(15);
/// Keys of each client, used again and again, and keys that all clients share.
const OWN_KEYS: usize = 250;
const SHARED_KEYS: usize = 12;
/// Blobs that readers and deletes choose from.
const KNOWN: usize = 2_000;
/// For hours of load: what is written down takes some hundred bytes each.
const MOST_OPS: usize = 5_000_000;

/// A load under way.
pub struct Load {
    seed: u64,
    coordinators: Vec<String>,
    nginx: String,
    /// When it began.
    pub since: Since,
    ended: AtomicBool,
    ops: Mutex<Vec<Op>>,
    /// Blobs that were acknowledged lately: shard and key.
    known: Mutex<Vec<(String, String)>>,
    /// Held by each write below level `all` while it is made.
    weak: RwLock<()>,
    only_all: AtomicBool,
}

impl Load {
    /// Through these coordinators and this nginx.
    pub fn new(seed: u64, coordinators: Vec<String>, nginx: String) -> Self {
        Self {
            seed,
            coordinators,
            nginx,
            since: Since(Instant::now()),
            ended: AtomicBool::new(false),
            ops: Mutex::default(),
            known: Mutex::default(),
            weak: RwLock::new(()),
            only_all: AtomicBool::new(false),
        }
    }

    /// Runs clients until `disturb` returns or panics.
    pub fn run<T>(&self, disturb: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            for client in 0..CLIENTS + READERS {
                scope.spawn(move || self.client(client));
            }
            let _end = SetWhenDropped(&self.ended);
            disturb()
        })
    }

    /// From now on all writes are made at level `all`; returns when those of lower levels have ended.
    pub fn only_all(&self) {
        self.only_all.store(true, SeqCst);
        drop(self.weak.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends [`Load::only_all`].
    pub fn all_levels(&self) {
        self.only_all.store(false, SeqCst);
    }

    /// Whether a write was acknowledged under this version.
    pub fn has_acknowledged(&self, wanted: &str) -> bool {
        let is_it = |op: &Op| matches!(&op.answer, Answer::Done { version, .. } if version == wanted);
        self.ops().iter().any(is_it)
    }

    /// What was done.
    pub fn into_record(self) -> Record {
        Record { ops: self.ops.into_inner().unwrap_or_else(PoisonError::into_inner), destroyed: Vec::new() }
    }

    fn client(&self, number: usize) {
        let mut dice = fastrand::Rng::with_seed(self.seed ^ (number as u64 + 1) << 48);
        let mut count = 0;
        while !self.ended.load(SeqCst) && count < MOST_OPS / (CLIENTS + READERS) {
            let begun = Instant::now();
            let draw = dice.u8(..100);
            if number >= CLIENTS || draw < 30 {
                self.read(&mut dice);
            } else if draw < 40 {
                self.write(&mut dice, |level, dice| self.delete(level, dice));
            } else {
                self.write(&mut dice, |level, dice| self.upload(number, level, dice));
            }
            count += 1;
            // A pace, not a wait for anything.
            thread::sleep(EVERY.saturating_sub(begun.elapsed()));
        }
    }

    fn write(&self, dice: &mut fastrand::Rng, write: impl FnOnce(&'static str, &mut fastrand::Rng)) {
        let level = ["one", "one", "quorum", "all"][dice.usize(..4)];
        let weak = self.weak.read().unwrap_or_else(PoisonError::into_inner);
        if level == "all" || self.only_all.load(SeqCst) {
            drop(weak);
            write("all", dice);
        } else {
            write(level, dice);
        }
    }

    fn upload(&self, client: usize, level: &'static str, dice: &mut fastrand::Rng) {
        let key = if dice.u8(..6) == 0 {
            format!("shared/{}", dice.usize(..SHARED_KEYS))
        } else {
            let number = dice.usize(..OWN_KEYS);
            // Keys are bytes: a query, a colon, escapes.
            let more = ["", "", "", "?size=1:2", "%20%C3%A9.jpg", ":b+c"][number % 6];
            format!("client-{client}/{number}{more}")
        };
        let body = body(dice);
        let asked = Asked::Put { level, bytes: Bytes::of(&body) };
        let coordinator = self.coordinator(dice);
        let request = Request::new("PUT", coordinator, &format!("/{key}")).header("X-Backpack-Write", level);
        let request = if dice.u8(..8) == 0 { request.chunked(&body, 5_000) } else { request.body(body) };
        if let Answer::Done { shard, .. } = self.ask(&key, asked, request) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < KNOWN {
                known.push((shard, key));
            } else {
                known[dice.usize(..KNOWN)] = (shard, key);
            }
        }
    }

    fn delete(&self, level: &'static str, dice: &mut fastrand::Rng) {
        let Some((shard, key)) = self.some_known(dice) else { return };
        let request = Request::new("DELETE", self.coordinator(dice), &format!("/{shard}:{key}"));
        let request = request.header("X-Backpack-Write", level);
        self.ask(&key, Asked::Delete { level, shard }, request);
    }

    fn read(&self, dice: &mut fastrand::Rng) {
        let Some((shard, key)) = self.some_known(dice) else { return };
        let (addr, by) = if dice.bool() {
            (self.nginx.as_str(), Reader::Nginx)
        } else {
            (self.coordinator(dice), Reader::Coordinator)
        };
        let request = Request::get(addr, &format!("/{shard}:{key}"));
        self.ask(&key, Asked::Get { shard, by }, request);
    }

    fn ask(&self, key: &str, asked: Asked, request: Request) -> Answer {
        let begun = self.since.now();
        let answer = Answer::to(&asked, request.within(PATIENCE).send_blocking());
        let op = Op { begun, ended: self.since.now(), key: key.to_owned(), asked, answer: answer.clone() };
        self.ops().push(op);
        answer
    }

    fn coordinator(&self, dice: &mut fastrand::Rng) -> &str {
        &self.coordinators[dice.usize(..self.coordinators.len())]
    }

    fn some_known(&self, dice: &mut fastrand::Rng) -> Option<(String, String)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        dice.choice(known.iter()).cloned()
    }

    fn ops(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Mostly small, a few empty, a few up to 2 MiB.
fn body(dice: &mut fastrand::Rng) -> Vec<u8> {
    let size = match dice.u32(..1000) {
        0..30 => 0,
        30..650 => dice.usize(1..4 << 10),
        650..960 => dice.usize(4 << 10..32 << 10),
        960..995 => dice.usize(32 << 10..256 << 10),
        _ => dice.usize(256 << 10..=2 << 20),
    };
    let mut bytes = vec![0; size];
    dice.fill(&mut bytes);
    bytes
}
