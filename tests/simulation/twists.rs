//! What some clusters have beside their plan: circumstances in which one mistake shows that others hide. Pure.
//!
//! Drawn apart from the plan, so that a new one changes no story without it.

use std::time::Duration;

use backpack::model::Stage;
use fastrand::Rng;

use super::plan::{Act, Fault, Plan, Step, TROUBLE, Trouble};

/// Makes the numbers of twists others than those of the plan.
const OTHER: u64 = 0x7769_7374;

/// Of so many clusters one has a certain twist.
const EVERY: u8 = 7;

/// Reads of [`lose_sight`].
const LOOKS: usize = 8;

/// Adds the twists of a seed to its plan.
pub fn twist(seed: u64, plan: &mut Plan) {
    let mut rng = Rng::with_seed(seed ^ OTHER);
    let twists = [lose_sight, put_on_its_way, answer_too_early];
    for twist in twists {
        if rng.u8(..EVERY) == 0 {
            twist(&mut rng, plan);
        }
    }
}

fn node(number: usize) -> String {
    format!("node-{}", number + 1)
}

/// What passes between two hosts is troubled.
fn is_between(trouble: &Trouble, one: &str, other: Option<&str>) -> bool {
    match trouble {
        Trouble::Partition(a, b) | Trouble::OneWay(a, b) | Trouble::Held(a, b) | Trouble::Slow(a, b) => {
            [a, b].iter().any(|host| *host == one)
                && other.is_none_or(|other| [a, b].iter().any(|host| *host == other))
        }
        _ => false,
    }
}

/// Nobody makes copies, and a coordinator that is asked for what was acknowledged lately does not reach a server: it may not say
/// that there is nothing.
fn lose_sight(rng: &mut Rng, plan: &mut Plan) {
    let (cut, coordinator) = (node(rng.usize(..plan.servers())), rng.usize(..plan.clocks_ms.len()));
    let host = format!("coordinator-{coordinator}");
    let is_replicator = |host: &str| host.starts_with("replicator");
    plan.faults.retain(|fault| match &fault.trouble {
        Trouble::Crash(host) => !is_replicator(host),
        trouble => !is_between(trouble, &cut, Some(&host)),
    });
    let from = Duration::from_millis(rng.u64(500..3000));
    plan.faults.push(Fault { from, until: TROUBLE, trouble: Trouble::Partition(host, cut) });
    plan.faults.extend((0..plan.replicators).map(|number| {
        let trouble = Trouble::Crash(format!("replicator-{number}"));
        Fault { from: Duration::ZERO, until: TROUBLE, trouble }
    }));
    let look = |rng: &mut Rng| Step {
        pause: Duration::from_millis(rng.u64(100..900)),
        coordinator,
        key: String::new(),
        act: Act::Get { shard: 0 },
        lull: Duration::ZERO,
        of_last: true,
    };
    plan.users.push((0..LOOKS).map(|_| look(rng)).collect());
}

/// A server is on its way into its shard or out of it, and another one of the shard is not reached.
fn put_on_its_way(rng: &mut Rng, plan: &mut Plan) {
    let number = rng.usize(..plan.servers());
    let stage = [Stage::Joining, Stage::Joined, Stage::Leaving, Stage::Left][rng.usize(..4)];
    plan.on_its_way = Some((number, stage));
    let shard = plan.members().into_iter().find(|shard| shard.contains(&number)).unwrap();
    for other in shard.filter(|other| *other != number).map(node) {
        for coordinator in (0..plan.clocks_ms.len()).map(|number| format!("coordinator-{number}")) {
            plan.faults.retain(|fault| !is_between(&fault.trouble, &other, Some(&coordinator)));
            let from = Duration::from_millis(rng.u64(..3000));
            let until = from + Duration::from_millis(rng.u64(500..3000));
            let trouble = Trouble::Partition(coordinator, other.clone());
            plan.faults.push(Fault { from, until, trouble });
        }
    }
}

/// A server says "stored" of uploads whose bytes do not come on. It says nothing false of a body that was sent as a whole, as nothing
/// on the way to it is late.
fn answer_too_early(rng: &mut Rng, plan: &mut Plan) {
    let number = rng.usize(..plan.servers());
    plan.faults.retain(|fault| !is_between(&fault.trouble, &node(number), None));
    plan.faults.push(Fault { from: Duration::ZERO, until: TROUBLE, trouble: Trouble::Hasty(number) });
    for step in plan.users.iter_mut().flatten() {
        if rng.bool() {
            step.lull = Duration::from_millis(rng.u64(300..1500));
        }
    }
}
