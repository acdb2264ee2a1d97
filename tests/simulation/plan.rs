//! What a seed means: a small cluster, what its users do and what goes wrong meanwhile. Pure.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use backpack::model::{Stage, WriteLevel};
use fastrand::Rng;

use super::twists::twist;

/// Users begin and faults happen within this time; then everything is mended.
pub const TROUBLE: Duration = Duration::from_secs(6);

/// Few, so that writes meet.
const KEYS: usize = 3;

/// Everything that a simulation needs beside the code under test.
pub struct Plan {
    /// Servers of each shard.
    pub shards: Vec<usize>,
    /// Milliseconds that each coordinator's clock is off.
    pub clocks_ms: Vec<i64>,
    /// How many replicators.
    pub replicators: usize,
    /// What each user does, one after the other.
    pub users: Vec<Vec<Step>>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// A server, counted through all shards, that is on its way into its shard or out of it.
    pub on_its_way: Option<(usize, Stage)>,
}

/// One thing that a user does.
#[derive(Debug, Clone)]
pub struct Step {
    /// Before it.
    pub pause: Duration,
    /// Who is asked.
    pub coordinator: usize,
    /// The blob's key.
    pub key: String,
    /// What is asked for.
    pub act: Act,
    /// In the middle of an upload nothing comes for so long.
    pub lull: Duration,
    /// Key and shard are those of the upload that was acknowledged last.
    pub of_last: bool,
}

/// What a user asks for.
#[derive(Debug, Clone)]
pub enum Act {
    /// An upload of so many bytes; its length may not be announced.
    Put { level: WriteLevel, bytes: usize, announced: bool },
    /// An upload that breaks off before its end.
    Broken { bytes: usize, announced: bool },
    /// A delete in the shard of that number.
    Delete { shard: usize, level: WriteLevel },
    /// A read in the shard of that number.
    Get { shard: usize },
}

/// Something that goes wrong for a while.
#[derive(Debug, Clone)]
pub struct Fault {
    pub from: Duration,
    pub until: Duration,
    pub trouble: Trouble,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// Nothing passes between two hosts; what was on its way is lost.
    Partition(String, String),
    /// Nothing passes from the first to the second.
    OneWay(String, String),
    /// What passes between two hosts comes when it is over.
    Held(String, String),
    /// What passes between two hosts takes long.
    Slow(String, String),
    /// A host dies and starts again; a node's disk keeps what it has.
    Crash(String),
    /// Servers of the queue do not do what they should.
    Queue(&'static [usize], Mood),
    /// A node has no room.
    Full(usize),
    /// A node's disk does not sync.
    Hung(usize),
    /// In a node's place stands a server that says too early that it stored a blob.
    Hasty(usize),
}

/// Servers of the queue that fail at the same time.
const QUEUES: [&[usize]; 3] = [&[0, 1], &[0], &[1]];

/// How a server of the queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    #[default]
    Well,
    /// It answers with an error and does nothing.
    Refuses,
    /// It does what it is asked to and answers with an error.
    LosesAnswers,
    /// It answers nothing for a long time, and then an error.
    Hangs,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let shards: Vec<_> = (0..rng.usize(1..=2)).map(|_| rng.usize(2..=3)).collect();
        let coordinators = 1 + usize::from(rng.u8(..3) > 0);
        let clocks_ms = (0..coordinators).map(|_| [0, -700, 90_000][rng.usize(..3)]).collect();
        let replicators = rng.usize(1..=2);
        let users = (0..rng.usize(2..=3)).map(|_| steps(&mut rng, coordinators, shards.len())).collect();
        let faults = faults(&mut rng, shards.iter().sum(), coordinators, replicators);
        let mut plan = Self { shards, clocks_ms, replicators, users, faults, on_its_way: None };
        twist(seed, &mut plan);
        plan
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.shards.iter().sum()
    }

    /// The servers of each shard, counted through all of them.
    pub fn members(&self) -> Vec<Range<usize>> {
        let mut members: Vec<Range<usize>> = Vec::new();
        for servers in &self.shards {
            let first = members.last().map_or(0, |before| before.end);
            members.push(first..first + servers);
        }
        members
    }
}

fn steps(rng: &mut Rng, coordinators: usize, shards: usize) -> Vec<Step> {
    let step = |rng: &mut Rng| Step {
        pause: Duration::from_millis(rng.u64(0..700)),
        coordinator: rng.usize(..coordinators),
        key: format!("k{}", rng.usize(..KEYS)),
        act: act(rng, shards),
        lull: Duration::ZERO,
        of_last: false,
    };
    (0..rng.usize(4..=8)).map(|_| step(rng)).collect()
}

fn act(rng: &mut Rng, shards: usize) -> Act {
    let level = [WriteLevel::One, WriteLevel::One, WriteLevel::Quorum, WriteLevel::All][rng.usize(..4)];
    let bytes = if rng.u8(..10) == 0 { rng.usize(6_000..30_000) } else { rng.usize(20..2000) };
    match rng.u8(..20) {
        0..=9 => Act::Put { level, bytes, announced: rng.u8(..4) > 0 },
        10 => Act::Broken { bytes, announced: rng.bool() },
        11..=13 => Act::Delete { shard: rng.usize(..shards), level },
        _ => Act::Get { shard: rng.usize(..shards) },
    }
}

fn faults(rng: &mut Rng, nodes: usize, coordinators: usize, replicators: usize) -> Vec<Fault> {
    let node = |rng: &mut Rng| format!("node-{}", rng.usize(1..=nodes));
    let peer = |rng: &mut Rng| match rng.bool() {
        true => format!("coordinator-{}", rng.usize(..coordinators)),
        false => format!("replicator-{}", rng.usize(..replicators)),
    };
    // One fault for each link and each host, so that the end of one does not end another.
    let mut taken = BTreeSet::new();
    let mut faults = Vec::new();
    // Of every fourth cluster all replicators are away for long: then much depends on what coordinators do alone.
    if rng.u8(..4) == 0 {
        let from = Duration::from_millis(rng.u64(..1000));
        for replicator in (0..replicators).map(|number| format!("replicator-{number}")) {
            taken.insert(replicator.clone());
            faults.push(Fault { from, until: TROUBLE, trouble: Trouble::Crash(replicator) });
        }
    }
    for number_of_fault in 0..rng.usize(1..=7) {
        let from = Duration::from_millis(rng.u64(..TROUBLE.as_millis() as u64));
        let until = from + Duration::from_millis(rng.u64(50..3000));
        let (node, peer, number) = (node(rng), peer(rng), rng.usize(..nodes));
        let (trouble, place) = match rng.u8(..20) {
            0..=3 => (Trouble::Partition(peer.clone(), node.clone()), format!("{peer} {node}")),
            4 => (Trouble::OneWay(peer.clone(), node.clone()), format!("{peer} {node}")),
            5 => (Trouble::OneWay(node.clone(), peer.clone()), format!("{peer} {node}")),
            6 => (Trouble::Held(peer.clone(), node.clone()), format!("{peer} {node}")),
            7 => (Trouble::Slow(peer.clone(), node.clone()), format!("{peer} {node}")),
            8..=10 => (Trouble::Crash(node.clone()), node),
            11..=12 => (Trouble::Crash(peer.clone()), peer),
            13..=15 => {
                let mood = [Mood::Refuses, Mood::LosesAnswers, Mood::Hangs][rng.usize(..3)];
                (
                    Trouble::Queue(QUEUES[number_of_fault % QUEUES.len()], mood),
                    format!("queue {number_of_fault}"),
                )
            }
            16..=17 => (Trouble::Full(number), format!("room {number}")),
            _ => (Trouble::Hung(number), format!("disk {number}")),
        };
        if taken.insert(place) {
            faults.push(Fault { from, until, trouble });
        }
    }
    faults
}
