//! One run: a cluster, a load, a plan carried out on it, and what must be true in the end.

use std::{
    collections::BTreeMap,
    env, mem, thread,
    time::{Duration, Instant},
};

use crate::{
    change::Underway,
    checker, faults,
    load::Load,
    plan::{Change, Destroys, Fault, Round, Step, plan},
    record::{Answer, Asked, Destroyed, Record},
    resources,
    rig::{Rig, shard_id},
    verdict::{self, shards},
    whole::{self, Since},
};

/// Wrong things that are said in full.
const MOST_SHOWN: usize = 20;

/// What a run is.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Makes the plan and the load.
    pub seed: u64,
    /// Rounds of faults.
    pub rounds: usize,
    /// No round begins later than that.
    pub within: Duration,
    /// Machines are changed by the operator's commands meanwhile, which takes minutes.
    pub changes: bool,
    /// In the end the cluster becomes whole by itself; after so long it is helped by asking for comparisons.
    pub patience: Duration,
    /// The command that runs the same, but for the seed.
    pub repeat: &'static str,
}

/// Before something is destroyed nobody waits for what happens within minutes by itself.
const NO_PATIENCE: Duration = Duration::from_secs(10);

/// Rounds of faults that a change of machines sees. Then it has peace: what is destroyed waits for it.
const ROUNDS_OF_A_CHANGE: usize = 4;

/// A command that changes machines is killed once; it may have ended before.
const KILLED_WITHIN_SECONDS: u64 = 100;

/// Runs it. Panics with everything that is wrong.
pub fn run(settings: Settings) {
    let repeat = format!("repeat with: BACKPACK_SEED={} {}", settings.seed, settings.repeat);
    println!("seed {}; {repeat}", settings.seed);
    let _say = SayWhenPanicking(repeat);
    let mut rig = Rig::start(settings.changes);
    let quiet = resources::of(&rig);
    let doors = rig.coordinators.iter().map(|role| role.door().addrs()).collect();
    let load = Load::new(settings.seed, doors, rig.front.addr().to_owned());
    let mut run = Run {
        load: &load,
        since: Since::default(),
        destroyed: Vec::new(),
        faults: BTreeMap::new(),
        underway: None,
        dice: fastrand::Rng::with_seed(settings.seed),
    };
    load.run(|| run.carry_out(&mut rig, &plan(settings.seed, settings.rounds), &settings));
    println!("{} no more load; waiting until all is whole", run.stamp());
    let took = run.wait_whole(&rig, settings.patience);
    rig.empty_spare();
    println!("{} whole after {:.0} s; looking at everything", run.stamp(), took.as_secs_f64());
    let (since, faults) = (mem::take(&mut run.since), mem::take(&mut run.faults));
    let destroyed = mem::take(&mut run.destroyed);
    drop(run);
    let record = Record { destroyed, ..load.into_record() };
    let mut wrong = checker::of_what_clients_saw(&record, &shards());
    let (of_cluster, keys) = verdict::of_cluster(&rig, &record);
    whole::wait_said(&rig);
    let (of_resources, used) = resources::verdict(&rig, &quiet);
    wrong.extend(of_cluster.into_iter().chain(of_resources));
    summary(&record, &faults, &since, keys, verdict::blobs(&rig));
    let most = |of: fn(&resources::Use) -> u64| used.iter().map(of).max().unwrap_or_default();
    println!(
        "most memory of a process {} MiB, most open files {}; {} wrong",
        most(|used| used.resident_bytes) >> 20,
        most(|used| used.files as u64),
        wrong.len()
    );
    wrong.iter().take(MOST_SHOWN).for_each(|wrong| println!("WRONG: {wrong}"));
    assert!(wrong.is_empty(), "{} things are wrong, the first: {}", wrong.len(), wrong[0]);
}

struct Run<'a> {
    load: &'a Load,
    since: Since,
    destroyed: Vec<Destroyed>,
    faults: BTreeMap<&'static str, usize>,
    underway: Option<Underway>,
    dice: fastrand::Rng,
}

impl Run<'_> {
    fn carry_out(&mut self, rig: &mut Rig, rounds: &[Round], settings: &Settings) {
        for (number, round) in rounds.iter().enumerate() {
            if self.load.since.now() > settings.within {
                break;
            }
            println!("{} round {}", self.stamp(), number + 1);
            if let Some(change) = round.change.filter(|_| settings.changes && self.underway.is_none()) {
                self.begin_change(rig, change);
            }
            self.round(rig, &round.steps);
            if self.is_changing(rig) {
                continue;
            }
            println!("{} level all only, until all is whole", self.stamp());
            self.load.only_all();
            let took = self.wait_whole(rig, NO_PATIENCE);
            println!("{} whole after {:.0} s; now {:?}", self.stamp(), took.as_secs_f64(), round.then);
            rig.empty_spare();
            match round.then {
                // Nobody reads what has not everything: that it is filled is seen by no client.
                Destroys::ServerReplaced(node) if settings.changes => {
                    self.begin_change(rig, Change::ServerReplaced { node, runs: false });
                }
                then => self.destroy(rig, then),
            }
            self.load.all_levels();
        }
        self.end_change(rig);
    }

    fn destroy(&mut self, rig: &mut Rig, what: Destroys) {
        if let Some(shard) = rig.shard_of(what.node()).map(shard_id) {
            self.destroyed.push(Destroyed { shard, from: self.load.since.now(), until: None });
        }
        faults::destroy(rig, what, &mut self.since);
        *self.faults.entry(what.kind()).or_default() += 1;
    }

    fn begin_change(&mut self, rig: &mut Rig, change: Change) {
        println!("{} {change:?} begins", self.stamp());
        // While it waits, copies or verifies; what was done by then stays.
        let killed_after = Duration::from_secs(self.dice.u64(1..KILLED_WITHIN_SECONDS));
        self.underway = Some(Underway::begin(rig, change, killed_after));
    }

    /// Whether a change of machines goes on and sees another round.
    fn is_changing(&mut self, rig: &mut Rig) -> bool {
        let Some(underway) = &mut self.underway else { return false };
        underway.rounds += 1;
        if underway.rounds < ROUNDS_OF_A_CHANGE && !underway.is_over() {
            return true;
        }
        self.end_change(rig);
        false
    }

    fn end_change(&mut self, rig: &mut Rig) {
        let Some(underway) = self.underway.take() else { return };
        let (change, rounds) = (underway.change, underway.rounds);
        let tries = underway.end(rig);
        *self.faults.entry(change.kind()).or_default() += 1;
        println!("{} {change:?} is done, at try {tries}, after {rounds} rounds", self.stamp());
    }

    /// Begins and ends each step at its time.
    fn round(&mut self, rig: &Rig, steps: &[Step]) {
        let mut events: Vec<(Duration, bool, &Step)> = Vec::new();
        for step in steps {
            events.push((step.at, true, step));
            events.push((step.at + step.lasts, false, step));
        }
        events.sort_by_key(|(at, begins, _)| (*at, *begins));
        let (begun, mut not_here) = (Instant::now(), Vec::new());
        for (at, begins, step) in events {
            // The plan's time, not a wait for anything.
            thread::sleep(at.saturating_sub(begun.elapsed()));
            if !begins {
                if !not_here.contains(&step) {
                    faults::end(rig, &step.fault);
                }
                println!("{}   ended {:?}", self.stamp(), step.fault);
            } else if self.underway.is_some() && matches!(step.fault, Fault::QuorumLost { .. }) {
                // Nobody can say within which time a coordinator then sees a new map.
                not_here.push(step);
                println!("{}   not while machines are changed: {step}", self.stamp());
            } else if faults::begin(rig, &step.fault, &mut self.since) {
                *self.faults.entry(step.fault.kind()).or_default() += 1;
                println!("{}   {step}", self.stamp());
            } else {
                not_here.push(step);
                println!("{}   not possible on this machine: {step}", self.stamp());
            }
        }
    }

    fn wait_whole(&mut self, rig: &Rig, patience: Duration) -> Duration {
        let load = self.load;
        let took = whole::wait(rig, &mut self.since, patience, |version| load.has_acknowledged(version));
        let now = load.since.now();
        for destroyed in &mut self.destroyed {
            destroyed.until.get_or_insert(now);
        }
        took
    }

    fn stamp(&self) -> String {
        format!("{:7.1}", self.load.since.now().as_secs_f64())
    }
}

fn summary(record: &Record, faults: &BTreeMap<&str, usize>, since: &Since, keys: usize, blobs: u64) {
    let mut answers = BTreeMap::<String, usize>::new();
    for op in &record.ops {
        let asked = match &op.asked {
            Asked::Put { .. } => "put",
            Asked::Delete { .. } => "delete",
            Asked::Get { .. } => "get",
        };
        let answer = match &op.answer {
            Answer::Done { .. } | Answer::Found { .. } => "done".to_owned(),
            Answer::Gone { .. } => "410".to_owned(),
            Answer::Missing => "404".to_owned(),
            Answer::Refused { status, .. } => status.to_string(),
            Answer::Broken(why) => why.clone(),
        };
        *answers.entry(format!("{asked}: {answer}")).or_default() += 1;
    }
    println!("{} operations: {answers:?}", record.ops.len());
    println!("{} faults: {faults:?}", faults.values().sum::<usize>());
    println!(
        "{keys} keys, {blobs} copies looked at; {} dead letters of unacknowledged writes",
        since.discarded
    );
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(underway) = &self.underway {
            underway.abandon();
        }
    }
}

struct SayWhenPanicking(String);

impl Drop for SayWhenPanicking {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("FAILED; {}", self.0);
        }
    }
}

/// A number from the environment.
pub fn from_env(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
