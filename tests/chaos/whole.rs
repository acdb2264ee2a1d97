//! Waiting until the cluster says of itself that nothing is missing any more.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    plan::SHARDS,
    rig::{Rig, shard_id},
    support::{
        cluster::ROOT,
        http::Request,
        wait::{Deadline, wait_until},
        znodes::Znodes,
    },
};

/// For all of it; leases, pauses of breakers and backups that come due take up to a minute each.
const WHOLE_WITHIN: Duration = Duration::from_secs(420);
/// A comparison that was asked for is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// Between two looks: each runs a command.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For one answer.
const SOON: Duration = Duration::from_secs(10);

/// What the cluster must have seen to before what it says counts.
#[derive(Debug, Default)]
pub struct Since {
    /// When a Redis server was emptied last: shards compared before that may lack more than they know.
    pub emptied_ms: u64,
    /// Nodes whose files were changed: they must have read everything since. With it, when they had done so before.
    pub flipped: Vec<(usize, Option<u64>)>,
    /// Dead letters that may be: of writes that were never acknowledged. They are taken away, and counted.
    pub discarded: usize,
}

/// Waits until all is whole. Replicators see to that by themselves; after `patience` the operator asks for comparisons, which
/// they otherwise make within minutes. Gives how long it took.
pub fn wait(
    rig: &Rig,
    since: &mut Since,
    patience: Duration,
    acknowledged: impl Fn(&str) -> bool,
) -> Duration {
    let begun = Instant::now();
    let (deadline, mut asked) = (Deadline::within(WHOLE_WITHIN + patience), begun);
    loop {
        let Err(why) = look(rig, since, &acknowledged) else { return begun.elapsed() };
        assert!(!deadline.is_over(), "not whole after {:?}: {why}", begun.elapsed());
        if begun.elapsed() > patience && (asked == begun || asked.elapsed() > ASK_AGAIN_AFTER) {
            println!("        after {:.0} s: {why}; comparing", begun.elapsed().as_secs_f64());
            // It may fail while servers are still away.
            rig.admin.run::<&str>("scrub", []);
            asked = Instant::now();
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until no coordinator has used bytes that it did not write yet. Nobody uploads any more.
pub fn wait_counted(rig: &Rig) {
    let counted = |addr: &String| stats(addr).is_some_and(|stats| stats["uncounted_bytes"] == 0);
    wait_until("used bytes are written", WHOLE_WITHIN, || {
        rig.coordinators.iter().all(|coordinator| counted(&coordinator.addr))
    });
}

/// Waits until every coordinator says in its `/stats` that nothing is missing; it looks at comparisons twice a minute.
pub fn wait_said(rig: &Rig) {
    let none = |addr: &String| {
        stats(addr).is_some_and(|stats| stats["missing_copies"] == 0 && stats["unsure_shards"] == 0)
    };
    wait_until("/stats of coordinators say that nothing is missing", WHOLE_WITHIN, || {
        rig.coordinators.iter().all(|coordinator| none(&coordinator.addr))
    });
}

/// Reads of everything a node has, to be waited for by [`wait`].
pub fn read_everything(rig: &Rig, node: usize, since: &mut Since) {
    let addr = &rig.nodes[node].addr;
    wait_until("a node reads everything it has", WHOLE_WITHIN, || {
        let before = stats(addr).map(|stats| stats["scrub"]["last_ended_ms"].as_u64());
        let begun = Request::new("POST", addr, "/-/scrub/start").within(SOON).send_blocking();
        let begun = begun.is_ok_and(|reply| reply.status == 204);
        if let (true, Some(before)) = (begun, before) {
            since.flipped.push((node, before));
            return true;
        }
        false
    });
}

/// Why it is not.
fn look(rig: &Rig, since: &mut Since, acknowledged: &impl Fn(&str) -> bool) -> Result<(), String> {
    for (name, role) in rig.roles() {
        if let Some(ended) = role.daemon.ended() {
            panic!("{name} ended by itself: {ended:?}\n{}", role.daemon.log());
        }
        let ready = Request::get(&role.addr, "/-/ready").within(SOON).send_blocking();
        let ready = ready.map_err(|error| format!("{name}: {error}"))?;
        require(ready.status == 200, || format!("{name} is not ready: {}", ready.text().trim()))?;
    }
    for coordinator in &rig.coordinators {
        let stats = stats(&coordinator.addr).ok_or("a coordinator gives no stats")?;
        require(stats["map_state"] == "current", || "a coordinator has an old map".to_owned())?;
    }
    read(rig, since)?;
    let said = rig.admin.run("status", ["--json"]);
    let status: Value =
        serde_json::from_str(&said.stdout).map_err(|_| format!("no status: {}", said.stderr))?;
    of_servers(rig, &status)?;
    of_queue(rig, &status, since, acknowledged)?;
    let deficits = status["deficits"].as_object().filter(|deficits| deficits.len() == SHARDS);
    for (shard, deficit) in deficits.ok_or("status says nothing of deficits")? {
        let none = deficit["missing"] == 0
            && deficit["given_up"] == 0
            && deficit["unsure"].as_array().is_some_and(Vec::is_empty);
        require(none, || format!("shard {shard}: {deficit}"))?;
    }
    compared(rig, since)
}

fn of_servers(rig: &Rig, status: &Value) -> Result<(), String> {
    let servers = status["servers"].as_array().filter(|servers| servers.len() == rig.nodes.len());
    for server in servers.ok_or("status says nothing of servers")? {
        let (id, stats) = (&server["id"], &server["stats"]);
        require(server["up"] == true && server["announced"] == true, || format!("server {id} is not there"))?;
        require(stats["damaged"] == 0, || format!("server {id} has damaged blobs: {}", damaged(rig, id)))?;
        require(stats["read_only"].is_null(), || format!("server {id}: {}", stats["read_only"]))?;
    }
    Ok(())
}

/// What is damaged there, as far as it says so.
fn damaged(rig: &Rig, id: &Value) -> String {
    let number: Option<usize> = id.as_str().and_then(|id| id.parse().ok());
    let node = number.and_then(|number| rig.nodes.get(number.checked_sub(1)?));
    let said = node
        .and_then(|node| Request::get(&node.addr, "/-/damaged?limit=9").within(SOON).send_blocking().ok());
    said.map_or_else(|| "it does not say which".to_owned(), |said| said.text().trim().to_owned())
}

fn of_queue(
    rig: &Rig,
    status: &Value,
    since: &mut Since,
    acknowledged: &impl Fn(&str) -> bool,
) -> Result<(), String> {
    let queue = &status["queue"];
    require(queue["error"].is_null(), || format!("the queue: {}", queue["error"]))?;
    let servers = queue["servers"].as_array().cloned().unwrap_or_default();
    let up = !servers.is_empty() && servers.iter().all(|server| server["error"].is_null());
    require(up, || format!("a Redis server does not answer: {servers:?}"))?;
    if queue["dead"] != 0 {
        since.discarded += discard(rig, acknowledged);
    }
    require(queue["backlog"] == 0, || format!("{} tasks wait", queue["backlog"]))
}

/// A copy that no server has is given up rightly where its upload was never acknowledged.
fn discard(rig: &Rig, acknowledged: &impl Fn(&str) -> bool) -> usize {
    let said = rig.admin.run("queue dead", ["--json"]);
    let letters: Vec<Value> = serde_json::from_str(&said.stdout).unwrap_or_default();
    let mut ids = BTreeSet::new();
    for letter in &letters {
        let version = letter["task"]["version"].as_str().unwrap_or_default();
        assert!(!acknowledged(version), "a copy of an acknowledged write was given up: {letter}");
        println!("        given up: {letter}");
        ids.extend(letter["id"].as_str());
    }
    ids.iter().filter(|id| rig.admin.run("queue discard", ["--id", id]).code == 0).count()
}

/// Whether nodes that were damaged have read all they have.
fn read(rig: &Rig, since: &mut Since) -> Result<(), String> {
    while let Some((node, before)) = since.flipped.last() {
        let stats = stats(&rig.nodes[*node].addr).ok_or("a node gives no stats")?;
        let ended = stats["scrub"]["last_ended_ms"].as_u64();
        require(ended > *before, || format!("node {} still reads: {}", node + 1, stats["scrub"]))?;
        since.flipped.pop();
    }
    Ok(())
}

/// Whether each shard was compared since a Redis server was emptied. That it was emptied is noticed a moment later: until then
/// the cluster says that nothing is missing.
fn compared(rig: &Rig, since: &Since) -> Result<(), String> {
    if since.emptied_ms == 0 {
        return Ok(());
    }
    let znodes = Znodes::connect(&rig.zookeepers.addrs());
    for shard in (0..SHARDS).map(shard_id) {
        let record = znodes.get(&format!("{ROOT}/scrub-{shard}")).unwrap_or_default();
        let record: Value = serde_json::from_str(&record).unwrap_or_default();
        let began = record["last"]["began_ms"].as_u64().unwrap_or_default();
        require(began > since.emptied_ms, || {
            format!("shard {shard} was not compared since Redis was emptied")
        })?;
    }
    Ok(())
}

/// `GET /stats`.
pub fn stats(addr: &str) -> Option<Value> {
    let reply = Request::get(addr, "/stats").within(SOON).send_blocking().ok()?;
    serde_json::from_slice(&reply.body).ok()
}

fn require(holds: bool, else_why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(else_why()) }
}
