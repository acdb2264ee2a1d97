//! Where an upload goes: which shard, and which of its servers first. Pure decisions; what is known of servers and
//! usage comes in as functions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::model::{ClusterMap, PoolName, Server, ServerId, Shard, ShardId};

/// Why no shard can take an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoShard {
    /// No shard of the pool takes uploads at all.
    NoneWritable,
    /// Some do, but none has room for this blob.
    NoRoom,
    /// Some have room, but too many servers of each are down, or it was tried.
    AllDown,
}

/// Of so few shards all are looked at. Of more only as many as it takes to meet a good one: thousands of shards would
/// otherwise cost each upload milliseconds.
const FEW_SHARDS: usize = 64;

/// Shards that are looked at by chance before all are. Where nine of ten are refused, a good one is met all the same, but once
/// in a million times.
const LOOKS: usize = 128;

/// Chooses a shard by chance, weighted by its free ratio (1 - used/capacity), among the writable shards of the pool
/// that have room for `need` bytes, were not tried and have enough servers that answer.
///
/// `used` gives a shard's used bytes, what is reserved included; `answers` says whether enough of its servers do.
/// `random` is in `0.0..1.0`.
pub fn choose_shard(
    map: &ClusterMap,
    pool: &PoolName,
    need: u64,
    tried: &HashSet<ShardId>,
    used: impl Fn(&Shard) -> u64,
    answers: impl Fn(&Shard) -> bool,
    random: f64,
) -> Result<Arc<Shard>, NoShard> {
    let shards = map.writable(pool);
    let weight = |shard: &Shard| free_ratio(shard, need, used(shard));
    let usable = |shard: &Shard| !tried.contains(&shard.id) && answers(shard);
    if shards.len() <= FEW_SHARDS {
        return choose_of_all(shards, weight, usable, random);
    }
    // One that is met is taken with the probability of its free ratio, so that its chance is the same as among all.
    let mut chance = fastrand::Rng::with_seed(random.to_bits());
    let met = (0..LOOKS).find_map(|_| {
        let shard = &shards[chance.usize(..shards.len())];
        let taken = chance.f64();
        (weight(shard).is_some_and(|weight| taken < weight) && usable(shard)).then_some(shard)
    });
    met.map_or_else(|| choose_of_all(shards, weight, usable, chance.f64()), |shard| Ok(Arc::clone(shard)))
}

/// The same by looking at all of them.
fn choose_of_all(
    shards: &[Arc<Shard>],
    weight: impl Fn(&Shard) -> Option<f64>,
    usable: impl Fn(&Shard) -> bool,
    random: f64,
) -> Result<Arc<Shard>, NoShard> {
    let mut why = NoShard::NoneWritable;
    let mut total = 0.0;
    let mut candidates = Vec::new();
    for shard in shards {
        match weight(shard) {
            None => why = worse(why, NoShard::NoRoom),
            Some(_) if !usable(shard) => why = NoShard::AllDown,
            Some(weight) => {
                total += weight;
                candidates.push((total, shard));
            }
        }
    }
    let point = random.clamp(0.0, 1.0) * total;
    let chosen = candidates.iter().find(|(up_to, _)| point < *up_to).or(candidates.last());
    chosen.map(|(_, shard)| Arc::clone(shard)).ok_or(why)
}

/// The weight of a shard, `None` where it has no room. An empty blob still needs a shard that is not full.
fn free_ratio(shard: &Shard, need: u64, used: u64) -> Option<f64> {
    let capacity = shard.size?.capacity;
    let free = capacity.checked_sub(used).filter(|free| *free > 0 && *free >= need)?;
    Some(free as f64 / capacity as f64)
}

/// "All down" says more than "no room", which says more than "none writable".
fn worse(before: NoShard, now: NoShard) -> NoShard {
    if before == NoShard::AllDown { before } else { now }
}

/// What placement wants to know about a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// It failed lately, and its pause is not over.
    pub down: bool,
    /// It announced itself once and does not any more.
    pub gone: bool,
    /// This upload would have to be spooled for it.
    pub spool: bool,
    /// Requests on their way to it.
    pub in_flight: usize,
    /// What it lately took to store a blob; zero where nothing is known.
    pub answers_within: Duration,
}

/// A server is slow that takes so many times as long as the fastest of its shard.
const SLOW_FACTOR: u32 = 8;

/// However fast the fastest is, less than this is not slow: a disk that syncs takes some tens of milliseconds.
const NEVER_SLOW: Duration = Duration::from_millis(100);

/// The servers of a shard, the best first: those that answer, of these those that are not on their way in or out of the shard, then
/// those that are not slow, then those with the fewest requests in flight; equals in random order. Servers that are down come
/// last: when all else failed they are still worth a try.
pub fn order_servers(
    map: &ClusterMap,
    shard: &Shard,
    standing: impl Fn(&ServerId) -> Standing,
    mut random: impl FnMut() -> u64,
) -> Vec<Arc<Server>> {
    let mut servers: Vec<_> =
        map.servers_of(shard).map(|server| (standing(&server.id), random(), Arc::clone(server))).collect();
    let answering = servers.iter().filter(|(standing, ..)| !standing.down && !standing.gone);
    let fastest = answering.map(|(standing, ..)| standing.answers_within).min().unwrap_or_default();
    let slow = NEVER_SLOW.max(fastest * SLOW_FACTOR);
    servers.sort_by_key(|(standing, random, server)| {
        let Standing { down, gone, spool, in_flight, answers_within } = *standing;
        let on_its_way = !shard.is_first(&server.id);
        (down, gone, on_its_way, spool, answers_within > slow, in_flight, *random)
    });
    servers.into_iter().map(|(.., server)| server).collect()
}

/// Whether an upload to so many servers of a shard may go to this one. One that is on its way in or out of the shard never has an
/// upload alone: it is not read, or will not be.
pub fn may_take(shard: &Shard, server: &ServerId, needed: usize) -> bool {
    needed > 1 || shard.is_first(server)
}

/// Those of the servers of a shard, in their order, that an upload to `needed` of them may go to.
pub fn candidates(shard: &Shard, mut servers: Vec<Arc<Server>>, needed: usize) -> Vec<Arc<Server>> {
    servers.retain(|server| may_take(shard, &server.id, needed));
    servers
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::model::{Stage, map::ShardSize};

    fn map(shards: &[(&str, u64, u64, bool)]) -> ClusterMap {
        let mut map = ClusterMap::default();
        for (id, capacity, used, read_only) in shards {
            let server: ServerId = format!("s{id}").parse().unwrap();
            map.servers
                .insert(server.clone(), Arc::new(Server { id: server.clone(), host: "h".into(), port: 1 }));
            let shard = Shard {
                id: id.parse().unwrap(),
                servers: vec![server],
                stages: Default::default(),
                read_only: *read_only,
                pool: PoolName::default(),
                size: Some(ShardSize { capacity: *capacity, used: *used }),
            };
            map.shards.insert(shard.id.clone(), Arc::new(shard));
        }
        map
    }

    fn choose(map: &ClusterMap, need: u64, random: f64) -> Result<String, NoShard> {
        let used = |shard: &Shard| shard.size.unwrap().used;
        let chosen = choose_shard(map, &PoolName::default(), need, &HashSet::new(), used, |_| true, random);
        chosen.map(|shard| shard.id.to_string())
    }

    #[test]
    fn the_chance_of_a_shard_is_its_free_ratio() {
        let map = map(&[("1", 100, 0, false), ("2", 1000, 750, false), ("3", 100, 25, false)]);
        let mut counts = [0; 3];
        for step in 0..2000 {
            let id: usize = choose(&map, 1, f64::from(step) / 2000.0).unwrap().parse().unwrap();
            counts[id - 1] += 1;
        }
        assert_eq!(counts, [1000, 250, 750]);
    }

    #[test]
    fn the_chance_is_the_same_among_many_of_which_few_are_looked_at() {
        let shards: Vec<(String, u64)> = (0..1000).map(|id: u64| (id.to_string(), (id % 4) * 250)).collect();
        let shards: Vec<_> = shards.iter().map(|(id, used)| (&**id, 1000, *used, false)).collect();
        let map = map(&shards);
        let looked = Cell::new(0);
        let used = |shard: &Shard| {
            looked.set(looked.get() + 1);
            shard.size.unwrap().used
        };
        // Every other one of those with most room is down.
        let answers = |shard: &Shard| shard.id.as_str().parse::<u64>().unwrap() % 8 != 0;
        let mut counts = [0.0; 4];
        let mut chance = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let (pool, tried) = (PoolName::default(), HashSet::new());
            let chosen = choose_shard(&map, &pool, 1, &tried, used, answers, chance.f64()).unwrap();
            counts[chosen.id.as_str().parse::<usize>().unwrap() % 4] += 1.0;
        }
        let share: [f64; 4] = counts.map(|count| count / 20_000.0);
        // Weights: 125 of 1, 250 each of 3/4, 1/2 and 1/4.
        let of = 125.0 + 187.5 + 125.0 + 62.5;
        for (share, weight) in share.into_iter().zip([125.0, 187.5, 125.0, 62.5]) {
            assert!((share - weight / of).abs() < 0.02, "{share} is not {}", weight / of);
        }
        assert!(looked.get() < 20_000 * 4, "{} looks", looked.get());
    }

    #[test]
    fn the_only_good_one_of_many_is_found() {
        let shards: Vec<String> = (0..1000).map(|id| id.to_string()).collect();
        let map = map(&shards.iter().map(|id| (&**id, 100, 0, false)).collect::<Vec<_>>());
        let (pool, tried, used) = (PoolName::default(), HashSet::new(), |_: &Shard| 0);
        let only = |shard: &Shard| shard.id.as_str() == "777";
        for step in 0..100 {
            let chosen = choose_shard(&map, &pool, 1, &tried, used, only, f64::from(step) / 100.0).unwrap();
            assert_eq!(chosen.id.as_str(), "777");
        }
        assert_eq!(choose_shard(&map, &pool, 1, &tried, used, |_| false, 0.5), Err(NoShard::AllDown));
        assert_eq!(choose_shard(&map, &pool, 101, &tried, used, only, 0.5), Err(NoShard::NoRoom));
    }

    #[test]
    fn a_blob_that_does_not_fit_goes_elsewhere() {
        let map = map(&[("1", 100, 60, false), ("2", 1000, 0, false)]);
        for step in 0..10 {
            assert_eq!(choose(&map, 50, f64::from(step) / 10.0).unwrap(), "2");
        }
        assert_eq!(choose(&map, 5000, 0.5), Err(NoShard::NoRoom));
    }

    #[test]
    fn says_why_there_is_none() {
        assert_eq!(choose(&map(&[]), 1, 0.5), Err(NoShard::NoneWritable));
        assert_eq!(choose(&map(&[("1", 100, 0, true)]), 1, 0.5), Err(NoShard::NoneWritable));
        assert_eq!(choose(&map(&[("1", 100, 99, false)]), 2, 0.5), Err(NoShard::NoRoom));
        let one = map(&[("1", 100, 0, false)]);
        let used = |_: &Shard| 0;
        let down = choose_shard(&one, &PoolName::default(), 1, &HashSet::new(), used, |_| false, 0.5);
        assert_eq!(down, Err(NoShard::AllDown));
        let tried = HashSet::from(["1".parse().unwrap()]);
        let none = choose_shard(&one, &PoolName::default(), 1, &tried, used, |_| true, 0.5);
        assert_eq!(none, Err(NoShard::AllDown));
        let other_pool: PoolName = "x".parse().unwrap();
        let none = choose_shard(&one, &other_pool, 1, &HashSet::new(), used, |_| true, 0.5);
        assert_eq!(none, Err(NoShard::NoneWritable));
    }

    #[test]
    fn reserved_bytes_count_as_used() {
        let one = map(&[("1", 100, 0, false)]);
        let full = choose_shard(&one, &PoolName::default(), 10, &HashSet::new(), |_| 95, |_| true, 0.5);
        assert_eq!(full, Err(NoShard::NoRoom));
    }

    /// The servers a to d in the order of how they stand.
    fn order(standing: impl Fn(&str) -> Standing) -> Vec<String> {
        let mut map = map(&[("1", 100, 0, false)]);
        let names = ["a", "b", "c", "d"];
        for name in names {
            let id: ServerId = name.parse().unwrap();
            map.servers.insert(id.clone(), Arc::new(Server { id, host: "h".into(), port: 1 }));
        }
        let mut shard = (**map.shards.values().next().unwrap()).clone();
        shard.servers = names.iter().map(|name| name.parse().unwrap()).collect();
        let order = order_servers(&map, &shard, |id| standing(id.as_str()), || 0);
        order.iter().map(|server| server.id.to_string()).collect()
    }

    #[test]
    fn servers_that_answer_and_have_little_to_do_come_first() {
        let order = order(|id| match id {
            "a" => Standing { down: true, ..Standing::default() },
            "b" => Standing { in_flight: 2, ..Standing::default() },
            "c" => Standing { gone: true, ..Standing::default() },
            _ => Standing { in_flight: 1, ..Standing::default() },
        });
        assert_eq!(order, ["d", "b", "c", "a"]);
    }

    #[test]
    fn a_slow_server_comes_after_those_that_have_more_to_do_and_before_one_that_is_down() {
        let takes = |ms| Standing { answers_within: Duration::from_millis(ms), ..Standing::default() };
        let beside = |fastest_ms| {
            order(|id| match id {
                "a" => Standing { down: true, ..takes(1) },
                "b" => takes(900),
                "c" => Standing { in_flight: 9, ..takes(fastest_ms) },
                _ => Standing { in_flight: 1, ..takes(fastest_ms + 20) },
            })
        };
        assert_eq!(beside(5), ["d", "c", "b", "a"]);
        assert_eq!(beside(120), ["b", "d", "c", "a"], "all of them take long");
    }

    #[test]
    fn a_server_on_its_way_has_no_upload_alone() {
        let ids: Vec<ServerId> = ["1", "2", "3"].map(|id| id.parse().unwrap()).into();
        let servers: Vec<_> =
            ids.iter().map(|id| Arc::new(Server { id: id.clone(), host: "h".into(), port: 1 })).collect();
        for stage in [Stage::Joining, Stage::Joined, Stage::Leaving, Stage::Left] {
            let shard = Shard {
                id: "s".parse().unwrap(),
                servers: ids.clone(),
                stages: [(ids[0].clone(), stage)].into(),
                read_only: false,
                pool: PoolName::default(),
                size: None,
            };
            let map = ClusterMap {
                servers: servers.iter().map(|server| (server.id.clone(), server.clone())).collect(),
                ..ClusterMap::default()
            };
            let order = |needed| -> Vec<String> {
                let standing = |id: &ServerId| Standing { down: id.as_str() == "3", ..Standing::default() };
                let candidates = candidates(&shard, order_servers(&map, &shard, standing, || 0), needed);
                candidates.iter().map(|server| server.id.to_string()).collect()
            };
            assert_eq!(order(1), ["2", "3"]);
            assert_eq!(order(2), ["2", "1", "3"], "one that is down is worse");
        }
    }
}
