//! One simulation from its seed to its verdict.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use backpack::queue::{Filter, Queue};
use futures_util::FutureExt;
use turmoil::{Builder, Sim};

use super::{
    check::check,
    cluster::Cluster,
    machine,
    plan::{Fault, Mood, Plan, Trouble},
    trace::Trace,
    users::{self, Record},
};

/// What passes in one step of the simulation, at least.
const TICK: Duration = Duration::from_millis(20);

/// What a message takes on a network that is well.
const LATENCY: Duration = Duration::from_millis(15);

/// What a message takes on a slow one.
const SLOW: Duration = Duration::from_millis(600);

/// Everything comes to an end within this time after it was mended: longer than the longest pause of a breaker.
const QUIET_WITHIN: Duration = Duration::from_secs(400);

/// More commits at once than there are uploads.
const COMMITS: usize = 1000;

/// What came of a seed.
pub struct Verdict {
    pub trace: Trace,
    /// What is not as promised.
    pub wrong: Vec<String>,
}

/// Simulates a seed. To be called on a new thread.
pub fn simulate(seed: u64) -> Verdict {
    machine::begin(seed);
    let (plan, trace) = (Plan::of(seed), Trace::default());
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::MAX)
        .epoch(std::time::UNIX_EPOCH + machine::EPOCH)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .tcp_capacity(1024)
        .build();
    let cluster = Cluster::start(&plan, &mut sim, trace.clone());
    let record = Record::default();
    let users = plan.users.clone().into_iter().enumerate();
    let users: Vec<_> =
        users.map(|(user, steps)| users::behave(user, steps, cluster.clone(), record.clone())).collect();
    sim.client("users", async move {
        futures_util::future::join_all(users).await;
        Ok(())
    });
    let mut wrong = Vec::new();
    if let Err(why) = live(&mut sim, &cluster, &plan) {
        wrong.push(why);
    }
    wrong.extend(check(&cluster, &record.lock()));
    for letter in cluster.queue.dead(&Filter::default(), usize::MAX).now_or_never().unwrap().unwrap() {
        trace.note(format_args!("dead letter: {} {}", letter.reason, letter.raw));
        if letter.reason.is_empty() {
            wrong.push(format!("a dead letter without a reason: {}", letter.raw));
        }
    }
    Verdict { trace, wrong }
}

/// Lets time go on while things go wrong, mends them, and waits until nothing is left to do.
fn live(sim: &mut Sim<'_>, cluster: &Cluster, plan: &Plan) -> Result<(), String> {
    let mut events: Vec<(Duration, bool, &Fault)> = plan
        .faults
        .iter()
        .flat_map(|fault| [(fault.from, true, fault), (fault.until, false, fault)])
        .collect();
    events.sort_by_key(|(at, ..)| *at);
    for (at, begins, fault) in events {
        while sim.elapsed() < at {
            step(sim)?;
        }
        let word = if begins { "begins" } else { "ends" };
        cluster.trace.note(format_args!("{:?} {word}", fault.trouble));
        if begins { begin(sim, cluster, &fault.trouble) } else { end(sim, cluster, &fault.trouble) }
    }
    let mended = sim.elapsed();
    while !(step(sim)? && is_idle(cluster)) {
        if sim.elapsed() > mended + QUIET_WITHIN {
            let left = cluster.queue.list(&Filter::default(), 10).now_or_never().unwrap().unwrap();
            return Err(format!("it does not come to an end: {left:?}"));
        }
    }
    cluster.trace.note("quiet");
    Ok(())
}

/// One tick. Whether all users are done.
fn step(sim: &mut Sim<'_>) -> Result<bool, String> {
    machine::set_elapsed(sim.elapsed());
    sim.step().map_err(|error| format!("a host failed: {error}"))
}

fn is_idle(cluster: &Cluster) -> bool {
    cluster.queue.list(&Filter::default(), 1).now_or_never().unwrap().unwrap().is_empty()
}

fn begin(sim: &mut Sim<'_>, cluster: &Cluster, trouble: &Trouble) {
    match trouble {
        Trouble::Partition(a, b) => sim.partition(a.as_str(), b.as_str()),
        Trouble::OneWay(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
        Trouble::Held(a, b) => sim.hold(a.as_str(), b.as_str()),
        Trouble::Slow(a, b) => sim.set_link_latency(a.as_str(), b.as_str(), SLOW),
        Trouble::Crash(host) => sim.crash(host.as_str()),
        Trouble::Queue(which, mood) => cluster.set_mood(which, *mood),
        Trouble::Full(disk) => cluster.disks[*disk].full.store(true, SeqCst),
        Trouble::Hasty(node) => cluster.hasty[*node].store(true, SeqCst),
        // Those that wait have theirs already, or get one at the end.
        Trouble::Hung(disk) => drop(cluster.disks[*disk].commits.forget_permits(COMMITS)),
    }
}

fn end(sim: &mut Sim<'_>, cluster: &Cluster, trouble: &Trouble) {
    match trouble {
        Trouble::Partition(a, b) => sim.repair(a.as_str(), b.as_str()),
        Trouble::OneWay(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
        Trouble::Held(a, b) => sim.release(a.as_str(), b.as_str()),
        Trouble::Slow(a, b) => sim.set_link_latency(a.as_str(), b.as_str(), LATENCY),
        Trouble::Crash(host) => sim.bounce(host.as_str()),
        Trouble::Queue(which, _) => cluster.set_mood(which, Mood::Well),
        Trouble::Full(disk) => cluster.disks[*disk].full.store(false, SeqCst),
        Trouble::Hasty(node) => cluster.hasty[*node].store(false, SeqCst),
        Trouble::Hung(disk) => cluster.disks[*disk].commits.add_permits(COMMITS),
    }
}
