//! What is broken, where, when and for how long: a pure function of a seed. Nothing here touches a process.
//!
//! A plan is made of rounds. In a round faults overlap, none of them on a part that another one has at the same time. Between
//! rounds stands a fault that destroys one copy of everything on a server: the suite lets it happen only when every blob has
//! all its copies.

use std::{collections::BTreeSet, fmt, time::Duration};

/// Servers of a shard.
pub const COPIES: usize = 3;
/// Shards; the nodes of the first one come first.
pub const SHARDS: usize = 2;
/// Storage servers, without the spare one that comes after them where machines are changed.
pub const NODES: usize = SHARDS * COPIES;
/// Coordinators, replicators and Redis servers: two of each.
pub const PAIR: usize = 2;
/// ZooKeeper servers.
pub const ZOOKEEPERS: usize = 3;
/// Nodes whose disk is small enough to be filled: one of each shard.
pub const SMALL_DISKS: [usize; SHARDS] = [COPIES - 1, NODES - 1];

/// How long the faults of a round may last, all in all.
pub const ROUND: Duration = Duration::from_secs(10);
/// Longer than a session with ZooKeeper, which is [`SESSION_SECONDS`].
const SESSION_LOST_MS: u64 = 7_000;
/// How long a session with ZooKeeper lives that is not heard of.
pub const SESSION_SECONDS: &str = "4";
/// Faults of a round: with three rounds every kind has its turn.
const STEPS: usize = 7;

/// A process, numbered from 0 among its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Coordinator(usize),
    Replicator(usize),
    Node(usize),
    Redis(usize),
    ZooKeeper(usize),
    Nginx,
}

/// A connection through one of our proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Of clients to a coordinator.
    Clients(usize),
    /// Of everybody to a node.
    Node(usize),
    /// Of everybody to a Redis server.
    Redis(usize),
    /// Of one process to all ZooKeeper servers.
    ZooKeeper(Part),
}

/// How a proxy behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As if it were not there.
    Pass,
    /// Nobody listens, and connections end.
    Refuse,
    /// Connections are taken and kept, and what comes is dropped.
    BlackHole,
    /// Everything comes so much later.
    Delay { ms: u64 },
    /// So much comes through, each way.
    Slow { bytes_per_second: u64 },
    /// Connections end in the middle.
    Cut,
    /// The same, with a reset.
    Reset,
}

/// One thing that goes wrong and is mended after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Kill(Part),
    Freeze(Part),
    PoliteRestart(Part),
    Proxy(Link, Mode),
    RedisEmptied(Vec<usize>),
    /// All ZooKeeper servers but this one are killed.
    QuorumLost {
        stays: usize,
    },
    SessionLost(Part),
    /// Its clock says a time so far off.
    ClockOffset {
        of: Part,
        seconds: i64,
    },
    ShardDisabled(usize),
    DiskFull(usize),
}

/// A fault that destroys what one node holds, or some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroys {
    DiskEmptied(usize),
    BytesFlipped { node: usize, seed: u64 },
    ServerReplaced(usize),
}

/// A fault with its time, from the beginning of its round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub at: Duration,
    pub lasts: Duration,
}

/// A machine that takes the place of another one, by an operator's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// An empty one gets a server's id; the old one runs until that is done, or is gone.
    ServerReplaced { node: usize, runs: bool },
    /// The spare node gets a place in a shard, and the one that had it is spare then.
    ShardMoved { shard: usize, place: usize },
}

/// Faults that overlap, and what is destroyed when all of them are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// What is begun before them, if machines are changed at all and no other one is being changed.
    pub change: Option<Change>,
    pub steps: Vec<Step>,
    pub then: Destroys,
}

/// The kinds of faults, as they are drawn: some come twice as often as the others.
const DRAWN: [&str; 17] = [
    "kill",
    "kill",
    "freeze",
    "freeze",
    "polite restart",
    "refuse",
    "black hole",
    "delay",
    "slow",
    "cut",
    "reset",
    "Redis emptied",
    "quorum lost",
    "session lost",
    "clock offset",
    "shard disabled",
    "disk full",
];

/// The plan of a seed: so many rounds.
pub fn plan(seed: u64, rounds: usize) -> Vec<Round> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut kinds, mut destroys) = (Vec::new(), Vec::new());
    // Of their own, so that the faults of a seed are the same with them and without.
    let (mut others, mut changes) = (fastrand::Rng::with_seed(!seed), Vec::new());
    let round = |_| Round {
        change: change(&mut others, &mut changes),
        ..round(&mut dice, &mut kinds, &mut destroys)
    };
    (0..rounds).map(round).collect()
}

/// Of every third round.
fn change(dice: &mut fastrand::Rng, changes: &mut Vec<u8>) -> Option<Change> {
    match draw(changes, &[0, 1, 2, 3, 4, 5], dice)? {
        0 => Some(Change::ServerReplaced { node: dice.usize(..NODES), runs: true }),
        1 => Some(Change::ShardMoved { shard: dice.usize(..SHARDS), place: dice.usize(..COPIES) }),
        _ => None,
    }
}

fn round(dice: &mut fastrand::Rng, kinds: &mut Vec<&'static str>, destroys: &mut Vec<usize>) -> Round {
    let mut steps: Vec<Step> = Vec::new();
    let mut taken = BTreeSet::new();
    let mut postponed = Vec::new();
    while steps.len() < STEPS {
        let Some(kind) = draw(kinds, &DRAWN, dice) else { break };
        // The parts it may have are tried in an order of chance; a kind for which none is free comes next time.
        let free = (0..40).map(|_| fault(kind, dice)).find(|fault| fault.parts().is_disjoint(&taken));
        let Some(fault) = free else {
            postponed.push(kind);
            continue;
        };
        taken.extend(fault.parts());
        let lasts_ms = match fault {
            Fault::SessionLost(_) => SESSION_LOST_MS,
            _ => dice.u64(1_000..6_000),
        };
        let at_ms = dice.u64(0..=ROUND.as_millis() as u64 - lasts_ms.max(6_000));
        let ms = Duration::from_millis;
        steps.push(Step { fault, at: ms(at_ms), lasts: ms(lasts_ms) });
    }
    kinds.extend(postponed);
    let node = dice.usize(..NODES);
    let then = match draw(destroys, &[0, 1, 2], dice) {
        Some(0) => Destroys::DiskEmptied(node),
        Some(1) => Destroys::BytesFlipped { node, seed: dice.u64(..) },
        _ => Destroys::ServerReplaced(node),
    };
    Round { change: None, steps, then }
}

/// Draws from a bag, which is filled again when it is empty: so each comes as often as any other.
fn draw<T: Copy>(bag: &mut Vec<T>, all: &[T], dice: &mut fastrand::Rng) -> Option<T> {
    if bag.is_empty() {
        bag.extend_from_slice(all);
        dice.shuffle(bag);
    }
    bag.pop()
}

fn fault(kind: &str, dice: &mut fastrand::Rng) -> Fault {
    let mode = |mode, dice: &mut fastrand::Rng| Fault::Proxy(link(dice), mode);
    match kind {
        "kill" => Fault::Kill(any_part(dice)),
        "freeze" => Fault::Freeze(any_part(dice)),
        "polite restart" => Fault::PoliteRestart(any_part(dice)),
        "refuse" => mode(Mode::Refuse, dice),
        "black hole" => mode(Mode::BlackHole, dice),
        "delay" => {
            let ms = dice.u64(20..600);
            mode(Mode::Delay { ms }, dice)
        }
        "slow" => {
            let bytes_per_second = dice.u64(500..50_000);
            mode(Mode::Slow { bytes_per_second }, dice)
        }
        "cut" => mode(Mode::Cut, dice),
        "reset" => mode(Mode::Reset, dice),
        "Redis emptied" => {
            Fault::RedisEmptied(if dice.bool() { (0..PAIR).collect() } else { vec![dice.usize(..PAIR)] })
        }
        "quorum lost" => Fault::QuorumLost { stays: dice.usize(..ZOOKEEPERS) },
        "session lost" => Fault::SessionLost(of_ours(dice)),
        "clock offset" => {
            let seconds = dice.i64(1..400) * if dice.bool() { 1 } else { -1 };
            let of = if dice.u8(..3) > 0 {
                Part::Coordinator(dice.usize(..PAIR))
            } else {
                Part::Node(dice.usize(..NODES))
            };
            Fault::ClockOffset { of, seconds }
        }
        "shard disabled" => Fault::ShardDisabled(dice.usize(..SHARDS)),
        _ => Fault::DiskFull(SMALL_DISKS[dice.usize(..SMALL_DISKS.len())]),
    }
}

fn any_part(dice: &mut fastrand::Rng) -> Part {
    match dice.u8(..12) {
        0..6 => of_ours(dice),
        6..8 => Part::Redis(dice.usize(..PAIR)),
        8..11 => Part::ZooKeeper(dice.usize(..ZOOKEEPERS)),
        _ => Part::Nginx,
    }
}

fn of_ours(dice: &mut fastrand::Rng) -> Part {
    match dice.u8(..4) {
        0 => Part::Coordinator(dice.usize(..PAIR)),
        1 => Part::Replicator(dice.usize(..PAIR)),
        _ => Part::Node(dice.usize(..NODES)),
    }
}

fn link(dice: &mut fastrand::Rng) -> Link {
    match dice.u8(..8) {
        0 | 1 => Link::Clients(dice.usize(..PAIR)),
        2..5 => Link::Node(dice.usize(..NODES)),
        5 | 6 => Link::Redis(dice.usize(..PAIR)),
        _ => Link::ZooKeeper(of_ours(dice)),
    }
}

impl Fault {
    /// What it has for itself while it lasts.
    pub fn parts(&self) -> BTreeSet<Part> {
        let zookeeper = || (0..ZOOKEEPERS).map(Part::ZooKeeper);
        match self {
            Self::Kill(part) | Self::Freeze(part) | Self::PoliteRestart(part) | Self::SessionLost(part) => {
                BTreeSet::from([*part])
            }
            Self::Proxy(link, _) => BTreeSet::from([link.part()]),
            Self::RedisEmptied(servers) => servers.iter().map(|redis| Part::Redis(*redis)).collect(),
            // An operator's command needs a quorum.
            Self::QuorumLost { .. } | Self::ShardDisabled(_) => zookeeper().collect(),
            Self::ClockOffset { of, .. } => BTreeSet::from([*of]),
            Self::DiskFull(node) => BTreeSet::from([Part::Node(*node)]),
        }
    }

    /// Its kind, for the summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Freeze(_) => "freeze",
            Self::PoliteRestart(_) => "polite restart",
            Self::Proxy(_, mode) => mode.name(),
            Self::RedisEmptied(_) => "Redis emptied",
            Self::QuorumLost { .. } => "quorum lost",
            Self::SessionLost(_) => "session lost",
            Self::ClockOffset { .. } => "clock offset",
            Self::ShardDisabled(_) => "shard disabled",
            Self::DiskFull(_) => "disk full",
        }
    }
}

impl Link {
    /// The process at its end that the others need.
    pub fn part(self) -> Part {
        match self {
            Self::Clients(number) => Part::Coordinator(number),
            Self::Node(number) => Part::Node(number),
            Self::Redis(number) => Part::Redis(number),
            Self::ZooKeeper(part) => part,
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Refuse => "refuse",
            Self::BlackHole => "black hole",
            Self::Delay { .. } => "delay",
            Self::Slow { .. } => "slow",
            Self::Cut => "cut",
            Self::Reset => "reset",
        }
    }
}

impl Destroys {
    /// Its node.
    pub fn node(self) -> usize {
        match self {
            Self::DiskEmptied(node) | Self::BytesFlipped { node, .. } | Self::ServerReplaced(node) => node,
        }
    }

    /// Its kind, for the summary.
    pub fn kind(self) -> &'static str {
        match self {
            Self::DiskEmptied(_) => "disk emptied",
            Self::BytesFlipped { .. } => "bytes flipped",
            Self::ServerReplaced(_) => "server replaced",
        }
    }
}

impl Change {
    /// Its kind, for the summary.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ServerReplaced { runs: true, .. } => "running server replaced",
            Self::ServerReplaced { runs: false, .. } => "server replaced",
            Self::ShardMoved { .. } => "shard moved",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {:.1} s", self.fault, self.lasts.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 30;

    fn steps(plan: &[Round]) -> impl Iterator<Item = &Step> {
        plan.iter().flat_map(|round| &round.steps)
    }

    #[test]
    fn a_seed_has_one_plan_and_others_have_others() {
        assert_eq!(plan(7, LONG), plan(7, LONG));
        assert_ne!(plan(7, LONG), plan(8, LONG));
        assert_eq!(plan(7, LONG)[..3], plan(7, 3), "a longer one begins like a shorter one");
    }

    #[test]
    fn every_kind_occurs() {
        for seed in 0..100 {
            let plan = plan(seed, LONG);
            let kinds: BTreeSet<_> = steps(&plan).map(|step| step.fault.kind()).collect();
            for kind in DRAWN {
                assert!(kinds.contains(kind), "seed {seed} has no {kind}");
            }
            let destroys: BTreeSet<_> = plan.iter().map(|round| round.then.kind()).collect();
            assert_eq!(destroys.len(), 3, "seed {seed}");
            let changes: BTreeSet<_> =
                plan.iter().filter_map(|round| round.change).map(Change::kind).collect();
            assert_eq!(changes.len(), 2, "seed {seed}");
        }
    }

    #[test]
    fn no_two_faults_of_a_round_have_the_same_part_and_all_end_in_time() {
        for seed in 0..100 {
            for round in plan(seed, LONG) {
                let parts: Vec<_> = round.steps.iter().flat_map(|step| step.fault.parts()).collect();
                let distinct: BTreeSet<_> = parts.iter().collect();
                assert_eq!(distinct.len(), parts.len(), "seed {seed}: {:?}", round.steps);
                assert!(round.steps.iter().all(|step| step.at + step.lasts <= ROUND), "seed {seed}");
                assert!(round.then.node() < NODES);
            }
        }
    }

    #[test]
    fn only_small_disks_are_filled() {
        for seed in 0..100 {
            for step in steps(&plan(seed, LONG)) {
                if let Fault::DiskFull(node) = step.fault {
                    assert!(SMALL_DISKS.contains(&node));
                }
            }
        }
    }
}
